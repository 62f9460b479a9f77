"""A deployment whose modules were found on disk and fit each other: what a server can be started from.

I6: geometry, tokenizer and chat template are equal for all modules, and every decode module was trained
on the KV of exactly this prefill module. Checked here by fingerprint, before anything starts.
"""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prefillshare.accelerators import Gpu, gpus
from prefillshare.config.schema import DecodeModule, Deployment, Engine, PrefillModule
from prefillshare.config.store import MIN_PAGE_TOKENS
from prefillshare.errors import ModuleError
from prefillshare.modules.adapter import Adapter, check_adapter_fits, read_adapter
from prefillshare.modules.adapter_files import check_text_files
from prefillshare.modules.codebook_rule import check_whole, refuse_as_base, refuse_on_gpu
from prefillshare.modules.fingerprint import (
    chat_template_sha256,
    geometry,
    prefill_fingerprint,
    tokenizer_sha256,
    weight_files,
)
from prefillshare.modules.heads import read_classifiers
from prefillshare.modules.kv_rule import check_no_kv_matrices, refuse_full_weights
from prefillshare.modules.locate import locate
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, read_manifest
from prefillshare.modules.merge import merge_once
from prefillshare.modules.precision import Dtype, served_dtype
from prefillshare.modules.unshared import COST, refuse_trained_to_share
from prefillshare.naming.alias import check_aliases

GPU_HAND_OFF_PAGE = 16
"""Tokens per page where KV goes from GPU to GPU: NIXL prepares a descriptor for every page, layer and peer."""

# The figures are those of an ordinary adapter, asked the same questions both ways.
_ANSWERS_BADLY = "answers badly over shared KV (seen: 14 of 30 right, over its own KV 30 of 30)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModule:
    """A decode module with its files."""

    spec: DecodeModule
    """Its table in the deployment file."""
    path: Path
    """Directory of its weights: an adapter, or a whole checkpoint."""
    adapter: Adapter | None
    """What the engine must know about the adapter; None for a module with full weights."""
    manifest: ModuleManifest | None
    """What it says about itself; None for an adapter that PrefillShare did not make."""

    @property
    def warning(self) -> str | None:
        """What every list of modules says of it; None when it was trained over the prefill module's KV."""
        if not self.spec.share:
            return COST
        if self.manifest is None:
            return f"training unknown: {_ANSWERS_BADLY}"
        if self.manifest.shares_prefill:
            return None
        return f"objective {self.manifest.objective}: {_ANSWERS_BADLY}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedBase:
    """The prefill module, as far as decode modules must fit it."""

    spec: PrefillModule
    """Its table in the deployment file."""
    path: Path
    """Its directory."""
    fingerprint: str
    """Its fingerprint."""
    dtype: Dtype
    """Type in which all modules are served."""
    on_gpu: bool
    """Whether they are served on a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDeployment:
    """A deployment that can be served."""

    config: Deployment
    """The deployment file."""
    prefill_path: Path
    """Directory of the prefill module."""
    fingerprint: str
    """Fingerprint of the prefill module."""
    modules: tuple[ResolvedModule, ...]
    """The decode modules, in the file's order."""
    max_positions: int | None
    """Longest context that the prefill module was made for, in tokens."""
    gpus: tuple[Gpu, ...]
    """GPUs that it may use; empty where it runs on the CPU."""
    dtype: Dtype
    """Type in which all modules are served."""
    warnings: tuple[str, ...]
    """What the user should know although it can be served."""

    @property
    def page_size(self) -> int:
        """Tokens per page of every worker's KV cache."""
        hands_over = self.config.topology == "disaggregated" and bool(self.gpus)
        default = GPU_HAND_OFF_PAGE if hands_over else 1
        if self.config.store is not None:
            default = max(default, MIN_PAGE_TOKENS)
        return self.config.engine.page_size or default


def usable_gpus(engine: Engine) -> tuple[Gpu, ...]:
    """Return the GPUs of this machine that the engine may use."""
    return () if engine.device == "cpu" else gpus()


