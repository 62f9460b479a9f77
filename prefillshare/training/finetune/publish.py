"""The finished module: weights, tokenizer and manifest, put in place so that a half-written one is never launched."""

from pathlib import Path
from typing import Any

from prefillshare.config.training import Training
from prefillshare.errors import TrainingError
from prefillshare.modules.fingerprint import chat_template_sha256, prefill_fingerprint, tokenizer_sha256
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, rule_of, write_manifest
from prefillshare.modules.merge import copy_text_files


def identity(base: Path) -> dict[str, str]:
    """What a decode module is bound to: the base, its tokenizer and its chat template, as hashes."""
    # The fingerprint covers the other two; it comes last, so that a comparison names what really differs.
    return {
        "tokenizer_sha256": tokenizer_sha256(base),
        "chat_template_sha256": chat_template_sha256(base),
        "prefill_fingerprint": prefill_fingerprint(base),
    }


def publish(staging: Path, output: Path, base: Path, training: Training, record: dict[str, Any]) -> None:
    """Complete the weights in `staging` and move everything into `output`, the manifest last.

    Effects: empties `staging`; `output` becomes a module that `launch` accepts.
    Raises: TrainingError when `staging` has no weights.
    """
    if not any(staging.glob("*.safetensors")):
        raise TrainingError(f"no weights were written to {staging}: run it again with --resume and report this")
    for unwanted in (staging / "README.md", staging / "training_args.bin"):
        unwanted.unlink(missing_ok=True)
    if training.kind == "full":
        copy_text_files(base, staging)
    manifest = ModuleManifest(
        name=training.name,
        kind=training.kind,
        objective=training.objective,
        kv_rule=rule_of(training.objective),
        **record["identity"],
        data_sha256=record["data"]["sha256"],
        seed=training.seed,
        training={key: record[key] for key in ("config", "data", "start", "held_out_loss") if key in record},
    )
    write_manifest(staging, manifest)
    files = sorted(staging.iterdir(), key=lambda file: file.name == MANIFEST_NAME)
    for file in files:
        file.chmod(0o644)
        file.replace(output / file.name)
    staging.rmdir()
