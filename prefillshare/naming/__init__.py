"""Which module a name means: pure, the same at router and engine."""
