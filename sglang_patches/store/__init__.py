"""An engine's host tier, and its place at the store of base KV that all engines of a deployment share."""
