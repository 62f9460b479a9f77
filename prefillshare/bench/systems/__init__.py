"""Who answers: PrefillShare in both topologies, what a user would run otherwise, or any server that runs already.

`base` has the contract, each other file one kind of system, `factory` makes one by name.
"""
