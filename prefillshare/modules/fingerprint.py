"""The fingerprint of a prefill module: one hash over everything that decides what its KV means.

Ingredients: geometry, tokenizer, chat template, and every tensor of the weights. Sharding, file names and other files
in the directory do not count. Reads safetensors headers and bytes itself, so it needs no torch.
`prefill_fingerprint` remembers its answer in the user's cache directory, keyed by path, sizes and modification times.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.errors import ModuleError
from prefillshare.places import cache_directory

FINGERPRINT_FORMAT = 1
_CHUNK_BYTES = 1 << 24
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format itself


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor inside a safetensors file."""

    name: str
    """Name of the tensor in the state dict."""
    dtype: str
    """Dtype in safetensors notation, such as BF16."""
    shape: tuple[int, ...]
    """Dimensions."""
    file: Path
    """File that holds the bytes."""
    start: int
    """Absolute offset of the first byte in `file`."""
    end: int
    """Absolute offset one past the last byte in `file`."""


def prefill_fingerprint(path: Path, *, use_cache: bool = True) -> str:
    """Return `sha256:<hex>` over geometry, tokenizer, chat template and weights of the checkpoint at `path`.

    Effects: reads the whole checkpoint once; with `use_cache`, writes a small file below the user's cache directory.
    Raises: ModuleError when the directory is not a complete safetensors checkpoint.
    """
    path = Path(path).resolve()
    stamp = _stamp(path)
    if use_cache and (known := _read_cache(path, stamp)):
        return known
    ingredients = {
        "format": FINGERPRINT_FORMAT,
        "geometry": geometry(path),
        "tokenizer": tokenizer_sha256(path),
        "chat_template": chat_template_sha256(path),
        "weights": _weights_sha256(path),
    }
    fingerprint = "sha256:" + hashlib.sha256(_canonical(ingredients)).hexdigest()
    if use_cache:
        _write_cache(path, stamp, fingerprint)
    return fingerprint


def geometry(path: Path) -> dict[str, Any]:
    """Return the sizes that must be equal for all modules that read one KV cache, from config.json.

    Raises: ModuleError when config.json is missing or lacks one of them.
    """
    config = read_model_config(path)
    try:
        num_heads = config["num_attention_heads"]
        return {
            "model_type": config.get("model_type"),
            "num_layers": config["num_hidden_layers"],
            "num_heads": num_heads,
            "num_kv_heads": config.get("num_key_value_heads") or num_heads,
            "head_dim": config.get("head_dim") or config["hidden_size"] // num_heads,
            "hidden_size": config["hidden_size"],
            "vocab_size": config["vocab_size"],
            "rope": _rope(config),
        }
    except KeyError as error:
        raise ModuleError(
            f"{Path(path) / 'config.json'} has no {error.args[0]!r}: use a decoder-only transformers checkpoint"
        ) from None


def read_model_config(path: Path) -> dict[str, Any]:
    """Return config.json of a checkpoint (the text part, for a model with several).

    Raises: ModuleError when it is missing or not a JSON object.
    """
    config = read_json(Path(path) / "config.json", "a transformers checkpoint")
    text_config = config.get("text_config")
    return text_config if isinstance(text_config, dict) else config


def tokenizer_sha256(path: Path) -> str:
    """Return the hash of tokenizer.json as hex."""
    return _file_sha256(Path(path) / "tokenizer.json")


def chat_template_sha256(path: Path) -> str:
    """Return the hash of the default chat template's text as hex; of the empty text when there is none."""
    return hashlib.sha256(chat_template(path).encode()).hexdigest()


