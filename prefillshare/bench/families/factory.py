"""Families by name."""

from pathlib import Path

from prefillshare.bench.families.base import Family
from prefillshare.bench.families.given import given_family
from prefillshare.bench.families.random import BENCH_01B, BENCH_01B_ICARUS, QWEN3_1_7B, QWEN3_8B, random_family
from prefillshare.bench.families.tiny import tiny_family
from prefillshare.errors import BenchError

_RANDOM = {shape.name: shape for shape in (BENCH_01B, BENCH_01B_ICARUS, QWEN3_1_7B, QWEN3_8B)}
FAMILIES = ("tiny", *_RANDOM)


def make_family(name: str) -> Family:
    """The family `name`, or that of the deployment file `name`.

    Raises: BenchError when it is neither; ConfigError when the file cannot be used.
    """
    if name == "tiny":
        return tiny_family()
    if name in _RANDOM:
        return random_family(_RANDOM[name])
    if name.endswith(".toml"):
        return given_family(Path(name))
    raise BenchError(f"there is no family {name!r}: choose one of {', '.join(FAMILIES)}, or name a deployment file")
