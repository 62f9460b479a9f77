"""What roles that follow the load are worth: the router's own code and policy over simulated workers."""
