"""Model classes that are imported when a model asks for them.

Target: ``sglang.srt.models.registry.ModelRegistry``
Why: SGLang imports each of its two hundred files of models to know the names of their classes, and serves one model.
How: the names are read from the text of the files, where ``EntryClass`` lists them, and a file is imported when one of
    its classes is looked up. As upstream, a file that cannot be imported is left out with a warning, and one that
    ``SGLANG_DISABLED_MODEL_ARCHS`` names without.
Remove when: upstream imports the files of models when they are asked for.
"""

from __future__ import annotations

import ast
import importlib
import json
import logging
import re
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = "sglang.srt.models"

_ENTRIES = re.compile(r"^EntryClass = (\w+|\[[^\]]*\])", re.MULTILINE)

_log = logging.getLogger(__name__)


class ModelClasses(MutableMapping[str, Any]):
    """What ``ModelRegistry.models`` is: classes by their names."""

    def __init__(self, files: dict[str, str]) -> None:
        """``files``: dotted modules by the classes that they say they have."""
        self._files = files
        self._classes: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._files:
            self._classes |= _classes_of(self._files[name])
            # Also what could not be imported, or is not there after all, is not looked for again.
            self._files = {other: file for other, file in self._files.items() if file != self._files[name]}
        return self._classes[name]

    def __setitem__(self, name: str, model_class: Any) -> None:
        self._files.pop(name, None)
        self._classes[name] = model_class

    def __delitem__(self, name: str) -> None:
        del self._classes[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is such a class: only its import tells."""
        try:
            self[str(name)]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter({**self._files, **self._classes})

    def __len__(self) -> int:
        return len(self._files) + len(self._classes)

    def __repr__(self) -> str:
        """SGLang shows it to whoever asks for a model that it does not have."""
        return repr(sorted(self))


def _classes_of(module: str) -> dict[str, Any]:
    try:
        entry = importlib.import_module(module).EntryClass
    except Exception as error:  # as upstream: a file that needs what is not here
        _log.warning("Ignore import error when loading %s: %s", module, error)
        return {}
    return {found.__name__: found for found in (entry if isinstance(entry, list) else [entry])}


def files_by_class(folder: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Dotted module of each model class that a file in ``folder`` lists, read from its text."""
    return {
        name: f"{PACKAGE}.{file.stem}"
        for file in sorted(folder.glob("*.py"))
        if file.stem not in without
        for name in _listed(file.read_text(encoding="utf-8"))
    }


def _listed(text: str) -> list[str]:
    found = _ENTRIES.search(text)
    if found is None:
        return []
    value = ast.parse(found[1], mode="eval").body
    return [ast.unparse(name) for name in (value.elts if isinstance(value, ast.List) else [value])]


def import_registry() -> None:
    """Import SGLang's registry of models, and none of them yet."""
    from sglang.srt import models
    from sglang.srt.environ import envs

    disabled = envs.SGLANG_DISABLED_MODEL_ARCHS
    folder = Path(next(iter(models.__path__)))
    classes = ModelClasses(files_by_class(folder, disabled.get()))
    with disabled.override(",".join(file.stem for file in folder.glob("*.py"))):
        from sglang.srt.models.registry import ModelRegistry
    # Those of a package that the user names are there already, and stronger.
    classes.update(ModelRegistry.models)
    ModelRegistry.models = classes


def import_classes_of(argv: Sequence[str]) -> None:
    """Import the files of the model that an engine with these arguments serves, if that lies in a folder here."""
    from sglang.srt.models.registry import ModelRegistry

    for architecture in _architectures(argv):
        ModelRegistry.models.get(architecture)


def _architectures(argv: Sequence[str]) -> list[str]:
    try:
        config = json.loads((Path(argv[argv.index("--model-path") + 1]) / "config.json").read_text(encoding="utf-8"))
        return list(config["architectures"])
    except (IndexError, OSError, ValueError, KeyError, TypeError):
        return []  # the engine says what is wrong, or finds it elsewhere
