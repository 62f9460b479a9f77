"""Tenants: who may call, how much, and what keeps their caches, sessions and responses apart.

The same at the router and at an engine: both know a tenant by its key, and put its mark on what goes further.
"""
