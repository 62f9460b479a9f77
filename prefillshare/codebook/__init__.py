"""Weights of about two bits: codes into small codebooks, multiplied without being expanded.

`shape.py` says what a codebook weight is, `reference.py` computes with it in plain torch; `packed.py` lays it out for
the kernels of `kernels/`, between which `product.py` chooses; `checkpoint.py` is how a module of them lies on disk,
`section.py` what its config.json says.
Source: arXiv 2512.17970 (CodeGEMM); the Psumbook is its word for the inner products of a piece of input with all
entries of a codebook.
"""
