"""Decode modules that compute their prompts themselves (`share = false`): adapters that were trained the ordinary way,
or for any sharing ratio.

They answer as they were trained to, since no KV of theirs is anybody else's, and share nothing.
"""

import hashlib
from pathlib import Path

from prefillshare.errors import ModuleError
from prefillshare.modules.adapter_files import WEIGHTS_NAME
from prefillshare.modules.manifest import ModuleManifest

_NAMES_OF_WEIGHTS = ("adapter_config.json", WEIGHTS_NAME)

COST = "its prompts are not shared (share = false)"
"""What every list of modules says of such a module."""


def refuse_trained_to_share(manifest: ModuleManifest | None, name: str) -> None:
    """Raise ModuleError for a module that was trained over the prefill module's KV, and would not find it."""
    if manifest is not None and not manifest.answers_alone:
        raise ModuleError(
            f"decode module {name!r} has share = false and was trained over the prefill module's KV (objective "
            f"{manifest.objective!r}), without which it answers badly: remove share = false"
        )


def adapter_kv_sha256(path: Path) -> str:
    """Return the hash of all that decides which KV the adapter in `path` makes on its prefill module.

    Effects: reads it whole.
    """
    digest = hashlib.sha256()
    for name in _NAMES_OF_WEIGHTS:
        with (path / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
