"""What an answer shall follow: grammars and their trials, stop patterns, seeds."""
