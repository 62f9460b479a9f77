"""What another SGLang would cost: every symbol that the patches know, compared between two releases.

``python -m sglang_patches diff WHEEL_OR_FOLDER``. Reads source text only; neither release is imported.
"""
