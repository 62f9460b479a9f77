"""Turns a LoRA decode module into one with full weights.

The merged module decodes by itself; it still needs the KV of the prefill module that the adapter was trained on.
Run: `prefillshare models merge ADAPTER --base BASE --out DIR`.
"""

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from prefillshare.errors import ModuleError
from prefillshare.modules.adapter import check_adapter_fits, read_adapter
from prefillshare.modules.codebook_rule import refuse_as_base
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.kv_rule import refuse_full_weights
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, read_manifest, write_manifest
from prefillshare.places import cache_directory

if TYPE_CHECKING:
    import torch

MergedDtype = Literal["base", "float32", "bfloat16", "float16"]
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


def merge_adapter(adapter: Path, base: Path, out: Path, *, dtype: MergedDtype = "base", force: bool = False) -> Path:
    """Write the base with the adapter added to its weights into `out`, with the base's tokenizer and a manifest.

    The sum is made in float32 and rounded to `dtype`; with a dtype below float32 a merged module may differ from the
    adapter in near ties.
    Effects: `out` appears complete or not at all.
    Raises: ModuleError when the two do not belong together or `out` exists and `force` is not given.
    """
    if dtype not in get_args(MergedDtype):
        raise ModuleError(f"there is no dtype {dtype!r}: choose one of {', '.join(get_args(MergedDtype))}")
    manifest = _check_inputs(adapter, base)
    _check_out(out, (adapter, base), force)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_merged(adapter, base, staging, dtype)
        copy_text_files(base, staging)
        write_manifest(staging, replace(manifest, kind="full"))
        staging.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


def merge_once(adapter: Path, base: Path, fingerprint: str, *, dtype: MergedDtype) -> Path:
    """The adapter merged into the base, made once and kept below the user's cache directory.

    `fingerprint` is the base's. Another adapter, base or dtype is another directory.
    Effects: the first call for an adapter writes a checkpoint and removes nothing.
    Raises: ModuleError as `merge_adapter` does, and when the cache cannot be written.
    """
    key = hashlib.sha256("\0".join((adapter_sha256(adapter), fingerprint, dtype)).encode()).hexdigest()[:24]
    root = cache_directory() / "merged"
    out = root / f"{adapter.name}-{key}"
    if out.is_dir():
        return out
    try:
        return merge_adapter(adapter, base, out, dtype=dtype)
    except OSError as error:
        if out.is_dir():  # another launch was faster
            return out
        raise ModuleError(
            f"merging {adapter} into {base} failed ({error.strerror or error}): free some space below {root}, or merge "
            "it elsewhere with `prefillshare models merge`"
        ) from None


def adapter_sha256(adapter: Path) -> str:
    """Hash of an adapter with its manifest.

    Raises: ModuleError when a file of it is missing.
    """
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors", MANIFEST_NAME):
        file = adapter / name
        if not file.is_file():
            raise ModuleError(f"{adapter} has no {name}: it takes an adapter made by prefillshare")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _check_inputs(adapter: Path, base: Path) -> ModuleManifest:
    for path in (adapter, base):
        if not path.is_dir():
            raise ModuleError(f"there is no directory {path}: give the directory of a module")
    refuse_as_base(base, base.name, "the base of a merge")
    manifest = read_manifest(adapter)
    if manifest is None:
        raise ModuleError(
            f"{adapter} has no prefillshare.json, so the base whose KV it was trained on is unknown: "
            'merge adapters made by prefillshare, or serve it as it is with kind = "lora"'
        )
    refuse_full_weights(manifest, manifest.name, 'serve it as it is with kind = "lora"')
    if manifest.kind != "lora":
        raise ModuleError(f"{adapter} is a module of kind {manifest.kind!r}: only lora modules can be merged")
    found = prefill_fingerprint(base)
    if found != manifest.prefill_fingerprint:
        raise ModuleError(
            f"{adapter} was trained on prefill module {manifest.prefill_fingerprint[:19]}..., "
            f"but {base} is {found[:19]}...: give the base it was trained on"
        )
    check_adapter_fits(read_adapter(adapter, manifest.name), base, manifest.name, base.name)
    return manifest


def _check_out(out: Path, inputs: tuple[Path, ...], force: bool) -> None:
    if any(folder.resolve() == out.resolve() or out.resolve() in folder.resolve().parents for folder in inputs):
        raise ModuleError(f"{out} is or holds one of the inputs: choose another --out")
    if out.exists() and not force:
        raise ModuleError(f"{out} exists: choose another --out, or replace it with --force")


def _write_merged(adapter: Path, base: Path, out: Path, dtype: MergedDtype) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted: Any = PeftModel.from_pretrained(model, adapter)
    merged = adapted.merge_and_unload(safe_merge=True)
    merged.to(_torch_dtype(base, dtype)).save_pretrained(out)


def _torch_dtype(base: Path, dtype: MergedDtype) -> "torch.dtype":
    import torch
    from transformers import AutoConfig

    if dtype != "base":
        return getattr(torch, dtype)
    return AutoConfig.from_pretrained(base).dtype or torch.float32


def copy_text_files(base: Path, out: Path) -> None:
    """Copy tokenizer and chat template of a checkpoint into `out`."""
    for name in (*TEXT_FILES, *TEMPLATE_FILES):
        if (base / name).exists():
            shutil.copyfile(base / name, out / name)