def chat_template(path: Path) -> str:
    """Return the text of the default chat template in directory `path`; the empty text when there is none."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (path / name).is_file():
            template = read_json(path / name, "a checkpoint with its tokenizer").get("chat_template")
            if template:
                return template if isinstance(template, str) else _default_template(template)
    return ""


def read_chunks(file: Path, start: int, end: int) -> Iterator[bytes]:
    """Yield bytes `start` to `end` of a file, 16 MiB at a time.

    Raises: ModuleError when the file ends before that.
    """
    with file.open("rb") as stream:
        stream.seek(start)
        left = end - start
        while left:
            chunk = stream.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise ModuleError(f"{file} became shorter while it was read: do not write to a module in use")
            left -= len(chunk)
            yield chunk


def tensor_entries(files: list[Path]) -> list[TensorEntry]:
    """Return all tensors of the given safetensors files, sorted by name, without reading their data."""
    entries = [entry for file in files for entry in _read_header(file)]
    return sorted(entries, key=lambda entry: entry.name)


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint: those that its index names, else all `*.safetensors`.

    Raises: ModuleError when there is none, or a shard named by the index is missing.
    """
    path = Path(path)
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index, "a sharded checkpoint").get("weight_map") or {}
        files = sorted({path / name for name in shards.values()})
    else:
        files = sorted(path.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        what = f"shard {missing[0]} is missing" if missing else "there are no *.safetensors files"
        raise ModuleError(f"{path} cannot be read, {what}: download the complete checkpoint in safetensors format")
    return files


def read_json(file: Path, wanted: str) -> dict[str, Any]:
    """Return the JSON object in `file`; `wanted` says in the error what the directory should be.

    Raises: ModuleError when the file is missing or not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModuleError(f"{file.parent} has no {file.name}: point path at the directory of {wanted}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModuleError(f"{file} cannot be read ({error}): download or build {wanted} again") from None
    if not isinstance(content, dict):
        raise ModuleError(f"{file} is not a JSON object: download or build {wanted} again")
    return content


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    # transformers 5 writes rope_parameters; earlier checkpoints have rope_theta and rope_scaling.
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    settings.setdefault("rope_theta", config.get("rope_theta"))
    settings["rope_type"] = settings.pop("type", None) or settings.get("rope_type") or "default"
    settings["max_position_embeddings"] = config.get("max_position_embeddings")
    return dict(sorted(settings.items()))


def _default_template(templates: list[dict[str, str]]) -> str:
    by_name = {entry["name"]: entry["template"] for entry in templates}
    return by_name.get("default", "")


def _weights_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for entry in tensor_entries(weight_files(path)):
        digest.update(_canonical([entry.name, entry.dtype, entry.shape]))
        for chunk in read_chunks(entry.file, entry.start, entry.end):
            digest.update(chunk)
    return digest.hexdigest()


def _read_header(file: Path) -> Iterator[TensorEntry]:
    broken = f"{file} is not a complete safetensors file: download or build it again"
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise ModuleError(broken)
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise ModuleError(broken)
        try:
            header = json.loads(stream.read(header_bytes))
            header.pop("__metadata__", None)
            entries = [_entry(name, info, file, 8 + header_bytes) for name, info in header.items()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ModuleError(broken) from None
    if any(entry.end > size for entry in entries):
        raise ModuleError(broken)
    yield from entries


def _entry(name: str, info: dict[str, Any], file: Path, data_start: int) -> TensorEntry:
    start, end = info["data_offsets"]
    return TensorEntry(
        name=name,
        dtype=info["dtype"],
        shape=tuple(info["shape"]),
        file=file,
        start=data_start + start,
        end=data_start + end,
    )


def _file_sha256(file: Path) -> str:
    if not file.is_file():
        raise ModuleError(f"{file.parent} has no {file.name}: save the module with its fast tokenizer")
    digest = hashlib.sha256()
    for chunk in read_chunks(file, 0, file.stat().st_size):
        digest.update(chunk)
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _stamp(path: Path) -> list[list[Any]]:
    """Sizes and modification times of every file that can enter the fingerprint."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
    files = [path / name for name in names if (path / name).is_file()]
    files += [path / "model.safetensors.index.json", *path.glob("*.safetensors")]
    stats = [(file.name, file.stat()) for file in sorted(files) if file.is_file()]
    return [[FINGERPRINT_FORMAT], *([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)]


def _cache_file(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return cache_directory() / "fingerprints" / f"{name}.json"


def _read_cache(path: Path, stamp: list[list[Any]]) -> str | None:
    try:
        entry = json.loads(_cache_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(entry, dict) or entry.get("stamp") != stamp:
        return None
    fingerprint = entry.get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None


def _write_cache(path: Path, stamp: list[list[Any]], fingerprint: str) -> None:
    file = _cache_file(path)
    entry = {"path": str(path), "stamp": stamp, "fingerprint": fingerprint}
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entry), encoding="utf-8")
        temporary.replace(file)
    except OSError:
        return  # a read-only home only costs the next start some seconds
