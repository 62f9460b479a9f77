"""Upstream functions, methods and imported names that are wrapped, because no class can be bound in their place."""
