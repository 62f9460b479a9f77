"""Widgets: they draw what the pure modules computed and do nothing else."""
