"""What an engine counts and tells of itself: requests, hits, KV memory, spans."""
