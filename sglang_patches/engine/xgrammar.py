"""A grammar whose next token takes too long to follow ends its own call, and white space in JSON comes to an end.

Target: ``sglang.srt.constrained.xgrammar_backend.XGrammarGrammar``
Why: a grammar whose every token takes longer than the one before holds up all calls of a batch, since it is followed
    between two of their steps. And a model that likes white space fills a JSON answer with it up to the limit.
How: the time for the mask and that for the token are taken together; beyond ``STEP_SECONDS`` the token is refused.
    Tensor-parallel ranks must agree on who ends, and their clocks do not, so there only the trial before the call
    (:mod:`sglang_patches.answers.trial`) looks at times. ``engine/batch_result_processor`` tells the reason. After a
    long run of white space the mask leaves it out (:mod:`sglang_patches.answers.white_space`).
Remove when: upstream bounds what one token may take, and white space.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from sglang.srt.constrained import xgrammar_backend as upstream
from sglang.srt.runtime_context import get_server_args

from sglang_patches.answers.white_space import LONGEST_RUN, LONGEST_RUN_AFTER, WhiteSpace
from sglang_patches.declarations import binds, overrides

if TYPE_CHECKING:
    from torch import Tensor

STEP_SECONDS = 0.2
"""Twice what a trial allows, of processor time: a busy machine ends nobody's call."""

_OF_JSON = ("json", "structural_tag")
"""Kinds of grammars; what a pattern says of white space is its author's."""


@binds("constrained.xgrammar_backend:XGrammarGrammar")
class XGrammarGrammar(upstream.XGrammarGrammar):
    """Follows an answer, and knows why it cannot any longer."""

    prefillshare_end: str | None = None
    """Why the answer ends here."""
    _white_space: ClassVar[WhiteSpace | None] = None
    """Read once: an engine has one tokenizer."""
    _longest_run = LONGEST_RUN
    _mask_seconds = 0.0
    """What the mask for the next token took of this thread's time: the backend's other threads compile meanwhile."""

    @overrides("df27a6836c85a27c", "a grammar could hold up every call of a batch")
    def fill_vocab_mask(self, vocab_mask: Tensor, idx: int) -> None:
        began = time.thread_time()
        super().fill_vocab_mask(vocab_mask, idx)
        self._end_white_space(vocab_mask[idx])
        self._mask_seconds = time.thread_time() - began

    @overrides("dbf4eb2cd5fb65ee", "a grammar could hold up every call of a batch")
    def accept_token(self, token: int) -> None:
        began = time.thread_time()
        try:
            super().accept_token(token)
        except ValueError:
            self.prefillshare_end = f"no token satisfies it after {len(self.accepted_tokens)} tokens of the answer"
            raise
        seconds = time.thread_time() - began + self._mask_seconds
        if seconds > STEP_SECONDS and get_server_args().tp_size == 1:
            self.prefillshare_end = f"it is ambiguous: following one token took {seconds:.1f} s"
            raise ValueError(self.prefillshare_end)

    def _end_white_space(self, row: Tensor) -> None:
        stats = self.grammar_stats
        if stats is None or stats.dispatch_type not in _OF_JSON or len(self.accepted_tokens) < self._longest_run:
            return
        white_space = self._known_white_space()
        if white_space.has_run(self.accepted_tokens, self._longest_run):
            white_space.take_out(row)
            self._longest_run = LONGEST_RUN_AFTER

    def _known_white_space(self) -> WhiteSpace:
        if XGrammarGrammar._white_space is None:
            XGrammarGrammar._white_space = WhiteSpace(self.ctx.tokenizer_info.decoded_vocab)
        return XGrammarGrammar._white_space
