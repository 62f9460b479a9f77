"""What the dashboard itself costs, with a large deployment in its feed."""
