"""The CUDA devices of this machine, asked of the driver without importing torch, or those of a machine to plan for.

`gpus()` is what this process may use; `assumed_gpus` reads the text of `launch --assume-gpus`.
"""

import ctypes
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from prefillshare.errors import ConfigError

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
_UNITS = {"m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_ASSUMED = 1024
_ASSUMED = re.compile(r"(?:(?P<count>\d{1,9})\s*[x*]\s*)?(?P<size>\d{1,9}(?:\.\d{1,9})?)\s*(?P<unit>[mgt])i?b?", re.I)
_EXAMPLE = "write one such as 8x80GB, or 2x24GB,1x80GB for cards of different sizes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One CUDA device."""

    name: str
    """Name as the driver says it."""
    memory_bytes: int
    """Total memory."""
    label: str | None = None
    """What CUDA_VISIBLE_DEVICES calls it: an index, a UUID or a MIG instance; None where that is not set."""


@cache
def gpus() -> tuple[Gpu, ...]:
    """Return the CUDA devices that this process may use (CUDA_VISIBLE_DEVICES is respected); empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return _labelled([_gpu(driver, index) for index in range(count.value)], visible_devices() or ())


def visible_devices() -> tuple[str, ...] | None:
    """Return the entries of CUDA_VISIBLE_DEVICES; None where it is not set."""
    text = os.environ.get(VISIBLE_VARIABLE)
    return None if text is None else tuple(entry.strip() for entry in text.split(",") if entry.strip())


def assumed_gpus(text: str) -> tuple[Gpu, ...]:
    """Return the devices that `text`, such as 8x80GB, describes, less those that CUDA_VISIBLE_DEVICES hides.

    Raises: ConfigError when it describes none.
    """
    found = [gpu for part in text.split(",") for gpu in _assumed_part(part.strip(), text)]
    if len(found) > _MAX_ASSUMED:
        raise ConfigError(f"--assume-gpus {text} means {len(found)} GPUs: one machine has at most {_MAX_ASSUMED}")
    visible = visible_devices()
    if visible is None:
        return tuple(found)
    seen = _as_cuda_sees(found, visible)
    if not seen:
        raise ConfigError(
            f"{VISIBLE_VARIABLE}={','.join(visible)!r} hides all {len(found)} assumed GPUs: unset it, or name some of "
            f"0 to {len(found) - 1}"
        )
    return seen


def _assumed_part(part: str, text: str) -> list[Gpu]:
    match = _ASSUMED.fullmatch(part)
    count = int(match["count"] or 1) if match else 0
    memory_bytes = int(float(match["size"]) * _UNITS[match["unit"].lower()]) if match else 0
    if not match or not count or not memory_bytes:
        raise ConfigError(f"--assume-gpus {text!r} does not say how many GPUs of which memory: {_EXAMPLE}")
    if count > _MAX_ASSUMED:
        raise ConfigError(f"--assume-gpus {text} means {count} GPUs: one machine has at most {_MAX_ASSUMED}")
    return [Gpu(name=f"assumed GPU of {part.split('x')[-1].strip()}", memory_bytes=memory_bytes)] * count


def _as_cuda_sees(found: Sequence[Gpu], visible: Sequence[str]) -> tuple[Gpu, ...]:
    """CUDA takes entries up to the first that names nothing, and uses one MIG instance per process."""
    seen: list[Gpu] = []
    for number, entry in enumerate(visible):
        if entry.startswith("MIG-"):
            return (*seen, replace(found[0], label=entry)) if not seen else tuple(seen)
        # Nobody knows which assumed card has a UUID, so they are taken in turn.
        index = int(entry) if entry.isdecimal() else number if entry.startswith("GPU-") else len(found)
        if index >= len(found):
            break
        seen.append(replace(found[index], label=entry))
    return tuple(seen)


def _labelled(found: Sequence[Gpu], visible: Sequence[str]) -> tuple[Gpu, ...]:
    labels = [*visible, *([None] * len(found))]
    return tuple(replace(gpu, label=label) for gpu, label in zip(found, labels, strict=False))


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, name, size = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    return Gpu(name=name.value.decode(errors="replace"), memory_bytes=size.value)
