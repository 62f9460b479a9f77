"""Whose prefill a request has found in the tree.

What a choice (:mod:`sglang_patches.choosing`) has computed just before, for this very request, is no hit: the request
takes it over, as if it had computed it.
"""

from __future__ import annotations

from typing import Any

from sglang_patches.choosing.marks import origin_of
from sglang_patches.observed.call_report import note


class Hits:
    """The cached tokens of one request's prompt, by who had them computed."""

    def __init__(self, req: Any) -> None:
        state = req.prefillshare
        self._own: str | None = state.origin
        self._of_choice = None if state.chosen_by is None else origin_of(state.chosen_by)
        self.num_own = self.num_cross = self.num_of_choice = 0

    def count(self, origin: str | None, num_tokens: int) -> str | None:
        """Count tokens of one origin; who they belong to from now on."""
        if self._of_choice is not None and origin == self._of_choice:
            self.num_of_choice += num_tokens
            return self._own
        if origin == self._own:
            self.num_own += num_tokens
        else:
            self.num_cross += num_tokens
        return origin

    def report(self, req: Any) -> None:
        """Note them on the request; what SGLang counts as cached is what was there before the choice, too."""
        note(req, own_hit_tokens=self.num_own, cross_hit_tokens=self.num_cross)
        if self.num_of_choice:
            req.cached_tokens -= self.num_of_choice
            req.cached_tokens_device = max(0, req.cached_tokens_device - self.num_of_choice)
            note(req, choice_tokens=self.num_of_choice)
