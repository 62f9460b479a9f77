"""The most memory that tensors occupy at one time, counted at every operation; for machines without a GPU."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts storages that are made while it is active: activations, KV, temporaries; not weights made before."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._references: dict[int, weakref.ref[Any]] = {}
        self._live = 0
        self.peak = 0
        """Most bytes so far."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in before:
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key = id(storage)
        if key in self._references and self._references[key]() is storage:
            return
        self._sizes[key] = storage.nbytes()
        self._references[key] = weakref.ref(storage, lambda _, key=key: self._drop(key))
        self._live += self._sizes[key]
        self.peak = max(self.peak, self._live)

    def _drop(self, key: int) -> None:
        self._live -= self._sizes.pop(key, 0)
        self._references.pop(key, None)
