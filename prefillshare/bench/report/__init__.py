"""What people read: one table, plots, and an HTML page that holds everything."""
