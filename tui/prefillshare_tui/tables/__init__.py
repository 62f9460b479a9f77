"""What the tables show, computed without Textual: one file per table."""
