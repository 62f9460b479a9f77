"""Accuracy of cache-conditioned modules beside ordinary fine-tuning and naive sharing, on the tiny family."""
