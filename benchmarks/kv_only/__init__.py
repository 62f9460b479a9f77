"""What a pass costs of which only KV is wanted."""
