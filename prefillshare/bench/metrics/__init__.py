"""What a run came to: latencies, throughput, and how often a prompt token was computed."""
