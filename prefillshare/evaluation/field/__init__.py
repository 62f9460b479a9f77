"""The field's suites: GSM8K, GSM+, HumanEval, the Berkeley Function Calling Leaderboard."""
