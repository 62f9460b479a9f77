"""The tiny family that ships with the repository: its language, its recipe, and the build that makes its models.

`language` holds problems, corpus and tokenizer, each a deterministic function of a seed; `recipe` says what to make;
`build` makes it (`prefillshare models build tiny`); `answers` asks the finished modules in process.
"""
