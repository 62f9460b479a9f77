"""What of the engine's HTTP server is ours: names, routes, bodies, errors, connections."""
