"""Data of a fine-tuning run: rows, mapped to chats, tokenised with the base's template; nothing left out silently."""
