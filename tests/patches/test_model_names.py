"""Names in "model", and the namespaces of cache salts."""

from itertools import product

import pytest

from prefillshare.wire.namespace import cache_namespace
from sglang_patches.http.model_names import ModelMissingError, resolve_adapter

MODULES = ["math", "tool"]


@pytest.mark.parametrize(
    ("model", "module"),
    [
        ("math", "math"),
        ("tiny-base:tool", "tool"),
        ("tiny-base : tool", "tool"),
        ("tiny-base", None),
    ],
)
def test_a_known_name_selects_its_module(model, module):
    assert resolve_adapter(model, "tiny-base", MODULES) == module


@pytest.mark.parametrize("model", ["nope", "", "Math", "tiny-base:nope", "other:math", "tiny-base:", ":math"])
def test_an_unknown_name_is_refused_with_the_list(model):
    with pytest.raises(LookupError) as error:
        resolve_adapter(model, "tiny-base", MODULES)
    assert str(error.value) == (
        f"model {model!r} does not exist; this server has: math, tool, tiny-base (prefill module)"
    )


def test_no_name_is_a_mistake_of_another_kind():
    with pytest.raises(ModelMissingError, match="model is missing: name one; this server has: math, tool, tiny-base"):
        resolve_adapter("default", "tiny-base", MODULES)
    assert resolve_adapter("default", "tiny-base", ["default"]) == "default"


def test_different_salts_never_give_one_namespace():
    words = ["", "a", "b", "ab", "abc", "bc", "c", '"', '", "', "salt:", '["a", "b"]']
    seen = {}
    for salt, extra in product(words[1:], words):
        seen.setdefault(cache_namespace(salt, extra), set()).add(salt)
    assert all(len(salts) == 1 for salts in seen.values())


def test_without_a_salt_the_extra_key_stays_as_it_is():
    assert cache_namespace(None, "tenant") == "tenant"
    assert cache_namespace("", None) is None
