"""The store of a deployment: its sizes, what is wrong with them, and the flags of the engines that use it.

Engines and prefill workers get a host tier and the store. Decode workers hold KV of their modules and get no host tier;
those whose module's answers are base-made write them into the store.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.config.store import Store
from prefillshare.contract import (
    FINGERPRINT_VARIABLE,
    STORE_BACKEND_CLASS,
    STORE_BACKEND_MODULE,
    WRITE_BACK_VARIABLE,
)
from prefillshare.errors import ConfigError, StoreError
from prefillshare.extras import require
from prefillshare.modules.deployment import ResolvedDeployment, ResolvedModule
from prefillshare.serving.machine.host import available_memory_bytes
from prefillshare.serving.plan.memory import gib, kv_token_bytes
from prefillshare.serving.plan.workers import Worker, workers_of

if TYPE_CHECKING:
    from prefillshare.store import StoreIdentity, StoreSettings

SHARED_MEMORY = Path("/dev/shm")
MIN_PAGES = 64
"""A store with less room than these keeps nothing long enough to be found."""
_TIMEOUT_BASE_S = 2.0
"""Longest wait for a load, beside a tenth of a second for each thousand tokens; then the rest is prefilled."""
_MAX_NAME = 40
_ROUNDED_BYTES = 256 << 20


def plan_store(deployment: ResolvedDeployment) -> "StoreSettings | None":
    """Return the store of the deployment with all of its sizes; None when it has none.

    Raises: ConfigError when it cannot be had here.
    """
    store = deployment.config.store
    if store is None:
        return None
    require("engine")
    from prefillshare.store import StoreSettings
    from prefillshare.store.folders import memory_room

    _check_codec(deployment, store)
    if store.secret_file is not None:
        _check_secret(store.secret_file)
    memory_bytes = store.memory_bytes or _default_memory_bytes(_num_ranks(deployment))
    name = _make_name(deployment)
    _check_memory(deployment, memory_bytes, memory_room(SHARED_MEMORY, name))
    return StoreSettings(
        name=name,
        directory=store.path,
        memory_bytes=memory_bytes,
        disk_bytes=None if store.path is None else _find_disk_bytes(deployment, store.path, store.disk_bytes),
        keeps_memory_size=store.memory_bytes is None,
        keeps_disk_size=store.disk_bytes is None,
        codec=store.codec,
        threads=store.threads,
        peers=store.peers,
        serve=store.serve,
        secret_file=store.secret_file,
    )


def store_flags(deployment: ResolvedDeployment, worker: Worker, settings: "StoreSettings | None") -> list[str]:
    """Return the flags of `worker` that give it its host tier and the store."""
    store = deployment.config.store
    if store is None or settings is None or worker.role == "decode":
        return []
    backend = {
        "backend_name": "prefillshare",
        "module_path": STORE_BACKEND_MODULE,
        "class_name": STORE_BACKEND_CLASS,
        "interface_v1": 1,
        "prefetch_threshold": deployment.page_size,
        "prefetch_timeout_base": _TIMEOUT_BASE_S,
        "store": _tell(settings),
        # The secret is with the process of the launch, which engines ask.
        "fetches": bool(settings.peers),
    }
    return [
        "--enable-hierarchical-cache",
        "--hicache-ratio",
        str(store.host_ratio),
        "--hicache-write-policy",
        "write_through",
        "--hicache-storage-backend",
        "dynamic",
        "--hicache-storage-prefetch-policy",
        "timeout",
        "--hicache-storage-backend-extra-config",
        json.dumps(backend),
    ]


def without_store(argv: Sequence[str]) -> list[str]:
    """Return a command line without what `store_flags` adds: the store keeps KV of the patched engine only."""
    kept = [word for word in argv if word != "--enable-hierarchical-cache"]
    flags = {index for index, word in enumerate(kept) if word.startswith("--hicache-")}
    return [word for index, word in enumerate(kept) if index not in flags and index - 1 not in flags]


def store_variables(deployment: ResolvedDeployment, worker: Worker, settings: "StoreSettings | None") -> dict[str, str]:
    """Return the variables of `worker` in a deployment with a store: pages are found by the prefill module's
    fingerprint, and a decode worker whose answers go back there is told where."""
    if settings is None:
        return {}
    variables = {FINGERPRINT_VARIABLE: deployment.fingerprint}
    if worker.role == "decode" and any(_reads_base_kv_only(module) for module in worker.adapters):
        told = {"page_size": deployment.page_size, "store": _tell(settings)}
        variables[WRITE_BACK_VARIABLE] = json.dumps(told)
    return variables


def _reads_base_kv_only(module: ResolvedModule) -> bool:
    return module.manifest is not None and module.manifest.kv_rule == "all-base"


def _tell(settings: "StoreSettings") -> dict[str, object]:
    """What an engine is told of the store; the secret of its hosts stays with the launch."""
    return {
        "name": settings.name,
        "memory_bytes": settings.memory_bytes,
        "directory": None if settings.directory is None else str(settings.directory),
        "disk_bytes": settings.disk_bytes,
        "keeps_memory_size": settings.keeps_memory_size,
        "keeps_disk_size": settings.keeps_disk_size,
        "codec": settings.codec,
        "threads": settings.threads,
    }


def describe_store(settings: "StoreSettings") -> str:
    """Return what the store takes, for people."""
    memory = f"{gib(settings.memory_bytes)} GiB of shared memory"
    if settings.directory is None:
        return f"store of prompts' KV: {memory}"
    return f"store of prompts' KV: {memory}, {gib(settings.disk_bytes or 0)} GiB in {settings.directory}"


def host_memory_bytes(deployment: ResolvedDeployment, kv_tokens: Mapping[str, int]) -> int:
    """Return the host memory of all tiers and the store beside KV caches of so many tokens, by worker; 0 without."""
    store = deployment.config.store
    if store is None:
        return 0
    cached = sum(kv_tokens[worker.name] for worker in workers_of(deployment) if worker.role != "decode")
    num_ranks = _num_ranks(deployment)
    memory_bytes = store.memory_bytes or _default_memory_bytes(num_ranks)
    return int(cached * store.host_ratio) * kv_token_bytes(deployment) + memory_bytes * num_ranks


def _num_ranks(deployment: ResolvedDeployment) -> int:
    """Processes of each engine that has a host tier: decode workers have none."""
    role = "engine" if deployment.config.topology == "colocated" else "prefill"
    return deployment.config.engine_of(role).tensor_parallel_size


def _make_name(deployment: ResolvedDeployment) -> str:
    """Two files with the same name in them are two deployments."""
    config = deployment.config
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", config.name)[:_MAX_NAME].strip("-.") or "deployment"
    return f"{readable}-{zlib.crc32(str(config.source).encode()):08x}"


def _default_memory_bytes(num_ranks: int) -> int:
    free = shutil.disk_usage(SHARED_MEMORY).free
    num_bytes = min((available_memory_bytes() or free) // 4, free // 2) // num_ranks
    # The same from one moment to the next: what is said is what is taken.
    return num_bytes // _ROUNDED_BYTES * _ROUNDED_BYTES or num_bytes


def _check_codec(deployment: ResolvedDeployment, store: Store) -> None:
    if store.codec == "splitzip" and deployment.dtype != "bfloat16":
        raise ConfigError(
            f'codec is "splitzip", which is for bfloat16, and KV has the type {deployment.dtype}: set codec = "auto" '
            'under [store], or dtype = "bfloat16" under [engine]'
        )


def _check_secret(file: Path) -> None:
    from prefillshare.store.remote.secret import read_secret

    try:
        read_secret(file)
    except StoreError as error:
        raise ConfigError(str(error)) from None


def _check_memory(deployment: ResolvedDeployment, num_bytes: int, free: int) -> None:
    num_ranks = _num_ranks(deployment)
    _check_holds_pages(deployment, "memory", num_bytes)
    if num_bytes * num_ranks > free:
        each = f" for each of {num_ranks} ranks" if num_ranks > 1 else ""
        raise ConfigError(
            f"memory under [store] is {gib(num_bytes)} GiB{each} and {SHARED_MEMORY} has {gib(free)} GiB free: set "
            f'memory = "{(free // num_ranks) >> 20} MiB" or less, or give the container more shared memory (docker run '
            "--shm-size)"
        )


def _check_holds_pages(deployment: ResolvedDeployment, key: str, num_bytes: int) -> None:
    page_bytes = kv_token_bytes(deployment) * deployment.page_size // _num_ranks(deployment)
    if num_bytes < MIN_PAGES * page_bytes:
        raise ConfigError(
            f"{key} under [store] is {num_bytes:,} bytes and a page of {deployment.page_size} tokens takes "
            f'{page_bytes:,}: set {key} = "{_round_up(MIN_PAGES * page_bytes)} MiB" or more'
        )


def _find_disk_bytes(deployment: ResolvedDeployment, directory: Path, wanted: int | None) -> int:
    """Return the room for the disk tier of each rank; without a wish, half of what is free for all."""
    _check_directory(directory)
    num_ranks = _num_ranks(deployment)
    room, others = _disk_room(deployment, directory)
    free = room // num_ranks
    if free == 0 or (wanted or 0) > free:
        each = f" for each of {num_ranks} ranks" if num_ranks > 1 else ""
        asked = f"disk under [store] is {gib(wanted)} GiB{each}" if wanted else "the store wants room on a disk"
        less = f', or set disk = "{free >> 20} MiB" or less' if free >> 20 else ""
        kept = f" beside {gib(others)} GiB of pages of other modules" if others else ""
        clear = f" (prefillshare store clear --disk {directory})" if others else ""
        raise ConfigError(
            f"{asked} and the file system of {directory} has {gib(room)} GiB free{kept}: make room{clear}, or name "
            f"another directory with path{less}"
        )
    num_bytes = wanted or free // 2
    _check_holds_pages(deployment, "disk", num_bytes)
    return num_bytes


def _disk_room(deployment: ResolvedDeployment, directory: Path) -> tuple[int, int]:
    """Bytes that the disk tier can have, which are those that are free and those that it has already, and bytes of
    other weights, types and page sizes in the same directory, which nobody removes unasked."""
    from prefillshare.store.folders import disk_files, free_bytes, taken_bytes
    from prefillshare.store.opening import read_header

    num_own = num_others = 0
    for path in disk_files(directory):
        header = read_header(path)
        # One that cannot be read is made anew, by whoever's it is.
        if header is None or _is_of(deployment, header.identity):
            num_own += taken_bytes(path)
        else:
            num_others += taken_bytes(path)
    return free_bytes(directory) + num_own, num_others


def _is_of(deployment: ResolvedDeployment, identity: "StoreIdentity") -> bool:
    return (
        identity.prefill_fingerprint == deployment.fingerprint
        and identity.page_size == deployment.page_size
        and identity.weights_dtype.partition(" ")[0] == f"torch.{deployment.dtype}"
    )


def _check_directory(directory: Path) -> None:
    from prefillshare.store.folders import is_in_memory

    what = f"path {str(directory)!r} under [store]"
    if is_in_memory(directory):
        raise ConfigError(
            f"{what} lies in the machine's memory, and is to keep what memory has no room for: name a directory on a "
            "disk, or leave path out and set memory"
        )
    found = directory.stat()
    if found.st_uid != os.getuid():
        raise ConfigError(
            f"{what} belongs to user {found.st_uid}, and whoever owns it can read and change what is in it: name a "
            "directory of your own"
        )
    if os.statvfs(directory).f_flag & os.ST_RDONLY or not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"{what} cannot be written: give yourself the permission, or name another directory")


def _round_up(num_bytes: int) -> int:
    return -(-num_bytes >> 20)
