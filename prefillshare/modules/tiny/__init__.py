"""The tiny family: problems, corpus, tokenizer and recipe of the models that ship with the repository.

Everything here is a deterministic function of a seed. Training lives in `prefillshare.training`.
"""
