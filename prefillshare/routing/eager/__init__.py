"""Before anybody asks: the base's KV of an answer, made while the session thinks, and its push to the next module.

`answers.EagerAnswers` is what the calls tell of their beginnings and ends; `job` is what it then does.
"""
