"""A command line of vLLM or SGLang with LoRA adapters into a draft.

Each option becomes a key, or is listed with the reason why it needs none or has no counterpart.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefillshare.drafts.command_line import CommandLine, Use
from prefillshare.drafts.draft import Draft, DraftModule, Where, clean_name
from prefillshare.errors import ConfigError, short_repr
from prefillshare.serving.plan.known_options import known_options

_SECRET = re.compile(r"(?i)(key|token|password|secret)$")
"""Names of options and variables whose values are nobody else's; what becomes of a command line is read by many."""

Convert = Callable[[str], object]
"""Makes the value of a key of an option's value; ValueError where it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one server's options mean here, by option."""

    server: str
    """Its name."""
    model: tuple[str, ...]
    """What names the base."""
    adapters: str
    """What names the adapters."""
    engine: Mapping[str, tuple[str, Convert]]
    """Keys of [engine]."""
    switches: Mapping[str, tuple[str, object]]
    """The same for options without a value."""
    implied: Mapping[str, str]
    """What needs no counterpart, with the reason."""
    missing: Mapping[str, str]
    """What has none, with the reason."""
    passes: Callable[[Use], tuple[list[str], str | None]]
    """What becomes of any other: the words for extra_args, or none and a reason."""


@dataclass(slots=True)
class Converted:
    """What a command line became."""

    draft: Draft
    """The file."""
    launch: list[str] = field(default_factory=list)
    """Options of `prefillshare launch`."""
    needs_key: bool = False
    """Whether clients sent a key."""


def convert(command: CommandLine, dialect: Dialect, directory: Path) -> Converted:
    """Return the draft of what `command` serves; its relative paths are in `directory`.

    Raises: ConfigError when it names no model or serves no adapter.
    """
    return _Conversion(command, dialect, directory).run()


class _Conversion:
    def __init__(self, command: CommandLine, dialect: Dialect, directory: Path) -> None:
        self._dialect, self._directory = dialect, directory
        self._command = command
        self._positional = list(command.positional)
        self._adapters: list[tuple[str | None, str]] = []
        self._names: tuple[str, ...] = ()
        self._model: str | None = None
        self._revision: str | None = None
        self._launch: list[str] = []
        self._needs_key = False
        self._engine: dict[str, object] = {}
        self._extra: list[str] = []
        self._notes: dict[str, str] = {}
        self._top: dict[str, object] = {}
        self._left: list[str] = []
        self._implied: list[str] = []

    def run(self) -> Converted:
        for use in self._command.uses:
            self._read(use)
        self._read_variables()
        model = self._model or (self._positional[0] if self._positional else None)
        if model is None:
            file = next((use for use in self._command.uses if use.flag == "--config"), None)
            where = "" if file is None else f", which {_written(file)} may hold: that file is not here"
            raise ConfigError(f"the command names no model: add {self._dialect.model[0]}{where}")
        if not self._adapters:
            raise ConfigError(
                f"the command serves no adapter ({self._dialect.adapters}): decode modules are what shares a prefill, "
                "and one model by itself has none"
            )
        if self._extra:
            self._engine["extra_args"] = self._extra
        return Converted(draft=self._draft(model), launch=self._launch, needs_key=self._needs_key)

    def _draft(self, model: str) -> Draft:
        taken: set[str] = set()
        asked = self._names[0] if self._names else model
        base_name = clean_name(asked, taken)
        modules = [
            DraftModule(name=clean_name(name or path, taken), where=Where.find(path, self._directory))
            for name, path in self._adapters
        ]
        if base_name != asked:
            self._left.append(f"the name {asked!r}: clients call the base {base_name!r}, since a name has no slash")
        for (name, _), module in zip(self._adapters, modules, strict=True):
            if name is not None and name != module.name:
                self._left.append(f"the name {name!r}: clients call this module {module.name!r}")
        self._left += [f"the further name {name!r} of the base" for name in self._names[1:]]
        return Draft(
            name=base_name,
            base=Where.find(model, self._directory),
            base_name=base_name,
            modules=modules,
            revision=self._revision,
            head=[f"Made of a command line of {self._dialect.server} by `prefillshare convert`."],
            top=self._top,
            engine=self._engine,
            notes=self._notes,
            left=self._left,
            implied=self._implied,
        )

    def _read(self, use: Use) -> None:
        dialect = self._dialect
        if use.flag in dialect.model:
            self._model = self._one(use)
        elif use.flag == dialect.adapters:
            self._adapters += [_read_adapter(value) for value in _as_list(use.values)]
        elif use.flag == "--served-model-name":
            self._names = use.values
        elif use.flag in ("--host", "--port"):
            self._launch += [use.flag, self._one(use)]
        elif use.flag == "--api-key":
            self._needs_key = True
        elif use.flag == "--revision":
            self._revision = self._one(use)
        elif use.flag == "--otlp-traces-endpoint":
            self._top["otlp_endpoint"] = self._one(use)
        else:
            self._read_setting(use)

    def _read_setting(self, use: Use) -> None:
        dialect = self._dialect
        if use.flag in dialect.engine:
            self._set(use, *dialect.engine[use.flag])
        elif use.flag in dialect.switches:
            self._positional += use.values
            key, value = dialect.switches[use.flag]
            self._set_value(key, value)
        elif use.flag in dialect.implied:
            self._positional += () if use.flag in _TAKES_VALUE else use.values
            self._implied.append(f"{use.flag}: {dialect.implied[use.flag]}")
        elif _SECRET.search(use.flag) and use.flag not in dialect.missing:
            self._left.append(f"{_written(use)}: a secret is written into no file")
        elif use.flag in dialect.missing:
            self._left.append(f"{_written(use)}: {dialect.missing[use.flag]}")
        else:
            words, reason = dialect.passes(use)
            self._extra += words
            self._left += [] if reason is None else [f"{_written(use)}: {reason}"]

    def _set(self, use: Use, key: str, make: Convert) -> None:
        text = self._one(use)
        try:
            value = _finite(make(text))
        except (ValueError, OverflowError) as error:
            self._left.append(f"{use.flag} {text}: {error}")
            return
        if isinstance(value, Noted):
            self._notes[key] = value.note
            value = value.value
        if value is not None:
            self._set_value(key, value)

    def _set_value(self, key: str, value: object) -> None:
        if key == "extra_args" and isinstance(value, str):
            self._extra.append(value)
        else:
            self._engine[key] = value

    def _one(self, use: Use) -> str:
        """The value of an option that takes one; what follows it belongs to nobody, such as the model."""
        if not use.values:
            raise ConfigError(f"{use.flag} has no value in the command: add it, or leave the option out")
        self._positional += use.values[1:]
        return use.values[0]

    def _read_variables(self) -> None:
        for name, value in self._command.variables.items():
            if name in ("VLLM_API_KEY", "SGLANG_API_KEY"):
                self._needs_key = True
            elif name.startswith(("VLLM_", "SGLANG_", "SGL_")):
                shown = "..." if _SECRET.search(name) else value
                self._left.append(f"{name}={shown}: a variable of {self._dialect.server}")
            elif name == "CUDA_VISIBLE_DEVICES":
                self._left.append(f"{name}={value}: set it for `prefillshare launch` as well")


