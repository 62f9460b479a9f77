"""Classifier heads: which decode module a prompt is for, read off the prefill module's hidden state of it.

DIRECTORY/router.json          what the head says about itself
DIRECTORY/router.safetensors   weight (labels, hidden size) and bias (labels), float32

`prefillshare train --router` makes them. The state is the prefill module's last one, behind its final norm, of the
prompt's last token; a head belongs to the prefill module whose states it has learned, and to no other.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.errors import ModuleError, short_repr
from prefillshare.naming.alias import AnyAlias
from prefillshare.naming.asked import Probabilities
from prefillshare.naming.rules import ByRules
from prefillshare.observe.events import Events

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

HEAD_FORMAT = 1
MANIFEST_FILE = "router.json"
WEIGHTS_FILE = "router.safetensors"
_AGAIN = "make it again with `prefillshare train --router`"
_TEXTS = ("name", "prefill_fingerprint", "data_sha256")
_MAX_HEADER_BYTES = 1 << 20
"""Of the file of weights, beside its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadManifest:
    """Contents of `router.json`."""

    format: int = HEAD_FORMAT
    """Version of this file's layout."""
    name: str
    """Name of the head as its author calls it."""
    labels: tuple[str, ...]
    """Decode modules, or aliases, that it chooses from, in the order of its rows."""
    hidden_size: int
    """Length of a hidden state."""
    prefill_fingerprint: str
    """`sha256:<hex>` of the prefill module whose states it has learned."""
    data_sha256: str
    """Hash of the prompts and labels that it was trained on."""
    seed: int
    """Seed of the choice of held-out rows."""
    training: dict[str, Any] = field(default_factory=dict)
    """The full configuration of the training run, enough to repeat it."""
    report: dict[str, Any] = field(default_factory=dict)
    """What was measured on rows that it has not seen."""

    def __post_init__(self) -> None:
        if self.format != HEAD_FORMAT:
            raise ModuleError(
                f"format is {short_repr(self.format)} and this version reads {HEAD_FORMAT}: update prefillshare"
            )
        for name in _TEXTS:
            if not isinstance(value := getattr(self, name), str):
                raise ModuleError(f"{name} is {short_repr(value)}: it must be text, {_AGAIN}")
        if type(self.hidden_size) is not int or self.hidden_size < 1:
            raise ModuleError(
                f"hidden_size is {short_repr(self.hidden_size)}: it must be a whole number above 0, {_AGAIN}"
            )
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ModuleError(f"labels are {list(self.labels)}: there must be two or more, each once; {_AGAIN}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """One classifier head, in memory."""

    manifest: HeadManifest
    """What it says about itself."""
    weight: "np.ndarray[Any, np.dtype[np.float32]]"
    """Shape (labels, hidden size)."""
    bias: "np.ndarray[Any, np.dtype[np.float32]]"
    """Shape (labels,)."""
    sha256: str = ""
    """Hash of its files as they were read; empty for one that was not read from any."""

    def classify(self, states: Sequence[object]) -> Probabilities:
        """Return how likely each label is; for several prompts, the mean of what is said of each.

        Shapes: each state (hidden size,), at least one.
        Raises: ModuleError for states of another model.
        """
        import numpy as np

        found = np.asarray(states, dtype=np.float32)
        if found.ndim != 2 or found.shape[1] != self.manifest.hidden_size:
            raise ModuleError(
                f"classifier {self.manifest.name!r} reads hidden states of {self.manifest.hidden_size} numbers and got "
                f"{found.shape[-1]}: it was trained on another prefill module"
            )
        logits = found @ self.weight.T + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        likely = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
        return dict(zip(self.manifest.labels, map(float, likely), strict=True))


def read_head(directory: Path) -> Head:
    """Return the head in `directory`.

    Raises: ModuleError when it is missing, damaged, or not what its manifest says.
    """
    told = _read_file(directory, MANIFEST_FILE, f"{directory} holds no classifier ({MANIFEST_FILE} is missing)")
    manifest = _read_manifest(directory / MANIFEST_FILE, told)
    wanted = (len(manifest.labels), manifest.hidden_size)
    limit_bytes = 4 * (wanted[0] * wanted[1] + wanted[0]) + _MAX_HEADER_BYTES
    missing = f"classifier {directory} has no {WEIGHTS_FILE}"
    file, numbers = directory / WEIGHTS_FILE, _read_file(directory, WEIGHTS_FILE, missing, limit_bytes)
    weight, bias = _read_tensors(file, numbers)
    if weight.shape != wanted or bias.shape != wanted[:1] or not {str(weight.dtype), str(bias.dtype)} == {"float32"}:
        raise ModuleError(
            f"{file} holds a weight of shape {list(weight.shape)} ({weight.dtype}) and its manifest says "
            f"{list(wanted)} (float32): the files do not belong together, {_AGAIN}"
        )
    if not _is_finite(weight, bias):
        raise ModuleError(f"{file} holds numbers that are none (NaN or infinite): {_AGAIN}")
    sha256 = hashlib.sha256(hashlib.sha256(told).digest() + hashlib.sha256(numbers).digest()).hexdigest()
    return Head(manifest=manifest, weight=weight, bias=bias, sha256=sha256)


def read_head_manifest(directory: Path) -> HeadManifest:
    """Return what the head in `directory` says about itself.

    Raises: ModuleError when there is none, or it cannot be used.
    """
    told = _read_file(directory, MANIFEST_FILE, f"{directory} holds no classifier ({MANIFEST_FILE} is missing)")
    return _read_manifest(directory / MANIFEST_FILE, told)


def _read_file(directory: Path, name: str, missing: str, limit_bytes: int = 16 << 20) -> bytes:
    """Return what is in a file of a head, none of which is large."""
    file = directory / name
    try:
        # A pipe or a device would be read for ever.
        if not file.is_file():
            raise ModuleError(f"{missing}: {_AGAIN}")
        if (size := file.stat().st_size) > limit_bytes:
            raise ModuleError(f"{file} has {size} bytes, and {limit_bytes} are the most: it is no file of a classifier")
        return file.read_bytes()
    except (OSError, ValueError) as error:  # a path that no file system takes is a ValueError
        raise ModuleError(f"{file} cannot be read ({error}): {_AGAIN}") from None


def _read_manifest(file: Path, told: bytes) -> HeadManifest:
    try:
        content = json.loads(told.decode())
    except (ValueError, RecursionError) as error:
        raise ModuleError(f"{file} cannot be read ({error}): {_AGAIN}") from None
    try:
        return _from_dict(content)
    except ModuleError as error:
        raise ModuleError(f"{file}: {error}") from None


def _read_tensors(file: Path, content: bytes) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
        return tensors["weight"], tensors["bias"]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ModuleError(f"{file} cannot be read ({error}): {_AGAIN}") from None


def _is_finite(*arrays: Any) -> bool:
    import numpy as np

    return all(bool(np.isfinite(array).all()) for array in arrays)


def _from_dict(content: object) -> HeadManifest:
    known = {item.name for item in fields(HeadManifest)}
    if not isinstance(content, Mapping):
        raise ModuleError(f"it is not a JSON object: {_AGAIN}")
    if unknown := sorted(content.keys() - known):
        raise ModuleError(f"it has the unknown key {unknown[0]!r}: update prefillshare, or {_AGAIN}")
    labels = content.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ModuleError(f"labels are not a list of names: {_AGAIN}")
    try:
        return HeadManifest(**{**content, "labels": tuple(labels)})
    except TypeError as error:
        missing = str(error).partition("argument")[2].lstrip("s: ") or str(error)
        raise ModuleError(f"it lacks {missing}: {_AGAIN}") from None


def write_head(directory: Path, head: Head) -> None:
    """Write a head into `directory`, which must exist; the manifest comes last, so that no half of one is read."""
    from safetensors.numpy import save_file

    save_file({"weight": head.weight, "bias": head.bias}, directory / WEIGHTS_FILE)
    (directory / WEIGHTS_FILE).chmod(0o644)
    text = json.dumps(asdict(head.manifest), indent=2, ensure_ascii=False)
    partial = directory / f"partial-{MANIFEST_FILE}"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.rename(directory / MANIFEST_FILE)


def read_classifiers(aliases: Mapping[str, AnyAlias], fingerprint: str | None) -> dict[str, AnyAlias]:
    """Return the aliases, those with a classifier with what `read_classifier` finds.

    Raises: ModuleError.
    """
    return {name: read_classifier(alias, fingerprint) for name, alias in aliases.items()}


def read_classifier(alias: AnyAlias, fingerprint: str | None) -> AnyAlias:
    """Return an alias with its classifier and what that chooses from; itself where it has none.

    `fingerprint` is that of the prefill module; None where it is not known.
    Raises: ModuleError for a head that is missing, damaged, or another prefill module's.
    """
    if not isinstance(alias, ByRules) or alias.classifier is None:
        return alias
    directory = Path(alias.classifier)
    if not directory.is_absolute():
        raise ModuleError(
            f"alias {alias.name!r} has classifier = {alias.classifier!r}: give the whole path, as the server's machine "
            "has it"
        )
    try:
        head = read_head(directory)
    except ModuleError as error:
        raise ModuleError(f"alias {alias.name!r}: {error}") from None
    _check_fingerprint(alias, head.manifest, fingerprint)
    return replace(alias, labels=head.manifest.labels, classifier_sha256=head.sha256, judge=head.classify)


def read_told_classifier(alias: AnyAlias, fingerprint: str | None) -> AnyAlias:
    """Return an alias that another process has read, with the classifier that this one finds in its directory.

    Raises: ModuleError as `read_classifier`, and when that is another one than the other process has.
    """
    known = read_classifier(alias, fingerprint)
    if isinstance(alias, ByRules) and isinstance(known, ByRules) and alias.classifier_sha256 != known.classifier_sha256:
        ours, theirs = (str(sha256)[:12] for sha256 in (known.classifier_sha256, alias.classifier_sha256))
        raise ModuleError(
            f"alias {alias.name!r}: {alias.classifier} holds the classifier {ours} here, and the router that was told "
            f"of it has {theirs}: give both machines the same files, or set the alias again"
        )
    return known


def read_again(
    aliases: Mapping[str, AnyAlias],
    fingerprint: str | None,
    modules: Collection[str],
    leave_out: Callable[[str, str], None],
) -> dict[str, AnyAlias]:
    """Return the aliases of a process that begins, each with its classifier as its files are now.

    `leave_out` hears name and reason of each one whose classifier is gone, or is not for this deployment any more: all
    that is served beside it is served without it.
    """
    kept: dict[str, AnyAlias] = {}
    for name, alias in aliases.items():
        try:
            kept[name] = read_classifier(alias, fingerprint)
            if new := set(kept[name].targets).difference(alias.targets, modules, aliases):
                raise ModuleError(f"its classifier has the label {min(new)!r} now, which is no decode module or alias")
        except ModuleError as error:
            kept.pop(name, None)
            leave_out(name, str(error).removeprefix(f"alias {name!r}: "))
    return kept


def tell_left_out(events: Events, name: str, reason: str) -> None:
    """Tell the log, and whoever looks at `events`, of an alias that is left out."""
    log.error("alias %r is left out: %s", name, reason)
    events.tell("module", name, f"the alias is left out: {reason}")


def has_classifier(alias: AnyAlias) -> bool:
    """Return whether a classifier decides what an alias means."""
    return isinstance(alias, ByRules) and alias.classifier is not None


def _check_fingerprint(alias: ByRules, manifest: HeadManifest, fingerprint: str | None) -> None:
    if fingerprint is None or manifest.prefill_fingerprint == fingerprint:
        return
    theirs, ours = (text.removeprefix("sha256:")[:12] for text in (manifest.prefill_fingerprint, fingerprint))
    raise ModuleError(
        f"the classifier of alias {alias.name!r} ({alias.classifier}) has learned the hidden states of the prefill "
        f"module {theirs}, and this deployment's is {ours}: train it again on this one"
    )
