"""Modules whose KV is all the prefill module's: a second row per request and step, computed with the adapter."""
