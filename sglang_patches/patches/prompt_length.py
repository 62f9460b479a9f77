"""A prompt that the KV cache cannot take is refused with what does help.

Target: ``validate_input_length`` as ``sglang.srt.managers.scheduler`` sees it
Why: upstream's advice is ``--allow-auto-truncate``, which cuts the end of a prompt, the question, when its hand-off
    boundary is fixed already: shared prefill refuses it (``checks/settings.py``). And it calls a length allowed that it
    refuses.
How: the same test, another sentence.
Remove when: upstream names the largest length that it takes, and no flag.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

Validate = Callable[["Req", int, bool], str | None]


@wraps_upstream(
    "managers.scheduler:validate_input_length",
    "e9c413155bfc98a8",
    "whose prompt is too long would be told of a flag that is refused",
)
def wrap_validate_input_length(original: Validate) -> Validate:
    def validate_input_length(req: Req, max_req_input_len: int, allow_auto_truncate: bool) -> str | None:
        if original(req, max_req_input_len, allow_auto_truncate) is None:
            return None
        length, longest = len(req.origin_input_ids), max_req_input_len - 1
        return (
            f"the prompt has {length} tokens and the KV cache takes prompts of {longest} at most: shorten it, or let "
            "the server be started with a larger max_total_tokens or context_length"
        )

    return validate_input_length
