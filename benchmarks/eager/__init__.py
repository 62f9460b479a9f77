"""What answers that are computed ahead cost those who do not wait."""
