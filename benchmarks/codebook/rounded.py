"""A module whose linear layers are rounded to nearest: what codebooks are compared with."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from prefillshare.errors import ModuleError
from prefillshare.modules.manifest import read_manifest, write_manifest
from prefillshare.modules.merge import copy_text_files
from prefillshare.quantize.clusters import round_to_nearest
from prefillshare.quantize.source import WeightSource

BITS, GROUP = 2, 128


def write_rounded(base: Path, adapter: Path, out: Path) -> Path:
    """Write base and adapter as full weights that were rounded to 2 bits in groups of 128, unless they are there."""
    if out.exists():
        return out
    source, manifest = WeightSource(base, adapter), read_manifest(adapter)
    if manifest is None:
        raise ModuleError(f"{adapter} has no manifest: name a module made by prefillshare")
    work = out.with_name(f".{out.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tensors = {name: source.read(name) for name in source.names()}
    tensors |= {
        name: round_to_nearest(tensor, BITS, GROUP).contiguous()
        for name, tensor in tensors.items()
        if name.endswith("_proj.weight")
    }
    save_file({name: tensor.to(torch.float32) for name, tensor in tensors.items()}, work / "model.safetensors")
    shutil.copyfile(base / "config.json", work / "config.json")
    copy_text_files(base, work)
    write_manifest(work, replace(manifest, kind="full"))
    work.rename(out)
    return out
