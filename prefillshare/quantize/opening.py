"""What is to be quantised: found, checked against its base, refused where it would not be right or not be served."""

from dataclasses import dataclass
from pathlib import Path

from prefillshare.codebook.section import codebook_shape
from prefillshare.config.quantisation import Quantisation
from prefillshare.errors import ModuleError
from prefillshare.modules.adapter import check_adapter_fits, read_adapter
from prefillshare.modules.fingerprint import geometry, prefill_fingerprint
from prefillshare.modules.kv_rule import refuse_full_weights
from prefillshare.modules.manifest import ModuleManifest, read_manifest
from prefillshare.modules.merge import adapter_sha256
from prefillshare.quantize.decode_module import check_tensors
from prefillshare.quantize.source import WeightSource
from prefillshare.training.finetune.models import locate_base


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModule:
    """A decode module that can be quantised."""

    base: Path
    """Directory of its prefill module."""
    source: WeightSource
    """Its weights."""
    manifest: ModuleManifest
    """What it says about itself."""
    sha256: str
    """Hash of its weights."""

    @property
    def path(self) -> Path:
        """Its own directory."""
        return self.source.adapter or self.source.base


def open_module(wanted: Quantisation) -> OpenModule:
    """Find a module and its base.

    Effects: may download the base; reads all weights once, to hash them.
    Raises: ModuleError when they do not belong together, or the module is none that can be quantised.
    """
    path, base = wanted.module.path, locate_base(wanted.base, "the prefill module of a module that is quantised")
    if path.resolve() == base.resolve():
        raise _stays_in_full_precision(path)
    manifest = read_manifest(path)
    if manifest is None:
        raise ModuleError(
            f"{path} has no prefillshare.json, so the base whose KV it was trained on is unknown: name a module made "
            "by prefillshare"
        )
    _check_kind(path, manifest)
    fingerprint = prefill_fingerprint(base)
    if manifest.prefill_fingerprint != fingerprint:
        raise ModuleError(
            f"{path} was trained on prefill module {manifest.prefill_fingerprint[:19]}..., but {base} is "
            f"{fingerprint[:19]}...: name the base that it was trained on under [base]"
        )
    if manifest.kind == "lora":
        check_adapter_fits(read_adapter(path, manifest.name), base, manifest.name, base.name)
        source, sha256 = WeightSource(base, path), f"{fingerprint}+{adapter_sha256(path)}"
    else:
        _check_geometry(path, base)
        source, sha256 = WeightSource(path), prefill_fingerprint(path)
    for weights in (WeightSource(base), source):
        weights.check_stored()
        check_tensors(weights)
    return OpenModule(base=base, source=source, manifest=manifest, sha256=sha256)


def _check_kind(path: Path, manifest: ModuleManifest) -> None:
    if manifest.kind == "prefill":
        raise _stays_in_full_precision(path)
    refuse_full_weights(manifest, manifest.name, "it can only be served as it is, as an adapter")
    has_adapter = (path / "adapter_config.json").exists()
    if has_adapter != (manifest.kind == "lora"):
        found = "an adapter" if has_adapter else "no adapter"
        raise ModuleError(f"{path} holds {found} and its manifest says kind {manifest.kind!r}: build the module again")
    if manifest.kind == "full" and codebook_shape(path) is not None:
        raise ModuleError(
            f"{path} has 2-bit codebook weights already: name the module that it was made from, which still has all "
            "of its weights"
        )


def _stays_in_full_precision(path: Path) -> ModuleError:
    return ModuleError(
        f"{path} is a prefill module, which stays in full precision: all decode modules read the KV that it makes, and "
        "were trained on that of its full weights; name a decode module under [module]"
    )


def _check_geometry(path: Path, base: Path) -> None:
    ours, theirs = geometry(base), geometry(path)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ModuleError(
                f"{path} has {name} {theirs[name]} and {base} has {value}: name the base that it was trained on"
            )
