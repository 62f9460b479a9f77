"""The router's endpoints, one file per kind."""
