"""Stop patterns match what Python's own engine matches, in time that grows with the text and no faster."""

import re
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_patches.answers.stop_patterns import compile_pattern, search
from sglang_patches.patches.stop_search import LOOK_BACK_TOKENS, LinearSearch, wrap_max_length

PATTERNS = [
    r"(x+x+)+y",
    r"foo$",
    r"^foo",
    r"\d{2,3}",
    r"[^\W_]+",
    r"[^\W\d_]",
    r"[\W_]",
    r"[^\s\d]+x",
    r"(?i)ÀB",
    r"a.c",
    r"(?s)a.c",
    r"(?m)^b$",
    r"\w+é",
    r"a{,3}b",
    r"[]a]",
    r"(?x) a b # c",
    r"(?P<n>ab)+",
    r"\bfoo\b",
    r"\u00e9",
    r"[\S\n]",
    r"a??b",
    r"(?:a|b|)c",
    r"(?a)\w",
    r"\Aab\Z",
    r"[^a]b",
    r"(?-i:a)b",
    r"\.\n\n",
    r"</tool>",
    r"\x41|\$",
]
TEXTS = ["", "foo", "foo\n", "xfoo bar", "abc", "a\nc", "àb x", "12", "a1_", "_", "é", "wé", "aaab", "]", "AB"]
TEXTS += ["a b", "b", "\na", "a\nb\n", "A.\n\n</tool>", "ab", "ab\n", "\u3000x", "٣٤", "\x1c", "\x85", "²", "$"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_python_says(pattern: str) -> None:
    for text in TEXTS:
        assert (search(pattern, text) is not None) == (re.search(pattern, text) is not None), text


ATOMS = st.sampled_from(["a", "b", ".", r"\d", r"\w", r"\s", "[ab]", "[^a]", r"\n", "^", "$", "é", r"\W", r"[^\Wa]"])
GENERATED = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda both: f"(?:{both[0]}|{both[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,3}", "*?"])).map(lambda both: f"(?:{both[0]}){both[1]}"),
    ),
    max_leaves=6,
)


@given(GENERATED, st.text("ab1_é \n", max_size=6))
def test_generated_patterns_mean_what_python_says(pattern: str, text: str) -> None:
    try:
        found = search(pattern, text)
    except re.error:
        return
    # What follows a "$" may match the last newline only there; nothing else may differ.
    if not re.search(r"\$.", pattern):
        assert (found is not None) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(?=a)b", "a look-around"),
        ("(?<!a)b", "a look-around"),
        (r"(a)\1", "a reference to a group"),
        ("(a)?(?(1)b|c)", "a condition on a group"),
        ("a++", "a possessive repetition"),
        ("(?>a)b", "an atomic group"),
        (r"[^\Wa]", "negated set"),
        ("(a{1000}){1000}", "1000 at most"),
        ("a{5000}", "1000 at most"),
        ("(" * 400 + ")" * 400, "nested too deeply"),
        ("a" * 2000, "2000 characters"),
        (r"(\w\w\w\w){200}", ""),
        ("(((", "unterminated subpattern"),
    ],
)
def test_what_cannot_be_matched_in_linear_time_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(re.error) as refusal:
        compile_pattern(pattern)
    assert said in str(refusal.value)


@pytest.mark.parametrize("pattern", ["(x+x+)+y", "(x*)*y", "(x|x)*y", "(.*x){30}y", "(.?){300}y"])
def test_a_text_of_the_longest_look_back_is_searched_at_once(pattern: str) -> None:
    """Python's engine needs longer than the universe is old for the first of them."""
    text = "x" * LOOK_BACK_TOKENS * 4
    began = time.thread_time()
    assert search(pattern, text) is None
    assert time.thread_time() - began < 5


def test_the_look_back_has_an_end() -> None:
    assert wrap_max_length(lambda pattern: 2**80)("a*") == LOOK_BACK_TOKENS
    assert wrap_max_length(lambda pattern: 3)("abc") == 3


def test_half_a_character_is_no_error() -> None:
    assert search("a", "\ud800a") is not None
    with warnings.catch_warnings(record=True):
        assert LinearSearch().search("a", "b") is None