@dataclass(frozen=True, slots=True)
class Noted:
    """A value with a comment; without a value, the comment alone."""

    value: object
    note: str


_TAKES_VALUE = frozenset(
    (
        "--max-lora-rank",
        "--max-loras",
        "--max-cpu-loras",
        "--max-loras-per-batch",
        "--max-loaded-loras",
        "--lora-target-modules",
    )
)


def choice_of(field_name: str, names: Mapping[str, str]) -> Convert:
    """Return what makes a value that SGLang knows for `field_name`, of another server's name for it."""
    option = known_options()[f"--{field_name.replace('_', '-')}"]

    def make(text: str) -> str:
        name = names.get(text, text)
        if name not in option.choices:
            raise ValueError(f"SGLang has none of that name; it has {', '.join(option.choices)}")
        return name

    return make


def read_dtype(text: str) -> str:
    """Return a type as a deployment file calls it."""
    return {"half": "float16", "float": "float32"}.get(text, text)


def _read_adapter(text: str) -> tuple[str | None, str]:
    """Name and place out of NAME=PATH, JSON, or a path alone."""
    if text.startswith("{"):
        found = _read_json(text)
        content = found if isinstance(found, dict) else {}
        name, path = content.get("name") or content.get("lora_name"), content.get("path") or content.get("lora_path")
        if not isinstance(name, str | None) or not isinstance(path, str):
            raise ConfigError(f"adapter {short_repr(text)} is no JSON object with name and path: correct it")
        return name, path
    name, equals, path = text.partition("=")
    return (name, path) if equals else (None, text)


def _as_list(values: Sequence[str]) -> list[str]:
    """Values of an option that may be written as a list of JSON, too."""
    if len(values) == 1 and values[0].startswith("["):
        found = _read_json(values[0])
        return [item if isinstance(item, str) else json.dumps(item) for item in found or values]
    return list(values)


def _finite(value: object) -> object:
    number = value.value if isinstance(value, Noted) else value
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError("it is a number without an end")
    return value


def _read_json(text: str) -> Any:
    """What JSON text says; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _written(use: Use) -> str:
    return f"{use.flag} ..." if _SECRET.search(use.flag) else " ".join((use.flag, *use.values))