def resolve(deployment: Deployment, found: Sequence[Gpu] | None = None) -> ResolvedDeployment:
    """Find every module of the deployment and check that they fit each other.

    `found` are the GPUs to plan for; None asks this machine.
    Effects: reads headers and, once, the whole prefill module (remembered afterwards); may download from the hub.
    Raises: ModuleError for the first module or classifier that is missing, broken or does not fit; ConfigError for a
    classifier that chooses a module which is not there.
    """
    prefill_path = _require_plain_path(locate(deployment.prefill), deployment.prefill.name)
    fingerprint = prefill_fingerprint(prefill_path)
    refuse_as_base(prefill_path, deployment.prefill.name, "the prefill module")
    engine = deployment.engine
    devices = usable_gpus(engine) if found is None or engine.device == "cpu" else tuple(found)
    dtype = served_dtype(engine, prefill_path, on_cpu=not devices)
    warnings = _check_prefill_manifest(deployment, prefill_path, fingerprint)
    base = CheckedBase(
        spec=deployment.prefill, path=prefill_path, fingerprint=fingerprint, dtype=dtype, on_gpu=bool(devices)
    )
    modules = []
    for spec in deployment.decode:
        module, found_warnings = resolve_module(spec, base)
        warnings += found_warnings
        modules.append(module)
    return ResolvedDeployment(
        config=_with_classifiers(deployment, fingerprint),
        prefill_path=prefill_path,
        fingerprint=fingerprint,
        modules=tuple(modules),
        max_positions=_check_context_length(deployment, prefill_path),
        gpus=devices,
        dtype=dtype,
        warnings=tuple(warnings),
    )


def _with_classifiers(deployment: Deployment, fingerprint: str) -> Deployment:
    """The deployment with what the classifiers of its aliases choose from."""
    if not deployment.aliases:
        return deployment
    aliases = read_classifiers(deployment.aliases, fingerprint)
    check_aliases(aliases, deployment.prefill.name, [module.name for module in deployment.decode])
    return replace(deployment, aliases=aliases)


def resolve_module(spec: DecodeModule, base: CheckedBase) -> tuple[ResolvedModule, list[str]]:
    """Find one decode module and check that it fits the prefill module; return it, and what the user should know.

    Effects: as `resolve`.
    Raises: ModuleError.
    """
    module = _locate_module(spec, base)
    warnings = _check_module(module, base)
    if base.on_gpu and module.adapter is None:
        refuse_on_gpu(module.path, spec.name)
    return module, warnings


def base_of(deployment: ResolvedDeployment) -> CheckedBase:
    """Return the prefill module of a deployment, for modules that come later."""
    return CheckedBase(
        spec=deployment.config.prefill,
        path=deployment.prefill_path,
        fingerprint=deployment.fingerprint,
        dtype=deployment.dtype,
        on_gpu=bool(deployment.gpus),
    )


def _require_plain_path(path: Path, name: str) -> Path:
    # The engine looks for weights with glob: it would find none there, or those of another directory.
    if glob.escape(str(path)) != str(path):
        raise ModuleError(
            f"module {name!r} is in {path}, and the engine takes *, ? and [ in a path as a pattern: "
            "rename the directory"
        )
    return path


def _locate_module(spec: DecodeModule, base: CheckedBase) -> ResolvedModule:
    path = _require_plain_path(locate(spec), spec.name)
    if spec.kind == "full":
        fix = "remove merge = true" if spec.merge else "point path at the adapter"
        refuse_full_weights(read_manifest(path), spec.name, f'write kind = "lora", and {fix}')
    if spec.merge:
        path = merge_once(path, base.path, base.fingerprint, dtype=base.dtype)
    adapter = read_adapter(path, spec.name) if spec.kind == "lora" else None
    return ResolvedModule(spec=spec, path=path, adapter=adapter, manifest=read_manifest(path))


def _check_prefill_manifest(deployment: Deployment, path: Path, fingerprint: str) -> list[str]:
    manifest = read_manifest(path)
    if manifest is None:
        return []
    name = deployment.prefill.name
    if manifest.kind != "prefill":
        raise ModuleError(f"{name!r} under [prefill] is a {manifest.kind} decode module: point path at a base model")
    if manifest.prefill_fingerprint != fingerprint:
        return [
            f"prefill module {name!r} has fingerprint {_shorten(fingerprint)} and its manifest says "
            f"{_shorten(manifest.prefill_fingerprint)}: its files changed after it was built"
        ]
    return []


