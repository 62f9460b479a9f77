"""How fast the codec is on this machine: measured once, and remembered among this user's files."""

import contextlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from prefillshare.errors import ConfigError
from prefillshare.places import state_directory
from prefillshare.store.base import Bytes
from prefillshare.store.codec.base import Codec

_FILE = "codec-speed.json"
_PROBE_BYTES = 8 << 20
_PROBES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpeed:
    """Of one thread."""

    encode_bytes_per_s: float
    """Bytes of pages, not of what they become."""
    decode_bytes_per_s: float
    ratio: float
    """Bytes of pages for each encoded byte."""


def measured_speed(codec: Codec) -> CodecSpeed:
    """The codec's speed on this machine: what an earlier process measured here, or a probe of some milliseconds."""
    machine = f"{platform.node()} {platform.machine()} {_cpu_model()} codec {codec.number}"
    known = _read()
    if (found := known.get(machine)) is not None:
        with contextlib.suppress(TypeError):
            return CodecSpeed(**found)
    speed = probe(codec)
    _write({**known, machine: asdict(speed)})
    return speed


def probe(codec: Codec) -> CodecSpeed:
    """Encode and decode a page whose values are spread as those of KV are."""
    values = np.random.Generator(np.random.SFC64(1)).standard_normal(_PROBE_BYTES // 2, dtype=np.float32)
    page = np.ascontiguousarray(values.view("<u2")[1::2]).view(np.uint8)
    stored = codec.encode(page)
    if stored is None:
        return CodecSpeed(encode_bytes_per_s=1.0, decode_bytes_per_s=1.0, ratio=1.0)
    into = np.empty_like(page)
    return CodecSpeed(
        encode_bytes_per_s=len(page) / _least_seconds(lambda: codec.encode(page)),
        decode_bytes_per_s=len(page) / _least_seconds(lambda: codec.decode(stored, into)),
        ratio=len(page) / len(stored),
    )


def _least_seconds(work: Callable[[], Bytes | None]) -> float:
    taken = []
    for _ in range(_PROBES):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return max(min(taken), 1e-9)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _read() -> dict[str, dict[str, float]]:
    try:
        found = json.loads((state_directory() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, ConfigError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(known: dict[str, dict[str, float]]) -> None:
    # Without a place for it, the next process measures again.
    with contextlib.suppress(OSError, ConfigError):
        folder = state_directory()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = folder / f"{_FILE}.{time.time_ns()}"
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(folder / _FILE)
