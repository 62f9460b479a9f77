"""Read a deployment file, or one of a run: training, a task of a family, quantisation."""

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefillshare.config.cluster import Cluster
from prefillshare.config.growing import GrowTask
from prefillshare.config.modules import Modules
from prefillshare.config.overrides import HIDDEN, apply_overrides
from prefillshare.config.quantisation import Quantisation
from prefillshare.config.roles import check_limits
from prefillshare.config.router_training import RouterTraining
from prefillshare.config.schema import DecodeModule, Deployment, PrefillModule
from prefillshare.config.store import Store
from prefillshare.config.tables import build
from prefillshare.config.tenants import Tenants
from prefillshare.config.toml import NotTomlError, read_toml
from prefillshare.config.training import BaseModel, Data, Training
from prefillshare.errors import ConfigError
from prefillshare.naming.alias import AnyAlias, check_aliases
from prefillshare.naming.rules import ByRules
from prefillshare.places import expand_home

_DEPLOYMENT_KEYS = frozenset({"prefill", "decode"})
_TRAINING_KEYS = frozenset({"base", "data"})
_ROUTER_KEYS = frozenset({"base", "modules"})
_QUANTISATION_KEYS = frozenset({"base", "module"})
_KEYS: Mapping[type, frozenset[str]] = {
    Training: _TRAINING_KEYS,
    GrowTask: _TRAINING_KEYS,
    Quantisation: _QUANTISATION_KEYS,
}
"""By which keys a file is known as one of its kind, so that a mistaken name can be helped with."""

M = TypeVar("M", PrefillModule, DecodeModule)
R = TypeVar("R", Training, GrowTask, Quantisation)


def load_deployment(file: Path, changes: Sequence[str] = ()) -> Deployment:
    """Return the deployment that `file` describes, its paths absolute and known to exist.

    `changes` are keys that the command line sets in place of the file (`config.overrides`).
    Raises: ConfigError, naming the file, the table and the fix.
    """
    file = Path(file)
    table = _read(
        file, "deployment", _DEPLOYMENT_KEYS, "`prefillshare launch` without a file serves the embedded tiny family"
    )
    apply_overrides(Deployment, table, changes)
    try:
        deployment = build(Deployment, table, "the file", hidden=HIDDEN)
        _refuse_unused_tables(deployment, table)
        # Here, and not for every deployment: a part of one, made for a node, has fewer workers and modules.
        replicas = {module.name: module.replicas for module in deployment.decode}
        kept = [module.name for module in deployment.decode if not module.share]
        check_limits(deployment.roles, deployment.prefill.workers, replicas, kept)
        check_aliases(deployment.aliases, deployment.prefill.name, replicas)
        return dataclasses.replace(
            deployment,
            prefill=_resolve_path(deployment.prefill, file),
            decode=tuple(_resolve_path(module, file) for module in deployment.decode),
            store=_resolve_store(deployment.store, file),
            modules=_resolve_modules(deployment.modules, file),
            cluster=_resolve_cluster(deployment.cluster, file),
            tenants=_resolve_tenants(deployment.tenants, file),
            aliases={name: _resolve_classifier(alias, file) for name, alias in deployment.aliases.items()},
            source=file.resolve(),
            overrides=tuple(changes),
        )
    except ConfigError as error:
        raise _name_file(error, file, changes) from None


def _name_file(error: ConfigError, file: Path, changes: Sequence[str]) -> ConfigError:
    changed = f" with {' '.join(f'--set {text}' for text in changes)}" if changes else ""
    return ConfigError(f"{file}{changed}: {str(error).removeprefix('the file: ')}")


def _resolve_store(store: Store | None, file: Path) -> Store | None:
    if store is None:
        return store
    if store.secret_file is not None:
        store = dataclasses.replace(store, secret_file=_make_absolute(store.secret_file, file))
    if store.path is None:
        return store
    return dataclasses.replace(store, path=_find_own_directory(store.path, file, "path", "store"))


def _resolve_modules(modules: Modules, file: Path) -> Modules:
    if modules.dir is None:
        return modules
    return dataclasses.replace(modules, dir=_find_own_directory(modules.dir, file, "dir", "modules"))


