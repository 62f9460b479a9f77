"""What this machine has for serving: memory, ports, compilers, the environment of processes, folders for logs."""
