"""The classifiers of an engine's aliases, read when it begins; one that comes later is read by who changes aliases."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.heads import has_classifier, read_again, tell_left_out
from sglang_patches.http.model_names import aliases_of, served_names, set_aliases

if TYPE_CHECKING:
    from sglang_patches.engine.tokenizer_manager import TokenizerManager


def read_classifiers(manager: TokenizerManager) -> None:
    """Let every alias have its classifier; without one that cannot be read, an engine that begins again still serves.

    Effects: changes the aliases; tells people of those that are left out.
    """
    aliases = aliases_of(manager)
    if not any(map(has_classifier, aliases.values())):
        return
    fingerprint = prefill_fingerprint(Path(manager.server_args.model_path))
    _, modules = served_names(manager)
    set_aliases(manager, read_again(aliases, fingerprint, modules, partial(tell_left_out, manager.observer.events)))
