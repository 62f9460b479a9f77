"""A text that cannot fit the context is refused before it is tokenised.

The HTTP process tokenises on its event loop. Ten megabytes take it half a minute, in which nobody else is served and
health checks fail; only then is the prompt found too long. But a token stands for so many bytes of text at most, so the
length of a text tells how many tokens it has at least. The tokenizer of this process looks at that first; a ValueError
is answered with 400. ``engine/tokenizer_manager`` guards it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NORMALIZED_SHARE = 4
"""A normalizer may shorten a text (composed letters take fewer bytes), but not to less than a quarter."""


def guard(tokenizer: Any, context_length: int) -> None:
    """Let `tokenizer` refuse texts of certainly more than `context_length` tokens.

    Effects: only for tokenizers of the Rust library, whose longest token is known.
    Raises: the tokenizer then raises ValueError saying how long the text is and what fits.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    token_bytes = max(len(token.encode()) for token in tokenizer.get_vocab())
    max_bytes = context_length * token_bytes * (NORMALIZED_SHARE if backend.normalizer else 1)
    # Calls, encodings and chat templates all come through here.
    original = tokenizer._encode_plus

    def encode_plus(text: Any, *args: Any, **kwargs: Any) -> Any:
        for part in _texts(text):
            # The first test is cheap, and spares the second one a copy of what is far too long.
            if len(part) > max_bytes or len(part.encode(errors="replace")) > max_bytes:
                raise ValueError(
                    f"the prompt has {len(part)} characters, which are more than the {context_length} tokens that this "
                    "model's context takes: shorten it"
                )
        return original(text, *args, **kwargs)

    tokenizer._encode_plus = encode_plus


def _texts(text: Any) -> Iterable[str]:
    return (text,) if isinstance(text, str) else (part for part in text or () if isinstance(part, str))
