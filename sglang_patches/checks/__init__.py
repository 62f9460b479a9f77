"""Calls, adapters and settings that are refused before anything works on them."""
