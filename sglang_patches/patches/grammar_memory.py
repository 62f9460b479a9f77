"""The oldest grammars are forgotten.

Target: ``sglang.srt.constrained.base_grammar_backend.BaseGrammarBackend.set_cache``, and the class ``GrammarCompiler``
    as ``sglang.srt.constrained.xgrammar_backend`` sees it
Why: each grammar ever asked for stays in memory, in the backend and in the library's compiler.
How: the first is a method patch: every backend inherits it, and with a reasoning parser the outer one has a cache of
    its own. The second is given its limit, which SGLang leaves out.
Remove when: upstream bounds its caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.constrained.base_grammar_backend import BaseGrammarBackend, BaseGrammarObject
    from xgrammar import GrammarCompiler

MAX_GRAMMARS = 256
CACHE_BYTES = 256 << 20

SetCache = Callable[["BaseGrammarBackend", tuple[str, str], "BaseGrammarObject"], None]


@wraps_upstream(
    "constrained.base_grammar_backend:BaseGrammarBackend.set_cache",
    "84932b527abd0ee5",
    "every grammar ever asked for would stay in memory",
)
def wrap_set_cache(original: SetCache) -> SetCache:
    def set_cache(self: BaseGrammarBackend, key: tuple[str, str], value: BaseGrammarObject) -> None:
        original(self, key, value)
        while len(self.cache) > MAX_GRAMMARS:
            del self.cache[next(iter(self.cache))]

    return set_cache


@wraps_upstream(
    "constrained.xgrammar_backend:GrammarCompiler",
    "a523bc4e371b91a3",
    "every grammar ever asked for would stay in memory",
)
def bound_compiler(original: type[GrammarCompiler]) -> Callable[..., GrammarCompiler]:
    """Makes compilers whose own cache does not grow for ever."""

    def make_compiler(*args: Any, **kwargs: Any) -> GrammarCompiler:
        return original(*args, **{"cache_limit_bytes": CACHE_BYTES} | kwargs)

    return make_compiler
