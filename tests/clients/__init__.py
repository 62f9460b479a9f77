"""Clients of the registry against both topologies: `make test-clients`, in an environment of their own (`.clients`)."""
