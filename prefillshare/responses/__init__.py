"""The state behind `/v1/responses`: what was answered, kept within limits, the same at the router and at an engine."""
