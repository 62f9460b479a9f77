"""Builds the tiny family: data, tokenizer, base, modules; each step is skipped when its result is there."""
