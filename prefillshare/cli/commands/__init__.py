"""The commands, one module each; what a command needs besides its options stands beside this folder, by its name."""
