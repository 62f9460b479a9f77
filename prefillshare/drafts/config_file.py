"""The YAML file that `--config` of vLLM and SGLang names: options of the command line, without their dashes."""

import json
from pathlib import Path
from typing import Any

import yaml

from prefillshare.drafts.command_line import CommandLine, Use
from prefillshare.errors import ConfigError, first_line
from prefillshare.places import expand_home

_FLAG = "--config"
_MAX_BYTES = 1 << 20


def read_config_file(command: CommandLine, directory: Path) -> CommandLine:
    """Return `command` with what its `--config` file, relative to `directory`, says in place of that option.

    What the command line says wins, as it does for the servers. A file that is not there leaves the option as it is.
    Raises: ConfigError for a file that holds no options.
    """
    named = [use.values[0] for use in command.uses if use.flag == _FLAG and use.values]
    file = directory / expand_home(Path(named[-1])) if named else None
    if file is None or not file.is_file():
        return command
    said = [use for use in command.uses if use.flag != _FLAG]
    # A model that follows the file's name.
    positional = (*command.positional, *(word for use in command.uses if use.flag == _FLAG for word in use.values[1:]))
    flags = {use.flag for use in said} | ({"--model", "--model-path"} if positional else set())
    found = [use for use in _read_uses(file, command.server == "vllm") if use.flag not in flags]
    return CommandLine(server=command.server, uses=(*found, *said), positional=positional, variables=command.variables)


def _read_uses(file: Path, has_negatives: bool) -> list[Use]:
    try:
        with file.open("rb") as stream:
            content = yaml.safe_load(stream.read(_MAX_BYTES).decode())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--config {file} cannot be read as YAML ({first_line(error)}): correct it") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file} holds no options: write them as KEY: VALUE")
    return [use for key, value in content.items() for use in _as_uses(str(key), value, has_negatives)]


def _as_uses(key: str, value: Any, has_negatives: bool) -> list[Use]:
    name = key.replace("_", "-")
    if value is None or (value is False and not has_negatives):
        return []
    if isinstance(value, bool):
        return [Use(flag=f"--{name}" if value else f"--no-{name}", values=())]
    values = value if isinstance(value, list) else [value]
    return [Use(flag=f"--{name}", values=tuple(map(_as_word, values)))]


def _as_word(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
