"""Symbols are cut out of a file's text as the parser sees it."""

import ast

import pytest

from sglang_patches.fingerprint import cut_out, parse

TEXT = '''"""Umlauts (äöü), form feeds\x0c and other separators\x1c\u2028 stand in strings and comments."""
größe = "ä"; width = 3

class Outer:
    """Zürich."""

    def inner(self):  # \x0b vertical
        return "é", 1

    @property
    def last(self): return "ß"
'''


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["größe", "width", "Outer", "Outer.inner", "Outer.last"])
def test_a_symbol_is_cut_out_as_by_ast(name: str, end: str) -> None:
    text = TEXT.replace("\n", end)
    found = cut_out(parse(text), name)
    assert found is not None
    node, segment = found
    assert segment == ast.get_source_segment(text, node)
    assert name.rpartition(".")[2] in segment


def test_what_is_not_there_is_not_cut_out() -> None:
    parsed = parse("import os\n\ndef a(): pass")
    assert cut_out(parsed, "b") is None
    found = cut_out(parsed, "a")
    assert found is not None
    assert found[1] == "def a(): pass"