def _find_own_directory(path: Path, file: Path, key: str, table: str) -> Path:
    """Return the directory that `key` under [`table`] names, which the owner of the deployment makes.

    Raises: ConfigError when there is none.
    """
    found = _make_absolute(path, file)
    if (state := _lacks_directory(found)) is not None:
        raise ConfigError(
            f"{key} {str(path)!r} under [{table}] {state} ({found}): make the directory, or correct {key}, which is "
            "relative to the deployment file"
        )
    return found


def _lacks_directory(path: Path) -> str | None:
    """What is wrong with a path that is to be a directory; None where it is one."""
    # Not by the path's own methods, which raise for a name that is too long.
    if os.path.isdir(path):
        return None
    return "is not a directory" if os.path.exists(path) else "does not exist"


def _resolve_cluster(cluster: Cluster | None, file: Path) -> Cluster | None:
    if cluster is None:
        return None
    token, api_key = (
        None if path is None else _make_absolute(path, file) for path in (cluster.token_file, cluster.api_key_file)
    )
    # On each node of the cluster they lie where they lie here.
    return dataclasses.replace(cluster, token_file=token, api_key_file=api_key)


def _resolve_tenants(tenants: Tenants | None, file: Path) -> Tenants | None:
    # Whether it can be used is seen when it is read, by whoever serves the deployment.
    return None if tenants is None else dataclasses.replace(tenants, file=_make_absolute(tenants.file, file))


def _resolve_classifier(alias: AnyAlias, file: Path) -> AnyAlias:
    if not isinstance(alias, ByRules) or alias.classifier is None:
        return alias
    found = _find_own_directory(Path(alias.classifier), file, "classifier", f"aliases.{alias.name}")
    return dataclasses.replace(alias, classifier=str(found))


def _refuse_unused_tables(deployment: Deployment, table: Mapping[str, Any]) -> None:
    unused = [name for name in ("router", "transfer", "cluster", "roles") if name in table]
    if deployment.topology == "colocated" and unused:
        raise ConfigError(
            f'there is a [{unused[0]}] table, which topology = "colocated" has no use for: remove it, or write '
            'topology = "disaggregated"'
        )


def load_training(file: Path, changes: Sequence[str] = ()) -> Training:
    """Return the training run that `file` describes, its paths absolute; the base and a data file must exist.

    Raises: ConfigError, naming the file, the table and the fix.
    """
    return _load_run(Training, Path(file), changes, "training", "models/recipes has examples", _place_training)


def load_grow_task(file: Path, changes: Sequence[str] = ()) -> GrowTask:
    """Return the task that `file` describes, its paths absolute; the base and a data file must exist.

    Raises: ConfigError, naming the file, the table and the fix.
    """
    return _load_run(GrowTask, Path(file), changes, "task", "docs/grow.md has an example", lambda task, file: task)


def load_quantisation(file: Path, changes: Sequence[str] = ()) -> Quantisation:
    """Return what `file` says of a module that is to be quantised, its paths absolute; what they name must exist.

    Raises: ConfigError, naming the file, the table and the fix.
    """
    example = "models/recipes/tiny-math-2bit.toml is an example"
    return _load_run(Quantisation, Path(file), changes, "quantisation", example, _place_quantisation)


def load_router_training(file: Path, changes: Sequence[str] = ()) -> RouterTraining:
    """Return the training of a classifier that `file` describes, its paths absolute; base and data files must exist.

    Raises: ConfigError, naming the file, the table and the fix.
    """
    file = Path(file)
    table = _read(file, "training", _ROUTER_KEYS, "models/recipes/tiny-router.toml is an example")
    apply_overrides(RouterTraining, table, changes)
    try:
        if "data" in table and "modules" not in table:
            raise ConfigError("this is the training file of a module, with [data] of its own: leave --router out")
        run = build(RouterTraining, table, "the file", hidden=HIDDEN)
        modules = tuple(dataclasses.replace(module, data=_place_data(module.data, file)) for module in run.modules)
        output = _make_absolute(run.output, file)
        base = _place_base(run.base, file)
        return dataclasses.replace(run, base=base, modules=modules, output=output, source=file.resolve())
    except ConfigError as error:
        raise _name_file(error, file, changes) from None


def _place_base(base: BaseModel, file: Path) -> BaseModel:
    return (
        base if base.path is None else dataclasses.replace(base, path=_find_directory(base.path, file, "of the base"))
    )


