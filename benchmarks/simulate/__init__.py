"""Simulated beside measured: the same workload on the tiny deployment and on a model of it."""
