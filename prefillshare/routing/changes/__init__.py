"""Modules and aliases that change while the router serves."""
