"""A family that grows, beside modules trained alone and one module trained on everything, on the tiny base."""
