"""What is to run: from a deployment to workers, their GPUs and memory, and their commands. Nothing is started here."""
