"""What a classifier chooses, and what choosing costs."""
