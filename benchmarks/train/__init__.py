"""Cost of cache-conditioned fine-tuning beside ordinary fine-tuning of the same model on the same data."""
