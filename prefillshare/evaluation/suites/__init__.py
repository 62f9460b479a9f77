"""What can be asked: the field's suites (GSM8K, GSM+, HumanEval, HumanEval+, BFCL) and the tiny family's own.

`registry` finds a suite by its name; `problem_file` is what the suites that are read from a file share.
"""