def _place_data(data: Data, file: Path) -> Data:
    return data if data.file is None else dataclasses.replace(data, file=_find_file(data.file, file))


def _load_run(
    kind: type[R], file: Path, changes: Sequence[str], called: str, otherwise: str, place: Callable[[R, Path], R]
) -> R:
    """Read a file about a base and data, and let `place` make its further paths absolute."""
    table = _read(file, called, _KEYS[kind], otherwise)
    apply_overrides(kind, table, changes)
    try:
        if "modules" in table and "data" not in table:
            raise ConfigError("this is the training file of a classifier: run it with `prefillshare train --router`")
        run = build(kind, table, "the file", hidden=HIDDEN)
        base, data = _place_base(run.base, file), None if run.data is None else _place_data(run.data, file)
        return place(dataclasses.replace(run, base=base, data=data, source=file.resolve()), file)
    except ConfigError as error:
        raise _name_file(error, file, changes) from None


def _place_training(training: Training, file: Path) -> Training:
    if training.start is not None and training.lora is not None:
        raise ConfigError("[lora] stands beside start: the adapter there has a shape, remove the table")
    start = None if training.start is None else _find_start(training.start, file)
    return dataclasses.replace(training, start=start, output=_make_absolute(training.output, file))


def _place_quantisation(wanted: Quantisation, file: Path) -> Quantisation:
    module = dataclasses.replace(wanted.module, path=_find_module(wanted.module.path, file))
    return dataclasses.replace(wanted, module=module, output=_make_absolute(wanted.output, file))


def _find_module(path: Path, file: Path) -> Path:
    found = _make_absolute(path, file)
    if (state := _lacks_directory(found)) is not None:
        raise ConfigError(
            f"path {str(path)!r} under [module] {state} ({found}): correct path, which is relative to the file, to the "
            "directory of an adapter or of a module with full weights"
        )
    return found


def _read(file: Path, kind: str, keys: frozenset[str], otherwise: str) -> dict[str, Any]:
    try:
        return read_toml(file)
    except FileNotFoundError:
        raise ConfigError(f"there is no {kind} file {file}: {_other_files(file, keys, otherwise)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{file} is a directory: {_other_files(file / 'x', keys, otherwise)}") from None
    except NotTomlError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}: give a {kind} file in TOML") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): check its permissions") from None


def _other_files(file: Path, keys: frozenset[str], otherwise: str) -> str:
    others = {other.name: str(other) for other in sorted(file.parent.glob("*.toml")) if _has_keys(other, keys)}
    if close := difflib.get_close_matches(file.name, others, n=1, cutoff=0.5):
        return f"did you mean {others[close[0]]}?"
    return f"there are {', '.join(others.values())}" if others else otherwise


def _has_keys(file: Path, keys: frozenset[str]) -> bool:
    """Whether a TOML file may be of the wanted kind."""
    try:
        return file.is_file() and keys <= read_toml(file).keys()
    except (OSError, ValueError):
        return False


def _resolve_path(module: M, file: Path) -> M:
    if module.path is None:
        return module
    return dataclasses.replace(module, path=_find_directory(module.path, file, f"of module {module.name!r}"))


def _find_directory(path: Path, file: Path, whose: str) -> Path:
    found = _make_absolute(path, file)
    if (state := _lacks_directory(found)) is not None:
        raise ConfigError(
            f"path {str(path)!r} {whose} {state} ({found}): correct path, which is relative "
            f"to the {'training' if whose == 'of the base' else 'deployment'} file, or name a hub repository with "
            'hub = "..."'
        )
    return found


def _find_start(path: Path, file: Path) -> Path:
    found = _make_absolute(path, file)
    if not os.path.isfile(found / "adapter_config.json"):
        raise ConfigError(
            f"start {str(path)!r} is no adapter ({found} has no adapter_config.json): give the directory of one, "
            "relative to the training file"
        )
    return found


def _find_file(path: Path, file: Path) -> Path:
    found = _make_absolute(path, file)
    if not os.path.isfile(found):
        raise ConfigError(
            f"data file {str(path)!r} does not exist ({found}): correct file under [data], which is relative to the "
            "training file"
        )
    return found


def _make_absolute(path: Path, file: Path) -> Path:
    return (file.resolve().parent / expand_home(path)).resolve()
