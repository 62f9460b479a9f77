"""Problem suites, judges, the HTTP driver and the comparison table of the tiny family."""
