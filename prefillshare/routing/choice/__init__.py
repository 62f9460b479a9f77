"""Which workers take a call, and when: queues, policies, and what is known of who holds which prefix."""
