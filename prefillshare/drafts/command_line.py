"""A server's command line out of a shell script, a compose file or a manifest: who serves, with which options.

Only `vllm serve`, its older module, `sglang serve` and `sglang.launch_server` are known, also behind `docker run` and
environment variables.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from prefillshare.errors import ConfigError, short_repr

Server = Literal["vllm", "sglang"]
_MODULES: Mapping[str, Server] = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "sglang.launch_server": "sglang",
}
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)(?::?-(?P<default>[^}]*))?\}|(?P<bare>[A-Za-z_]\w*))")
_END = re.compile(r"[|&;<>()]+")
_FLAG = re.compile(r"-{1,2}[A-Za-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An option with the words that follow it."""

    flag: str
    """As it was written, with dashes for underscores and without a value."""
    values: tuple[str, ...]
    """What follows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A server's options."""

    server: Server
    """Whose they are."""
    uses: tuple[Use, ...]
    """Them, in order."""
    positional: tuple[str, ...] = ()
    """Words before the first option, such as the model of `vllm serve`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that are set for it."""


def find_command(text: str) -> CommandLine:
    """Return the one server that `text` starts.

    Raises: ConfigError when there is none, or several, or a variable that nothing sets.
    """
    commands = [*_find_in_manifest(text)] or [*_find_in_script(text)]
    if not commands:
        raise ConfigError(
            "there is no command of a server in it: give one that has `vllm serve`, `sglang serve` or "
            "`python -m sglang.launch_server`"
        )
    if len(commands) > 1:
        raise ConfigError(f"there are {len(commands)} commands of servers in it: give one of them by itself")
    return commands[0]


def _find_in_script(text: str) -> Iterator[CommandLine]:
    variables: dict[str, str] = {}
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        for words in _split_commands(line):
            own, rest = _take_assignments([_expand(word, variables, must_be_set=False) for word in words])
            if rest and (found := _find_server(rest, own)) is not None:
                yield found
            elif not rest or rest[0] == "export":
                variables |= own or _take_assignments(rest[1:])[0]


def _split_commands(line: str) -> Iterator[list[str]]:
    """Words up to the next operator of the shell; a line that is no shell has none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return
    command: list[str] = []
    for word in words:
        if _END.fullmatch(word):
            # The number of a descriptor stands before `>&1`.
            yield command[:-1] if ">" in word and command and command[-1].isdecimal() else command
            command = []
        else:
            command.append(word)
    yield command


def _take_assignments(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    own: dict[str, str] = {}
    for number, word in enumerate(words):
        if (match := _ASSIGNMENT.fullmatch(word)) is None and word != "env":
            return own, list(words[number:])
        if match is not None:
            own[match[1]] = match[2]
    return own, []


def _expand(word: str, variables: Mapping[str, str], *, must_be_set: bool = True) -> str:
    def value_of(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        default: str | None = match["default"]
        found = variables.get(name, default)
        if found is None and must_be_set and name not in _SECRETS:
            raise ConfigError(f"the command uses ${name}, which nothing in it sets: write its value in its place")
        return match[0] if found is None else found

    return _VARIABLE.sub(value_of, word)


_SECRETS = ("API_KEY", "VLLM_API_KEY", "SGLANG_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""May stay unknown: keys are not written down anyway."""


def _find_in_manifest(text: str) -> Iterator[CommandLine]:
    """Commands of a compose file, or of a Kubernetes manifest."""
    try:
        documents = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, RecursionError):  # a script, mostly
        return
    for document in documents:
        for container in _containers(document, set()):
            words = [word for key in ("entrypoint", "command", "args") for word in _as_words(container.get(key))]
            if len(words) == 3 and words[1] in ("-c", "-lc"):
                yield from _find_in_script(words[2])
                continue
            image, own = str(container.get("image", "")), _variables_of(container.get("environment"))
            expanded = [_expand(word, own, must_be_set=False) for word in words]
            if (found := _find_server(expanded, own) or _find_image([image, *expanded], own)) is not None:
                yield found


def _containers(value: Any, seen: set[int]) -> Iterator[dict[str, Any]]:
    """Containers below `value`, each once: anchors may stand in each other, or in themselves."""
    if not isinstance(value, dict | list) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict) and any(key in value for key in ("command", "args", "entrypoint")):
        yield value
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _containers(inner, seen)


def _as_words(value: object) -> list[str]:
    if isinstance(value, str):
        try:
            return shlex.split(value.replace("\\\n", " "), comments=True)
        except ValueError as error:
            raise ConfigError(f"{short_repr(value)} is no command of a shell ({error}): correct it") from None
    return [str(word) for word in value] if isinstance(value, list) else []


def _variables_of(value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {str(name): str(text) for name, text in value.items()}
    words = [str(word) for word in value] if isinstance(value, list) else []
    return {match[1]: match[2] for word in words if (match := _ASSIGNMENT.fullmatch(word))}


def _find_server(words: Sequence[str], variables: Mapping[str, str]) -> CommandLine | None:
    for number, word in enumerate(words):
        program, following = word.rpartition("/")[2], words[number + 1 : number + 2]
        if program in ("vllm", "sglang") and list(following) == ["serve"]:
            server: Server = "vllm" if program == "vllm" else "sglang"
            return _make(server, words[number + 2 :], variables)
        if word in _MODULES and number and words[number - 1] == "-m":
            return _make(_MODULES[word], words[number + 1 :], variables)
    return _find_image(words, variables)


def _find_image(words: Sequence[str], variables: Mapping[str, str]) -> CommandLine | None:
    """`docker run ... vllm/vllm-openai:latest --model X`: the image itself is the command."""
    for number, word in enumerate(words):
        if re.search(r"(^|/)vllm-openai(:|@|$)", word):
            return _make("vllm", words[number + 1 :], variables)
    return None


def _make(server: Server, words: Sequence[str], variables: Mapping[str, str]) -> CommandLine:
    positional: list[str] = []
    uses: list[tuple[str, list[str]]] = []
    # What stands before the server's own words, such as `docker run --env`, may have variables that nobody knows.
    for word in (_expand(word, variables) for word in words):
        if _FLAG.match(word):
            flag, equals, value = word.partition("=")
            uses.append((flag.replace("_", "-"), [value] if equals else []))
        else:
            (uses[-1][1] if uses else positional).append(word)
    found = tuple(Use(flag=flag, values=tuple(values)) for flag, values in uses)
    return CommandLine(server=server, uses=found, positional=tuple(positional), variables=dict(variables))
