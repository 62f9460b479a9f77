"""Texts that cannot fit the context are refused by their length, and none that could fit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sglang_patches.checks.prompt_size import guard
from tests.support.engines import MODELS_DIR

CONTEXT = 16


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")


@pytest.fixture(scope="module")
def guarded():
    found = AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")
    guard(found, CONTEXT)
    return found


PIECES = st.lists(st.sampled_from(["<|im_start|>", "<|endoftext|>", " multiplies", "parameters", "é", "漢", "a", "\n"]))


@given(st.one_of(PIECES.map("".join), st.text(max_size=600)))
@settings(max_examples=300, deadline=None)
def test_a_text_is_refused_only_if_it_cannot_fit(tokenizer, guarded, text: str) -> None:
    tokens = tokenizer.encode(text)
    if len(tokens) <= CONTEXT:
        assert guarded.encode(text) == tokens
        assert guarded([text, text]).input_ids == [tokens, tokens]


def test_what_cannot_fit_is_refused_by_every_way_into_the_tokenizer(guarded) -> None:
    text = "word " * 100
    for call in (guarded.encode, guarded, guarded.tokenize, lambda one: guarded(["short", one])):
        with pytest.raises(ValueError, match=r"500 characters.*16 tokens.*shorten it"):
            call(text)


def test_a_text_of_long_tokens_may_use_the_whole_context(tokenizer, guarded) -> None:
    text = "<|endoftext|>" * CONTEXT
    assert guarded.encode(text) == tokenizer.encode(text)
