"""What caches without limits would have held, for every call of a run: the ideals beside which hit ratios stand.

The same accounting as `bench.metrics.prefixes`, on prefixes in place of single tokens: a simulated run has millions.
"""

from prefillshare.simulation.engine.kv_pool import TOKEN_BYTES, KvPool


class Ideals:
    """Goes through the calls in the order in which they were sent."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.shared_tokens = 0
        self.own_tokens = 0
        self._shared = KvPool(0, 1)
        self._own: dict[str, KvPool] = {}

    @property
    def unique_tokens(self) -> int:
        """Distinct prefixes of all prompts: what has to be computed at least."""
        return self._shared.num_cached

    def add(self, module: str, prompt: bytes) -> None:
        """Take one call in; at most n-1 tokens of a prompt can be cached."""
        own = self._own.setdefault(module, KvPool(0, 1))
        num_tokens = len(prompt) // TOKEN_BYTES
        self.prompt_tokens += num_tokens
        self.shared_tokens += min(self._shared.match(prompt)[1], num_tokens - 1)
        self.own_tokens += min(own.match(prompt)[1], num_tokens - 1)
        self._shared.insert(prompt)
        own.insert(prompt)
