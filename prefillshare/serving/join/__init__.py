"""One worker or one router of a disaggregated deployment by itself, for deployments over several machines."""
