"""A model that likes white space more than anything else still ends its JSON answer."""

import json
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.support.engines import MODELS_DIR

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["box", "pen"]},
        "of": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
    },
    "required": ["name", "of"],
    "additionalProperties": False,
}
LEGACY = {"type": "structural_tag", "structures": [{"begin": "<call>", "schema": SCHEMA, "end": "</call>"}]}
TAG = LEGACY | {"triggers": ["<call>"]}


@pytest.fixture(scope="module")
def backend() -> Any:
    import xgrammar
    from sglang.srt.constrained.xgrammar_backend import XGrammarGrammarBackend

    tokenizer = AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))

    class Vocabulary:
        def init_xgrammar(self) -> Any:
            return info, None

    return XGrammarGrammarBackend(Vocabulary(), vocab_size=info.vocab_size)


def follow(backend: Any, kind: str, text: str, wanted: list[bytes], num_tokens: int) -> bytes:
    """What a model writes that prefers the first of the `wanted` tokens that may follow, and else a short one."""
    from xgrammar import allocate_token_bitmask

    from sglang_patches.engine.xgrammar import XGrammarGrammar

    made = getattr(backend, f"dispatch_{kind}")(text)
    grammar = XGrammarGrammar(made.matcher, made.vocab_size, made.ctx, None, text, made.grammar_stats)
    vocabulary, stops = made.ctx.tokenizer_info.decoded_vocab, set(made.ctx.tokenizer_info.stop_token_ids)
    mask, written = allocate_token_bitmask(1, made.vocab_size), b""
    for _ in range(num_tokens):
        mask.fill_(-1)
        grammar.fill_vocab_mask(mask, 0)
        may = np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")[: made.vocab_size])
        best = min(
            may, key=lambda token: (_rank(vocabulary[token], wanted), token not in stops, len(vocabulary[token]))
        )
        grammar.accept_token(int(best))
        if best in stops:
            return written
        written += vocabulary[best]
    return written


def _rank(text: bytes, wanted: list[bytes]) -> int:
    return wanted.index(text) if text in wanted else len(wanted)


@pytest.mark.parametrize("space", [b" ", b"\n"])
def test_a_json_answer_ends(backend: Any, space: bytes) -> None:
    written = follow(backend, "json", json.dumps(SCHEMA), [space], 120)
    assert set(json.loads(written)) == {"name", "of"}
    assert written.startswith(b"{" + 16 * space)


def test_the_arguments_of_a_call_end_and_free_text_is_free(backend: Any) -> None:
    free = follow(backend, "structural_tag", json.dumps(TAG), [b"\n"], 60)
    assert free == 60 * b"\n"
    forced = json.dumps(TAG | {"at_least_one": True})
    written = follow(backend, "structural_tag", forced, [b" "], 200)
    # Behind the call there is free text again.
    assert set(json.loads(written.removeprefix(b"<call>").partition(b"</call>")[0])) == {"name", "of"}


def test_what_is_inside_of_a_text_is_its_writers(backend: Any) -> None:
    assert follow(backend, "json", json.dumps({"type": "string"}), [b" "], 100) == b'"' + 99 * b" "


def test_a_pattern_is_followed_as_it_is(backend: Any) -> None:
    assert follow(backend, "regex", "( |\\n)*a", [b"\n"], 100) == 100 * b"\n"
