"""What an infinite prefix cache would have done with the same prompts: the ideal that hit ratios are held against."""

from collections.abc import Sequence
from itertools import pairwise

from prefillshare.bench.records import CallRecord
from prefillshare.bench.workloads.base import Workload

_ROOT = 0


class PrefixTree:
    """All prefixes that were put in, each with its first owner."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}
        self._owners: list[str] = [""]

    def __len__(self) -> int:
        """Tokens that are held: each distinct prefix is one."""
        return len(self._owners) - 1

    def known(self, tokens: Sequence[int]) -> list[int]:
        """Nodes of the longest prefix of `tokens` that was put in, one per token."""
        node, found = _ROOT, []
        for token in tokens:
            child = self._children.get((node, token))
            if child is None:
                break
            found.append(child)
            node = child
        return found

    def put(self, tokens: Sequence[int], owner: str) -> None:
        """Put all prefixes of `tokens` in; those that are new belong to `owner`."""
        node = _ROOT
        for token in tokens:
            child = self._children.get((node, token))
            if child is None:
                child = len(self._owners)
                self._children[node, token] = child
                self._owners.append(owner)
            node = child

    def owner(self, node: int) -> str:
        """Who put a node in first."""
        return self._owners[node]


class Accounting:
    """Goes through the calls of a run in the order in which they were sent."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        """Tokens of all prompts."""
        self.shared_tokens = 0
        """Of these, tokens that a shared cache without limits holds."""
        self.own_tokens = 0
        """Of these, tokens that caches per module without limits hold, generated tokens included."""
        self.known_tokens = 0
        """Of these, tokens that a shared cache without limits holds, generated tokens included: all that was read or
        written before."""
        self.cross_tokens = 0
        """Of the tokens that were cached in fact, those first prefilled for another module."""
        self._shared = PrefixTree()
        self._written = PrefixTree()
        self._own: dict[str, PrefixTree] = {}

    @property
    def unique_tokens(self) -> int:
        """Distinct prefixes of all prompts: what has to be computed at least."""
        return len(self._shared)

    @property
    def new_tokens(self) -> int:
        """Prompt tokens that nobody can have computed before their call: no prompt and no answer had them."""
        return self.prompt_tokens - self.known_tokens

    def add(self, module: str, prompt: Sequence[int], output: Sequence[int], cached_tokens: int | None) -> None:
        """Take one call in. At most n-1 tokens of a prompt can be cached: y_1 needs x_n."""
        limit = len(prompt) - 1
        known, own = self._shared.known(prompt), self._own.setdefault(module, PrefixTree())
        self.prompt_tokens += len(prompt)
        self.shared_tokens += min(len(known), limit)
        self.own_tokens += min(len(own.known(prompt)), limit)
        self.known_tokens += min(len(self._written.known(prompt)), limit)
        for node in known[: min(cached_tokens or 0, limit)]:
            self.cross_tokens += self._shared.owner(node) != module
        self._shared.put(prompt, module)
        # SGLang keeps generated tokens under the module's name; with the overlap schedule, even the last one's KV.
        own.put([*prompt, *output], module)
        self._written.put([*prompt, *output], module)


def account(workload: Workload, calls: Sequence[CallRecord]) -> Accounting:
    """The accounting of a run."""
    accounting = Accounting()
    for call, prompt in sorted(zip(calls, prompts_of(workload, calls), strict=True), key=lambda pair: pair[0].due_s):
        if call.error is None:
            accounting.add(call.module, prompt, call.output, call.cached_tokens)
    return accounting


def prompts_of(workload: Workload, calls: Sequence[CallRecord]) -> list[list[int]]:
    """The prompts of the calls, put together again from the workload and the answers before them."""
    outputs = {(call.session, call.step): call.output for call in calls}
    return [_prompt(workload, call, outputs) for call in calls]


def _prompt(workload: Workload, call: CallRecord, outputs: dict[tuple[int, int], list[int]]) -> list[int]:
    steps = workload.sessions[call.session].steps[: call.step + 1]
    tokens = list(steps[0].added)
    for number, (_, after) in enumerate(pairwise(steps)):
        tokens += outputs[call.session, number]
        tokens += after.added
    return [*tokens, *steps[-1].role]