def _check_module(module: ResolvedModule, base: CheckedBase) -> list[str]:
    """Return warnings; raise for what cannot be served."""
    name, manifest = module.spec.name, module.manifest
    warnings: list[str] = []
    if module.adapter is not None:
        check_adapter_fits(module.adapter, base.path, name, base.spec.name)
        warnings += check_text_files(module.path, base.path, name)
    else:
        _check_checkpoint_fits(module, base.path, base.spec.name)
    if not module.spec.share:
        refuse_trained_to_share(manifest, name)
    if manifest is None:
        return warnings + _judge_naive(module, _describe_unknown_training(module, base))
    if manifest.kind != module.spec.kind:
        raise ModuleError(
            f"module {name!r} has kind = {module.spec.kind!r} and its manifest says {manifest.kind!r}: "
            f'write kind = "{manifest.kind}" or correct path'
        )
    if manifest.kv_rule == "all-base" and module.adapter is not None:
        check_no_kv_matrices(module.adapter, name)
    _check_same_text(manifest, name, base.path)
    if manifest.prefill_fingerprint != base.fingerprint:
        raise ModuleError(
            f"decode module {name!r} was trained on the prefill module {_shorten(manifest.prefill_fingerprint)} and "
            f"{base.spec.name!r} is {_shorten(base.fingerprint)}: use the prefill module that it was trained on, "
            "or train it again on this one"
        )
    if manifest.shares_prefill:
        return warnings
    return warnings + _judge_naive(module, f"was trained with objective {manifest.objective!r}")


def _check_checkpoint_fits(module: ResolvedModule, prefill_path: Path, prefill_name: str) -> None:
    """I6: a decode module with full weights reads KV of exactly the prefill module's geometry."""
    weight_files(module.path)
    check_whole(module.path, module.spec.name)
    ours, theirs = geometry(prefill_path), geometry(module.path)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ModuleError(
                f"decode module {module.spec.name!r} has {name} {theirs[name]} and prefill module {prefill_name!r} has "
                f"{value}: use the prefill module that it was trained on"
            )


def _check_same_text(manifest: ModuleManifest, name: str, prefill_path: Path) -> None:
    ours = {"tokenizer": tokenizer_sha256(prefill_path), "chat template": chat_template_sha256(prefill_path)}
    theirs = {"tokenizer": manifest.tokenizer_sha256, "chat template": manifest.chat_template_sha256}
    for what, value in ours.items():
        if theirs[what] != value:
            raise ModuleError(
                f"decode module {name!r} was trained with a different {what} ({theirs[what][:12]}) than the prefill "
                f"module has ({value[:12]}): put the {what} that it was trained with beside the prefill module"
            )


def _judge_naive(module: ResolvedModule, training: str) -> list[str]:
    """Judge a module that was not trained over the prefill module's KV, or of which nobody knows it."""
    name = module.spec.name
    if not module.spec.share:
        return []
    if not module.spec.accept_naive:
        own_prompts = "share = false to serve it with prompts of its own, or " if module.adapter else ""
        raise ModuleError(
            f"decode module {name!r} {training}; a module that was not trained over the prefill module's KV "
            f'{_ANSWERS_BADLY}: train it with objective "cache-conditioned" (`prefillshare train`), or set '
            f"{own_prompts}accept_naive = true under its [[decode]] to serve it all the same"
        )
    return [
        f"decode module {name!r} {training} and is served because of accept_naive; a module that was not trained over "
        f"the prefill module's KV {_ANSWERS_BADLY}"
    ]


def _describe_unknown_training(module: ResolvedModule, base: CheckedBase) -> str:
    unknown = f"has no {MANIFEST_NAME}, so how it was trained is unknown"
    said = module.adapter.base_name if module.adapter else None
    if said and said not in {base.spec.hub, str(base.path), base.path.name, base.spec.name}:
        unknown += f" (its configuration names the base model {said!r}; check that this is {base.spec.name!r})"
    return unknown


def _check_context_length(deployment: Deployment, prefill_path: Path) -> int | None:
    limit: int | None = geometry(prefill_path)["rope"]["max_position_embeddings"]
    wanted = deployment.engine.context_length
    if limit is not None and wanted is not None and wanted > limit:
        raise ModuleError(
            f"context_length {wanted} is more than the {limit} positions of prefill module "
            f"{deployment.prefill.name!r}: set context_length = {limit} or less under [engine]"
        )
    return limit


def _shorten(fingerprint: str) -> str:
    return fingerprint.removeprefix("sha256:")[:12]
