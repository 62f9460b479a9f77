"""What stands in for engines: pools of KV, prefill and decode workers, and the links between them."""
