"""The models that are measured: a base and any number of decode modules over it.

`base` has the contract, `tiny` the family that comes along, `random` those that are made on the spot, `given` any
deployment file; `factory` makes one by name.
"""
