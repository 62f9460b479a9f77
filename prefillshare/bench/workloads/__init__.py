"""What is asked: sessions of calls, the same for every system and every repeat.

`base` has the contract, each other file one kind of workload, `factory` makes one by name.
"""
