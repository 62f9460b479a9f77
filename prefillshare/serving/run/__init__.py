"""What runs: processes started, watched until they answer, looked after, and never left behind."""
