"""Decode modules of 2-bit codebook weights, served as they are (docs/codebook.md)."""
