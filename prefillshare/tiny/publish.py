"""What is written beside the weights: a manifest per module and the record of the build."""

import hashlib
import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefillshare.modules.fingerprint import chat_template_sha256, prefill_fingerprint, tokenizer_sha256
from prefillshare.modules.manifest import ModuleManifest, Objective, rule_of, write_manifest
from prefillshare.tiny.recipe import Schedule, TinyRecipe
from prefillshare.training.shard import Shard

BASE_NAME = "prefillshare/tiny-base"
RECORD_NAME = "build.json"


def write_module_manifest(
    directory: Path,
    base: Path,
    name: str,
    objective: Objective,
    data: Shard,
    recipe: TinyRecipe,
    schedule: Schedule,
) -> None:
    """Write prefillshare.json for a base or an adapter.

    Effects: also makes the weights readable for everybody, as git stores them.
    """
    for weights in directory.glob("*.safetensors"):
        weights.chmod(0o644)
    manifest = ModuleManifest(
        name=name,
        kind="prefill" if directory == base else "lora",
        objective=objective,
        kv_rule=rule_of(objective),
        prefill_fingerprint=prefill_fingerprint(base),
        tokenizer_sha256=tokenizer_sha256(base),
        chat_template_sha256=chat_template_sha256(base),
        data_sha256=data.sha256(),
        seed=recipe.seed,
        training={"recipe": json.loads(json.dumps(asdict(recipe))), "run": asdict(schedule)},
    )
    write_manifest(directory, manifest)


def write_build_record(out: Path, record: dict[str, Any]) -> None:
    """Write build.json: recipe, data hashes, seconds per step, versions, hashes of the weights."""
    weights = {
        str(path.relative_to(out)): f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(out.rglob("*.safetensors"))
        if not any(part.startswith(".") for part in path.relative_to(out).parts)
    }
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "tokenizers")}
    full = {
        **record,
        "weights": weights,
        "packages": packages,
        "machine": f"{platform.machine()}, python {platform.python_version()}",
        "finished": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    (out / RECORD_NAME).write_text(json.dumps(full, indent=2) + "\n")
