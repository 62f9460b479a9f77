"""What the choice of workers costs, without HTTP."""
