"""What `prefillshare add` is given: the directory of a module, or a file with `[[decode]]` tables."""

from pathlib import Path
from typing import Any

from prefillshare.config.toml import NotTomlError, read_toml
from prefillshare.errors import ConfigError, short_repr
from prefillshare.naming.alias import NAME
from prefillshare.places import expand_home


def read_source(source: Path, name: str | None) -> dict[str, dict[str, Any]]:
    """Return the tables of the modules that `source` describes, by name, with absolute paths.

    Raises: ConfigError.
    """
    if source.is_dir():
        found = source.resolve()
        chosen = found.name if name is None else name
        _check_name(chosen, ", with --name" if name is None else "")
        return {chosen: {"path": str(found)}}
    if source.suffix != ".toml" or not source.is_file():
        raise ConfigError(
            f"{source} is neither a directory nor a TOML file: give a module's directory, or a file with [[decode]]"
        )
    tables = _read_tables(source)
    if name is not None and len(tables) > 1:
        raise ConfigError(f"--name names one module and {source} has {len(tables)}: leave --name out")
    if name is not None:
        _check_name(name, "")
        return {name: _place(tables[0], source)}
    return {str(table["name"]): _place(table, source) for table in tables}


def _check_name(name: str, fix: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{short_repr(name)} cannot be a model name: give one of up to 64 letters, digits, dots, dashes and "
            f"underscores, starting with a letter or digit{fix}"
        )


def _read_tables(source: Path) -> list[dict[str, Any]]:
    try:
        tables = read_toml(source).get("decode")
    except (OSError, NotTomlError) as error:
        raise ConfigError(f"{source} cannot be read as TOML: {error}") from None
    if (
        not isinstance(tables, list)
        or not tables
        or not all(isinstance(table, dict) and "name" in table for table in tables)
    ):
        raise ConfigError(f"{source} has no [[decode]] table with a name: write one for each module")
    names = [str(table["name"]) for table in tables]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{source} has two [[decode]] tables with the name {twice!r}: give one another name")
    return tables


def _place(table: dict[str, Any], source: Path) -> dict[str, Any]:
    given = {key: value for key, value in table.items() if key != "name"}
    if isinstance(path := given.get("path"), str):
        given["path"] = str((source.resolve().parent / expand_home(Path(path))).resolve())
    return given
