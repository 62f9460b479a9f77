"""The command line: one module per command, no logic, heavy imports inside the commands."""
