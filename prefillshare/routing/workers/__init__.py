"""The workers behind the router: what they are, how they are, and how they are talked to."""
