"""What goes over HTTP and is the same at the router and at an engine: texts, bodies, errors. It serves nothing."""
