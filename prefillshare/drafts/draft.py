"""A deployment file before it is written: values with the comments that stand above them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prefillshare.config import load_deployment
from prefillshare.drafts.look import Seen, look_at
from prefillshare.errors import ConfigError
from prefillshare.places import expand_home
from prefillshare.wire.text import make_printable

Topology = Literal["colocated", "disaggregated"]
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME = 64
ORDINARY = (
    "Trained the ordinary way, or nobody knows: it computes its prompts itself and shares none of them. To share:",
    "prefillshare adapt ADAPTER --data FILE (docs/ordinary-adapters.md), then remove this line.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where a module lies: a directory, or a repository of the hub."""

    text: str
    """As it was given."""
    is_hub: bool
    """Whether it is a repository."""
    seen: Seen
    """What is in the directory."""

    @classmethod
    def find(cls, text: str, directory: Path) -> "Where":
        """Return where `text`, given in `directory`, is: what is there wins over a repository of that name."""
        seen = look_at(directory / expand_home(Path(text)))
        return cls(text=text, is_hub=seen.content == "nothing" and _HUB.fullmatch(text) is not None, seen=seen)


@dataclass(slots=True, kw_only=True)
class DraftModule:
    """One `[[decode]]` table."""

    name: str
    """What clients ask for."""
    where: Where
    """Its files."""
    kind: Literal["lora", "full"] = "lora"
    """An adapter, or weights of its own."""
    merge: bool = False
    """Whether an adapter is served as full weights."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """What is to be written."""

    name: str
    """Name of the deployment."""
    base: Where
    """The prefill module."""
    base_name: str
    """What clients call it."""
    modules: list[DraftModule]
    """The decode modules."""
    topology: Topology = "colocated"
    """How they are served."""
    revision: str | None = None
    """Of the base, on the hub."""
    head: list[str] = field(default_factory=list)
    """Comments at the top."""
    top: dict[str, object] = field(default_factory=dict)
    """Further keys at the top."""
    engine: dict[str, object] = field(default_factory=dict)
    """Keys under [engine]."""
    notes: dict[str, str] = field(default_factory=dict)
    """Comments by key of [engine]; one without a value stands there alone."""
    left: list[str] = field(default_factory=list)
    """What has no counterpart, each with the reason."""
    implied: list[str] = field(default_factory=list)
    """What needs none, each with the reason."""

    def render(self, file: Path, directory: Path) -> str:
        """Return the text of `file`; relative paths were given in `directory`."""
        lines = [*_comment(self.head), f"name = {_toml(self.name)}", f"topology = {_toml(self.topology)}"]
        lines += [f"{key} = {_toml(value)}" for key, value in self.top.items()]
        lines += ["", "[prefill]", f"name = {_toml(self.base_name)}", *_place(self.base, file, directory)]
        lines += [f"revision = {_toml(self.revision)}"] if self.revision and self.base.is_hub else []
        for module in self.modules:
            lines += ["", "[[decode]]", f"name = {_toml(module.name)}", f"kind = {_toml(module.kind)}"]
            lines += _place(module.where, file, directory)
            lines += ["merge = true"] if module.merge else []
            lines += self._sharing(module)
        lines += ["", "[engine]", *self._engine_lines()]
        if self.implied:
            lines += ["", *_comment(["What the command line said and no key needs to say:"])]
            lines += _comment([f"- {text}" for text in self.implied])
        if self.left:
            lines += ["", *_comment(["What the command line said and this file does not:"])]
            lines += _comment([f"- {text}" for text in self.left])
        return "\n".join(lines) + "\n"

    def _engine_lines(self) -> list[str]:
        lines = []
        for key in dict.fromkeys([*self.engine, *self.notes]):
            lines += _comment([self.notes[key]]) if key in self.notes else []
            lines += [f"{key} = {_toml(self.engine[key])}"] if key in self.engine else []
        return lines or _comment(["What is not said is chosen for the machine: docs/deployment-file.md has every key."])

    def _sharing(self, module: DraftModule) -> list[str]:
        if module.kind == "full" or module.where.seen.shares:
            return []
        return [*_comment(list(ORDINARY)), "share = false"]


def clean_name(text: str, taken: set[str]) -> str:
    """Return a name for "model" that is made of `text`, and that nobody has; it is taken then."""
    start = _NO_NAME.sub("-", text.rstrip("/").rpartition("/")[2]).strip("-._")[:_MAX_NAME] or "module"
    name, number = start, 2
    while name in taken:
        name, number = f"{start[: _MAX_NAME - 3]}-{number}", number + 1
    taken.add(name)
    return name


def write_draft(draft: Draft, file: Path, directory: Path, *, may_replace: bool) -> None:
    """Write the file.

    Raises: ConfigError when it is there already, unless `may_replace`, or cannot be written.
    """
    try:
        content = draft.render(file, directory).encode()
    except UnicodeEncodeError:
        raise ConfigError("a name or path in it is no UTF-8, which TOML wants: rename the folder") from None
    try:
        with file.open("wb" if may_replace else "xb") as stream:
            stream.write(content)
    except FileExistsError:
        raise ConfigError(f"{file} is there already: give another name, or --force to replace it") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written ({error.strerror}): give a file in a folder of yours") from None


def find_fault(file: Path) -> str | None:
    """Return what keeps a written file from being served, as far as the file alone tells; None where nothing does."""
    try:
        load_deployment(file)
    except ConfigError as error:
        return str(error)
    return None


def _place(where: Where, file: Path, directory: Path) -> list[str]:
    if where.is_hub:
        return [f"hub = {_toml(where.text)}"]
    if where.seen.content == "nothing":
        return [*_comment(["Not found on this machine: correct it."]), f"path = {_toml(where.text)}"]
    found = (directory / expand_home(Path(where.text))).resolve()
    inside = file.resolve().parent
    shown = found.relative_to(inside) if found.is_relative_to(inside) else found
    return [f"path = {_toml(str(shown))}"]


def _comment(texts: list[str]) -> list[str]:
    # TOML takes no control characters in comments.
    return [f"# {make_printable(line)}".rstrip() for text in texts for line in text.splitlines()]


def _toml(value: object) -> str:
    """What TOML writes like JSON: texts, numbers, truth, and lists of them."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
