"""The field's suites, from local files: GSM8K, GSM+ and HumanEval."""
