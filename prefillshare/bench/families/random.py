"""Families with random weights, made below the cache directory when they are first asked for.

`bench-0.1b` is for machines without a GPU: of a size at which prefill dominates, as it does with 8 B models on GPUs;
`bench-0.1b-icarus` has the same base and modules whose KV is all the base's.
The Qwen3 shapes are for GPUs.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefillshare.accelerators import gpus
from prefillshare.bench.families.base import Family, Listener, make_deployment, module_name
from prefillshare.bench.families.once import write_once
from prefillshare.config.schema import Deployment, Engine
from prefillshare.config.training import KV_PROJECTIONS
from prefillshare.errors import BenchError
from prefillshare.modules.random_weights import (
    num_parameters,
    qwen3_config,
    write_random_adapter,
    write_sharded_checkpoint,
)
from prefillshare.places import cache_directory
from prefillshare.serving.embedded import embedded_deployment

RANK = 16
_SEED = 20
_SCALE = 0.5
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomShape:
    """A family with random weights."""

    name: str
    """Name of the family."""
    config: dict[str, Any]
    """config.json of its base."""
    engine: Engine
    """How it is served."""
    objective: Literal["cache-conditioned", "icarus"] = "cache-conditioned"
    """What its modules claim to be trained for: `icarus` ones leave keys and values alone."""

    @property
    def base_name(self) -> str:
        """The family that has the same base."""
        return self.name.removesuffix("-icarus")


BENCH_01B = RandomShape(
    name="bench-0.1b",
    config=qwen3_config(
        vocab_size=1320,
        layers=16,
        hidden=768,
        intermediate=2048,
        heads=12,
        kv_heads=4,
        head_dim=64,
        max_positions=8192,
    ),
    engine=Engine(context_length=8192),
)
BENCH_01B_ICARUS = replace(BENCH_01B, name="bench-0.1b-icarus", objective="icarus")


def _qwen3(name: str, *, layers: int, hidden: int, intermediate: int, heads: int, ties_embeddings: bool) -> RandomShape:
    config = qwen3_config(
        vocab_size=151936,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=8,
        head_dim=128,
        max_positions=40960,
        dtype="bfloat16",
        rope_theta=1000000.0,
        ties_embeddings=ties_embeddings,
    )
    engine = Engine(
        dtype="bfloat16",
        context_length=32768,
        attention_backend="triton",
        lora_backend="csgmv",
        chunked_prefill_size=8192,
        mem_fraction_static=0.85,
    )
    return RandomShape(name=name, config=config, engine=engine)


QWEN3_1_7B = _qwen3("qwen3-1.7b-shape", layers=28, hidden=2048, intermediate=6144, heads=16, ties_embeddings=True)
QWEN3_8B = _qwen3("qwen3-8b-shape", layers=36, hidden=4096, intermediate=12288, heads=32, ties_embeddings=False)


def random_family(shape: RandomShape) -> Family:
    """A family of random weights of that shape."""
    return Family(name=shape.name, deployment=partial(_deployment, shape))


def _deployment(shape: RandomShape, num_modules: int, tell: Listener) -> Deployment:
    folder = _cache() / shape.name
    size = f"{num_parameters(shape.config) / 1e9:.1f} B parameters"
    what = f"making {shape.base_name} ({size}, once, kept in {_cache() / shape.base_name})"
    base = write_once(_cache() / shape.base_name / "base", what, tell, partial(_write_base, shape))
    adapters = []
    for number in range(num_modules):
        name = module_name(number)
        write = partial(_write_adapter, shape, base, name, _SEED + 1 + number)
        adapters.append(write_once(folder / name, f"making {name} of {shape.name}", tell, write))
    return make_deployment(shape.name, base, adapters, shape.engine)


def _write_base(shape: RandomShape, directory: Path) -> None:
    # The tiny family's tokenizer will do: prompts are token ids, and its ids are a part of every vocabulary here.
    for name in _TEXT_FILES:
        shutil.copy(embedded_deployment().parent / "tiny" / "base" / name, directory / name)
    if gpus():
        _write_on_gpu(shape, directory)
    else:
        write_sharded_checkpoint(directory, shape.config, _SEED)


def _write_on_gpu(shape: RandomShape, directory: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "prefillshare.modules.gpu_weights", str(directory), str(_SEED)]
    done = subprocess.run(command, input=json.dumps(shape.config), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BenchError(
            f"the weights of {shape.name} could not be made on the GPU ({reason}): run prefillshare doctor"
        )


def _write_adapter(shape: RandomShape, base: Path, name: str, seed: int, directory: Path) -> None:
    # Zeros and not nothing: SGLang as released, the rival, cannot load an adapter of q_proj without v_proj.
    zeros = KV_PROJECTIONS if shape.objective == "icarus" else ()
    write_random_adapter(
        directory, base, name, seed=seed, rank=RANK, scale=_SCALE, objective=shape.objective, zero_modules=zeros
    )


def _cache() -> Path:
    return cache_directory() / "bench"
