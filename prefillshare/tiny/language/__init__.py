"""What the tiny family reads and writes: workspaces, tasks about them, conversations, corpus, tokenizer, template.

Everything here is a deterministic function of a seed and needs no torch.
"""
