"""`prefillshare.json`: what a module says about itself, beside its weights.

A decode module works only over the KV of the prefill module that it was trained on, so its manifest carries that
module's fingerprint and the objective it was trained with.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from prefillshare.errors import ModuleError, short_repr

MANIFEST_NAME = "prefillshare.json"
MANIFEST_FORMAT = 1

ModuleKind = Literal["prefill", "lora", "full"]
Objective = Literal["cache-conditioned", "icarus", "full-ft", "language-modelling"]
Boundary = Literal["last-prompt-token"]
KvRule = Literal["own-answers", "all-base"]

_TEXTS = ("name", "prefill_fingerprint", "tokenizer_sha256", "chat_template_sha256")
_CHOICES = (("kind", ModuleKind), ("objective", Objective), ("boundary", Boundary), ("kv_rule", KvRule))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleManifest:
    """Contents of `prefillshare.json`."""

    format: int = MANIFEST_FORMAT
    """Version of this file's layout."""
    name: str
    """Name of the module as its author calls it; a deployment may serve it under another."""
    kind: ModuleKind
    """What the weights beside it are: the shared prefill module, an adapter, or a full decode module."""
    objective: Objective
    """How it was trained; only cache-conditioned and ICaRus modules are right over another module's KV."""
    prefill_fingerprint: str
    """`sha256:<hex>` of the prefill module whose KV it was trained on (its own, for a prefill module)."""
    boundary: Boundary = "last-prompt-token"
    """First position computed with the decode module's weights."""
    kv_rule: KvRule = "own-answers"
    """Whose KV it reads from the boundary on: its own, or, trained as ICaRus modules are, the prefill module's there,
    too. Under the other rule it answers badly."""
    tokenizer_sha256: str
    """Hash of the tokenizer.json it was trained with."""
    chat_template_sha256: str
    """Hash of the chat template it was trained with."""
    data_sha256: str | None = None
    """Hash of its training data; None when nothing was trained."""
    seed: int | None = None
    """Seed of the training run; None when nothing was trained."""
    training: dict[str, Any] = field(default_factory=dict)
    """The full configuration of the training run, enough to repeat it."""

    def __post_init__(self) -> None:
        for name in _TEXTS:
            if not isinstance(value := getattr(self, name), str):
                raise ModuleError(f"manifest {name} is {short_repr(value)}: it must be text, build the module again")
        for name, choices in _CHOICES:
            value, known = getattr(self, name), get_args(choices)
            if value not in known:
                raise ModuleError(f"manifest {name} is {value!r}: it must be one of {', '.join(known)}")
        if self.format != MANIFEST_FORMAT:
            raise ModuleError(
                f"manifest format is {self.format!r} and this version reads {MANIFEST_FORMAT}: update prefillshare"
            )
        if self.kv_rule != rule_of(self.objective):
            raise ModuleError(
                f"manifest objective is {self.objective!r} and its kv_rule {self.kv_rule!r}, but that objective trains "
                f"for {rule_of(self.objective)!r}: the file is damaged, build the module again"
            )

    @property
    def shares_prefill(self) -> bool:
        """Whether it was trained over another module's KV, so that it is right over the prefill module's."""
        return self.objective in ("cache-conditioned", "icarus")


def rule_of(objective: Objective) -> KvRule:
    """Return the KV rule that an objective trains a module for."""
    return "all-base" if objective == "icarus" else "own-answers"


def read_manifest(directory: Path) -> ModuleManifest | None:
    """Return the manifest in `directory`, or None when it has none.

    Raises: ModuleError when the file is there but is not a valid manifest.
    """
    file = Path(directory) / MANIFEST_NAME
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ModuleError(f"{file} cannot be read ({error}): build the module again") from None
    if not isinstance(content, dict):
        raise ModuleError(f"{file} is not a JSON object: build the module again")
    try:
        return _from_dict(content)
    except ModuleError as error:
        raise ModuleError(f"{file}: {error}") from None


def write_manifest(directory: Path, manifest: ModuleManifest) -> None:
    """Write `prefillshare.json` into `directory`, which must exist."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (Path(directory) / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


def _from_dict(content: dict[str, Any]) -> ModuleManifest:
    known = {item.name for item in fields(ModuleManifest)}
    if unknown := sorted(content.keys() - known):
        raise ModuleError(f"manifest has the unknown key {unknown[0]!r}: update prefillshare or build the module again")
    try:
        return ModuleManifest(**content)
    except TypeError as error:
        missing = str(error).partition("argument")[2].lstrip("s: ") or str(error)
        raise ModuleError(f"manifest lacks {missing}: build the module again") from None
