"""What the router costs: time to the first byte and calls per second, beside direct calls and beside smg.

Run with `python -m benchmarks.router`. Not covered: engines; the workers here answer at once.
"""
