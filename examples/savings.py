"""What sharing saved: the tokens of each call, beside what models that share nothing would have prefilled."""


class Savings:
    """Adds calls up; each call's prompt must continue the one before, answer included."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, int]] = []
        self._seen: dict[str, int] = {}

    def add(self, module: str, prompt_tokens: int, cached_tokens: int | None, completion_tokens: int) -> None:
        """Note a call as its `usage` reports it; `cached_tokens` may be None for zero."""
        # A model that shares nothing holds what it has seen itself: its own last prompt and its answer to it.
        separate = prompt_tokens - self._seen.get(module, 0)
        self._seen[module] = prompt_tokens + completion_tokens
        self.calls.append((module, prompt_tokens, cached_tokens or 0, separate))

    def report(self) -> str:
        """A line per call and the sums."""
        lines = [
            f"{module:<6} {prompt:>5} prompt tokens, {cached:>5} cached" for module, prompt, cached, _ in self.calls
        ]
        prompt, cached, separate = (sum(call[field] for call in self.calls) for field in (1, 2, 3))
        times = f"{separate / (prompt - cached):.1f} times as many"
        return "\n".join(
            [
                *lines,
                f"all    {prompt:>5} prompt tokens, {cached:>5} cached, {prompt - cached} prefilled",
                f"separate models would have prefilled {separate}, {times}",
            ]
        )
