"""Who made this KV, and for whom: a pair of workers that do not belong together is refused.

A prefill worker's bootstrap server publishes its :class:`KvIdentity` at ``/prefillshare``; a decode worker compares it
with its own before the first hand-off from that address, and again after the prefill worker was away.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.contract import FINGERPRINT_VARIABLE
from prefillshare.modules.fingerprint import geometry, tokenizer_sha256
from sglang_patches.disaggregation.peers import own_headers

if TYPE_CHECKING:
    from aiohttp import web

ROUTE = "/prefillshare"
TIMEOUT_S = 5.0

Ask = Callable[[str], "tuple[int, str]"]
"""GET: URL -> status and body; raises OSError when nobody answers."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KvIdentity:
    """Everything that must be equal on both sides for KV to mean the same."""

    worker: str
    """The worker's model name, for people; not compared."""
    prefill_module: str
    """Fingerprint of the prefill module: its weights, geometry, tokenizer and chat template."""
    geometry: str
    """Layers, KV heads, head size and RoPE of the model that this worker runs, as canonical JSON."""
    tokenizer: str
    """Hash of the tokenizer that this worker runs."""
    dtype: str
    """Weights and activations."""
    kv_cache_dtype: str
    """What the KV is stored as; ``auto`` follows ``dtype``."""
    page_size: int
    """Tokens per page of KV."""


NAMES = {
    "prefill_module": "prefill module",
    "geometry": "geometry",
    "tokenizer": "tokenizer",
    "dtype": "dtype",
    "kv_cache_dtype": "KV dtype",
    "page_size": "page size",
}
"""Compared fields in the order in which the first difference is told."""


@cache
def own_identity() -> KvIdentity:
    """This worker's identity, from its settings and the files of its model."""
    from sglang.srt.runtime_context import get_server_args

    # Once for each process: what the weights are was computed by the launcher, which hands it along; hashing them here
    # would hold up the first call.
    args = get_server_args()
    model = Path(args.model_path)
    return KvIdentity(
        worker=args.served_model_name,
        prefill_module=os.environ[FINGERPRINT_VARIABLE],
        geometry=json.dumps(geometry(model), sort_keys=True),
        tokenizer=tokenizer_sha256(Path(args.tokenizer_path or model)),
        dtype=str(args.dtype),
        kv_cache_dtype=str(args.kv_cache_dtype),
        page_size=args.page_size,
    )


def refusal(address: str, ask: Ask | None = None) -> str | None:
    """Why KV from the prefill worker at ``address`` must not be decoded here, or None.

    Raises: OSError when nobody answers there yet.
    """
    own = own_identity()
    status, body = (ask or _get)(f"http://{address}{ROUTE}")
    try:
        theirs = KvIdentity(**json.loads(body))
    except (ValueError, TypeError):
        return (
            f"the prefill worker at {address} does not say which prefill module it holds (status {status}), and decode "
            f"worker {own.worker!r} takes KV of {own.prefill_module[:19]}... only: start it with prefillshare"
        )
    return difference(own, theirs, address)


def difference(own: KvIdentity, theirs: KvIdentity, address: str) -> str | None:
    """One sentence that names both sides and the first field that differs, or None."""
    for field, name in NAMES.items():
        here, there = getattr(own, field), getattr(theirs, field)
        if here != there:
            return (
                f"decode worker {own.worker!r} needs {name} {_shorten(here)}, but prefill worker {theirs.worker!r} at "
                f"{address} has {_shorten(there)}: pair workers of one deployment only"
            )
    return None


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 and not text.startswith("sha256:") else f"{text[:19]}..."


def _get(url: str) -> tuple[int, str]:
    import requests

    reply = requests.get(url, headers=own_headers(), timeout=TIMEOUT_S)
    return reply.status_code, reply.text


async def answer_with_identity(request: web.Request) -> web.Response:
    """The handler of ``ROUTE`` on a prefill worker's bootstrap server."""
    from aiohttp import web

    return web.json_response(dataclasses.asdict(own_identity()))
