"""What a deployment costs whose newer features are switched off, beside an older commit that lacks them."""
