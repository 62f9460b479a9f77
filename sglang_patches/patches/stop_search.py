"""``stop_regex`` is searched in linear time, over a bounded stretch of the answer.

Target: the module ``re`` as ``sglang.srt.managers.schedule_batch`` sees it, and
    ``sglang.srt.sampling.sampling_params.get_max_seq_length``
Why: the scheduler searches the answer for the pattern after each token, with an engine that tries every way to match:
    ``(x+x+)+y`` doubles its time with each token and holds up every module. A pattern of unbounded length is searched
    in the whole answer, which is decoded again for each token.
How: :mod:`sglang_patches.answers.stop_patterns` searches. No more than ``LOOK_BACK_TOKENS`` of the answer are looked
    at.
Remove when: upstream matches with bounded effort.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

from sglang_patches.answers.stop_patterns import search
from sglang_patches.declarations import wraps_upstream

LOOK_BACK_TOKENS = 2048


@wraps_upstream(
    "managers.schedule_batch:re",
    "66ec018201fb03f1",
    "a stop pattern could double its time with each token, for all calls",
)
class LinearSearch:
    """What the scheduler uses of the module ``re``, in linear time."""

    error = re.error

    def __init__(self, _original: ModuleType | None = None) -> None:
        self.search = search


@wraps_upstream(
    "sampling.sampling_params:get_max_seq_length",
    "84828fb7051efadf",
    "a stop pattern would have the whole answer decoded for each token",
)
def wrap_max_length(original: Callable[[str], int]) -> Callable[[str], int]:
    def get_max_seq_length(regex_str: str) -> int:
        return min(original(regex_str), LOOK_BACK_TOKENS)

    return get_max_seq_length


RELIED_ON = {
    "managers.schedule_batch:Req._check_str_based_finish": ("341196c79cb947d0", "where stop patterns are searched"),
}
