"""Settings that shared prefill cannot serve yet are refused before anything starts.

Target: ``sglang.srt.server_args.ServerArgs.check_server_args``
Why: such a setting would run, and answers would be wrong without an error (:mod:`sglang_patches.checks.settings`).
How: checked after the original; the first refusal ends the process with one sentence. SGLang writes the settings into
    its log then, from which secrets are kept out (:mod:`sglang_patches.checks.secrets`). A method patch: a hundred
    modules import the class, a dataclass that is copied and rebuilt by its name.
Remove when: never; entries go as features are verified.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sglang_patches.checks.secrets import keep_out_of_logs
from sglang_patches.checks.settings import refusals
from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

Check = Callable[["ServerArgs"], None]


@wraps_upstream("server_args:ServerArgs.check_server_args", "1d7d36420d953c33", "unsupported settings would run unseen")
def wrap_check_server_args(original: Check) -> Check:
    def check_server_args(self: ServerArgs) -> None:
        original(self)
        for reason in refusals(self):
            raise SystemExit(f"sglang_patches: {reason}")
        keep_out_of_logs(self)

    return check_server_args
