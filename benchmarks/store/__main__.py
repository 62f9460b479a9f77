"""How fast pages move in and out of the store: `make bench-store`, by tier, codec, threads and size of a page.

Pages are bfloat16 with the exponents of a normal distribution. Memory: `in` is `write` (digest, encoding, copy), first
into slots that the file system has to give, then into slots that this process has used before; `out` is `read` into the
caller's buffers (copy, decoding, digest). Disk: `in` is `spill` into what the kernel keeps of the file; `out` is what
the kernel still has, then what it was told to forget, both with the pages' way into memory. Medians of `--runs`; each
run makes a new store.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefillshare.bench.report.machine import processor_name
from prefillshare.store import KvStore, StoreIdentity, StoreSettings, chain_keys
from prefillshare.store.folders import disk_folder, remove_folder, store_folders

PAGE_TOKENS = 16
SHAPES = {"tiny": (5, 2, 64), "qwen3-8b": (36, 8, 128)}
"""Layers, KV heads, head size."""
NUM_CONTENTS = 8
"""Different pages; together larger than a core's own caches for the large shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table."""

    shape: str
    codec: str
    threads: int
    has_disk: bool


def identity_of(shape: str) -> StoreIdentity:
    """An identity with pages of that shape's size."""
    layers, kv_heads, head_dim = SHAPES[shape]
    return StoreIdentity(
        prefill_fingerprint="bench",
        weights_dtype="bfloat16",
        kv_dtype="bfloat16",
        page_size=PAGE_TOKENS,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tp_rank=0,
        tp_size=1,
        layout="page_first",
        sglang_version="none",
        page_bytes=layers * 2 * kv_heads * head_dim * 2 * PAGE_TOKENS,
    )


def make_pages(page_bytes: int) -> list[np.ndarray]:
    """Pages with the exponents of KV."""
    numbers = np.random.default_rng(1).standard_normal((NUM_CONTENTS, page_bytes // 2)).astype(np.float32)
    return list((numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8))


def measure(case: Case, num_bytes: int, folder: Path, memory: Path) -> dict[str, float]:
    """GB/s of one new store, in and out."""
    identity = identity_of(case.shape)
    keys = chain_keys(identity, None, np.arange(num_bytes // identity.page_bytes * PAGE_TOKENS), PAGE_TOKENS)
    contents = make_pages(identity.page_bytes)
    pages = [contents[number % NUM_CONTENTS] for number in range(len(keys))]
    buffers = list(np.ones((len(keys), identity.page_bytes), dtype=np.uint8))
    moved = len(keys) * identity.page_bytes
    settings = StoreSettings(
        name="bench",
        memory_bytes=2 * num_bytes + (64 << 20),
        memory_directory=memory,
        directory=folder if case.has_disk else None,
        disk_bytes=2 * num_bytes + (64 << 20) if case.has_disk else None,
        codec=case.codec,  # type: ignore[arg-type]
        threads=case.threads,
    )
    store = KvStore.attach(settings, identity)
    found: dict[str, float] = {}
    for name in ("in, first", "in"):
        store.forget_all()
        with measured(found, name, moved):
            assert store.write(keys, pages) == len(keys)
    with measured(found, "out", moved):
        assert store.read(keys, buffers) == len(keys)
    with measured(found, "lookup_us", len(keys), per_unit=True):
        assert store.count_present(keys) == len(keys)
    if case.has_disk:
        del found["in, first"]
        with measured(found, "in", moved):
            assert store.spill() == len(keys)
        for name, has_forgotten in (("out", False), ("out, cold", True)):
            store.close()
            clear_memory(memory)
            if has_forgotten:
                forget_cached(disk_folder(folder))
            store = KvStore.attach(settings, identity)
            with measured(found, name, moved):
                assert store.read(keys, buffers) == len(keys)
    store.close()
    clear_memory(memory)
    shutil.rmtree(disk_folder(folder), ignore_errors=True)
    return found


@contextmanager
def measured(found: dict[str, float], name: str, amount: int, *, per_unit: bool = False) -> Iterator[None]:
    """Write down GB/s, or microseconds for each unit."""
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    found[name] = seconds / amount * 1e6 if per_unit else amount / seconds / 1e9


def clear_memory(memory: Path) -> None:
    """Remove the stores that a run made."""
    for store in store_folders(memory):
        assert remove_folder(store)


def forget_cached(folder: Path) -> None:
    """Write a folder's files out, and have the kernel forget what it keeps of them."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDWR)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def median_of(run: Callable[[], dict[str, float]], num_runs: int) -> dict[str, float]:
    """The median of each figure."""
    runs = [run() for _ in range(num_runs)]
    return {name: statistics.median(found[name] for found in runs) for name in runs[0]}


def main() -> None:
    """Measure all cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=512, help="bytes of pages that each run moves")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    print(f"{processor_name()}, {os.cpu_count()} cores, {options.megabytes} MB each, median of {options.runs}\n")
    put_line("page", "tier", "codec", "threads", "in, first", "in", "out", "out, cold", "lookup, us a page")
    put_line("---", "---", "---", *["---:"] * 6)
    cases = [
        Case(shape=shape, codec=codec, threads=threads, has_disk=has_disk)
        for shape in SHAPES
        for has_disk in (False, True)
        for codec in ("none", "splitzip")
        for threads in options.threads
    ]
    with (
        tempfile.TemporaryDirectory(dir=options.disk) as disk,
        tempfile.TemporaryDirectory(dir=options.memory) as memory,
    ):
        for case in cases:
            found = median_of(
                lambda case=case: measure(case, options.megabytes << 20, Path(disk), Path(memory)), options.runs
            )
            print_line(case, found)


def print_line(case: Case, found: dict[str, float]) -> None:
    """One line of the table; speeds in GB/s of pages."""
    size = identity_of(case.shape).page_bytes
    names = ("in, first", "in", "out", "out, cold", "lookup_us")
    figures = [f"{found[name]:.2f}" if name in found else "" for name in names]
    tier = "disk" if case.has_disk else "memory"
    put_line(f"{case.shape}, {size:,} B", tier, case.codec, str(case.threads), *figures)


def put_line(*cells: str) -> None:
    """One row."""
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
