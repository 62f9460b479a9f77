"""The price of second rows."""
