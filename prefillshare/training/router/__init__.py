"""Classifier heads: which module a prompt is for, learned from the prefill module's hidden states."""
