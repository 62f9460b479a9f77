"""Decode modules that come, change and go while the engine serves."""
