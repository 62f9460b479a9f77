"""Read a deployment file."""

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from prefillshare.config.schema import DecodeModule, Deployment, PrefillModule
from prefillshare.config.tables import build
from prefillshare.errors import ConfigError

M = TypeVar("M", PrefillModule, DecodeModule)


def load_deployment(file: Path) -> Deployment:
    """Return the deployment that `file` describes, its paths absolute and known to exist.

    Raises: ConfigError, naming the file, the table and the fix.
    """
    file = Path(file)
    table = _read(file)
    try:
        deployment = build(Deployment, table, "the file", hidden=frozenset({"source"}))
        return dataclasses.replace(
            deployment,
            prefill=_with_path(deployment.prefill, file),
            decode=tuple(_with_path(module, file) for module in deployment.decode),
            source=file.resolve(),
        )
    except ConfigError as error:
        raise ConfigError(f"{file}: {str(error).removeprefix('the file: ')}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no deployment file {file}: {_other_files(file)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{file} is a directory: {_other_files(file / 'x')}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not a text file: give a deployment file in TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): check its permissions") from None


def _other_files(file: Path) -> str:
    names = [str(other) for other in sorted(file.parent.glob("*.toml"))]
    if close := difflib.get_close_matches(str(file), names, n=1, cutoff=0.5):
        return f"did you mean {close[0]}?"
    if names:
        return f"there are {', '.join(names)}"
    return "`prefillshare launch` without a file serves the embedded tiny family"


def _with_path(module: M, file: Path) -> M:
    if module.path is None:
        return module
    path = (file.resolve().parent / module.path.expanduser()).resolve()
    if not path.is_dir():
        state = "is not a directory" if path.exists() else "does not exist"
        raise ConfigError(
            f"path {str(module.path)!r} of module {module.name!r} {state} ({path}): correct path, which is relative "
            'to the deployment file, or name a hub repository with hub = "..."'
        )
    return dataclasses.replace(module, path=path)
