"""Checks an engine's arguments against the table of those that SGLang takes, before anything is started.

Both what the deployment file says in keys of its own, such as tool_call_parser, and its extra_args.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prefillshare.config.schema import OWNED_ARGUMENTS
from prefillshare.config.tables import suggest_nearest
from prefillshare.contract import UNSUPPORTED_ALGORITHMS, UNSUPPORTED_SWITCHES
from prefillshare.errors import ConfigError
from prefillshare.serving.plan.known_options import Option, known_options

# Set for machines without a GPU, where extra_args may say otherwise.
_MAY_BE_OVERRIDDEN = frozenset({"sampling_backend", "enable_mixed_chunk"})
_UNSUPPORTED = UNSUPPORTED_SWITCHES | UNSUPPORTED_ALGORITHMS
_MANY = {"*", "+"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """An option with the values that follow it."""

    written: str
    """As it was written, without a value."""
    values: tuple[str, ...]
    """Its values."""


def check_own_values(argv: Sequence[str], fields: Sequence[str]) -> None:
    """Check what PrefillShare made of those keys of a deployment file that are called as SGLang's `fields`.

    Raises: ConfigError naming the key under [engine].
    """
    for use in _split_into_uses(argv):
        option = known_options().get(use.written)
        if option is None or option.field not in fields:
            continue
        for problem in _find_problems(option, use.values):
            raise ConfigError(f"{option.field} under [engine] {problem}")


def check_extra_args(extra_args: Sequence[str], argv: Sequence[str]) -> None:
    """Check the extra_args of a deployment file; `argv` is the command without them.

    Raises: ConfigError for the first that SGLang does not take, or that says what is said elsewhere.
    """
    if extra_args and not extra_args[0].startswith("--"):
        raise ConfigError(f"extra_args begins with {extra_args[0]!r}: write the flag that it belongs to before it")
    owned = _find_owned_fields(argv)
    seen: set[str] = set()
    for use in _split_into_uses(extra_args):
        option = _find_option(use.written)
        if option.field in owned:
            raise ConfigError(f"extra_args sets {use.written}, which it must not: {owned[option.field]}")
        if option.field in seen:
            raise ConfigError(f"extra_args sets {option.names[0]} twice: leave one of them out")
        if option.field in _UNSUPPORTED:
            what = _UNSUPPORTED[option.field]
            raise ConfigError(f"extra_args has {use.written}: shared prefill does not support {what} yet, remove it")
        seen.add(option.field)
        for problem in _find_problems(option, use.values):
            raise ConfigError(f"extra_args: {use.written} {problem}")


def _find_option(written: str) -> Option:
    """The option that is meant; SGLang would also take the beginning of a name."""
    options = known_options()
    if written in options:
        return options[written]
    begun = [name for name in options if name.startswith(written)]
    if len(begun) == 1 and len(written) > 2:
        raise ConfigError(f"extra_args has {written}: write the whole name, {begun[0]}")
    raise ConfigError(f"extra_args has {written}, which SGLang does not know: {_suggest(written, options)}")


def _suggest(written: str, options: Mapping[str, Option]) -> str:
    hint = suggest_nearest(written, options)
    return hint if hint.startswith("did you mean") else "`python -m sglang.launch_server --help` lists what it takes"


def _find_owned_fields(argv: Sequence[str]) -> dict[str, str]:
    """What must not be set in extra_args, by SGLang's field, with what to do instead."""
    options = known_options()
    owned = {
        option.field: "PrefillShare sets it itself, so leave it out"
        for use in _split_into_uses(argv)
        if (option := options.get(use.written)) and option.field not in _MAY_BE_OVERRIDDEN
    }
    return owned | {options[flag].field: advice for flag, advice in OWNED_ARGUMENTS.items() if flag in options}


def _split_into_uses(words: Sequence[str]) -> Iterator[_Use]:
    """Options with their values; words before the first option are left out."""
    written, values = "", []
    for word in words:
        if not word.startswith("--"):
            values.append(word)
            continue
        if written:
            yield _Use(written=written, values=tuple(values))
        written, equals, value = word.partition("=")
        values = [value] if equals else []
    if written:
        yield _Use(written=written, values=tuple(values))


def _find_problems(option: Option, values: tuple[str, ...]) -> Iterator[str]:
    if option.values == "0" and values:
        yield f"takes no value and has {values[0]!r}: leave it out"
    elif option.values in ("1", "+") and not values:
        yield "has no value: add one as the next string of the list"
    elif option.values not in _MANY and len(values) > 1:
        yield f"takes one value and has {len(values)} ({', '.join(values)}): leave the others out"
    for value in values:
        if option.choices and value not in option.choices:
            yield f"is {value!r}: {suggest_nearest(value, option.choices)}"
        elif not _is_kind(value, option.kind):
            yield f"is {value!r}: it must be {_KIND_NAMES[option.kind]}"


_KIND_NAMES = {"int": "a whole number", "float": "a number", "json": "JSON"}


def _is_kind(value: str, kind: str) -> bool:
    readers: dict[str, Callable[[str], object]] = {"int": int, "float": float, "json": json.loads}
    try:
        readers.get(kind, str)(value)
    except ValueError:
        return False
    return True
