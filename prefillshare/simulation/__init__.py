"""A deployment that is simulated: the router's own code, workers that are a few numbers, and a clock of its own.

What is real: the choice of workers, its policies, session pins, prefix index and queues (`prefillshare.routing`), the
workloads, drivers and records (`prefillshare.bench`). What is modelled: engines and hand-off (`engine`), by the numbers
in a worker model (`model`). Not modelled: HTTP, failures of workers, tokenizing.
"""
