"""What sharing saved: the tokens of each call, beside what models that share nothing would have prefilled.

Like is compared with like: what an earlier run left in the caches counts for both. Of a cold run, separate models begin
cold, too; of a run whose prompts were all asked before, they have theirs, too, and sharing saves nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """Tokens of one call."""

    module: str
    """Decode module."""
    prompt: int
    """Of its prompt."""
    cached: int
    """Of these, tokens that were there."""
    left: int
    """Of these, tokens that no call of this run can have brought: an earlier run left them."""
    separate: int
    """Tokens that a model which shares nothing would have prefilled."""


class Savings:
    """Adds calls up; each call's prompt must continue the one before, answer included."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._longest = 0
        self._left = 0
        self._seen: dict[str, int] = {}

    def add(self, module: str, prompt_tokens: int, cached_tokens: int | None, completion_tokens: int) -> None:
        """Note a call as its `usage` reports it; `cached_tokens` may be None for zero."""
        cached = cached_tokens or 0
        left = max(0, cached - self._longest)
        # All prompts begin alike, so what an earlier run left of one is the beginning of the next ones, too.
        self._left = max(self._left, cached if left else 0)
        # A model that shares nothing holds its own last prompt and its answer to it, or what an earlier run left.
        held = max(self._seen.get(module, 0), self._left)
        self.calls.append(Call(module, prompt_tokens, cached, left, max(0, prompt_tokens - held)))
        self._seen[module] = prompt_tokens + completion_tokens
        self._longest = max(self._longest, prompt_tokens)

    def report(self) -> str:
        """A line per call and the sums."""
        lines = [f"{call.module:<6} {call.prompt:>5} prompt tokens, {call.cached:>5} cached" for call in self.calls]
        prompt, cached, left = (
            sum(getattr(call, name) for call in self.calls) for name in ("prompt", "cached", "left")
        )
        prefilled, separate = prompt - cached, sum(call.separate for call in self.calls)
        times = f", {separate / prefilled:.1f} times as many" if prefilled else ""
        # The first tokens of every chat are the same, whatever was asked before.
        is_warm = left > 0.05 * prompt
        condition = f"with the {left} tokens that an earlier run left," if is_warm else "as cold as this run,"
        return "\n".join(
            [
                *lines,
                f"all    {prompt:>5} prompt tokens, {cached:>5} cached, {prefilled} prefilled",
                f"separate models, {condition} would have prefilled {separate}{times}",
            ]
        )
