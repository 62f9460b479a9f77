"""A draft out of what a person says: the base, the decode modules, how they are served."""

from collections.abc import Mapping
from pathlib import Path

from prefillshare.drafts.draft import Draft, DraftModule, Topology, Where, clean_name
from prefillshare.errors import ConfigError

HEAD = (
    "A deployment file of PrefillShare: docs/deployment-file.md has every key, and `prefillshare schema` lets editors\n"
    "complete it."
)
_TOPOLOGY = {
    "colocated": "One engine with the base and all adapters.",
    "disaggregated": "A pool of prefill workers, workers of each decode module, and a router before them.",
}


def make_draft(
    base: str,
    modules: Mapping[str, str],
    full: Mapping[str, str],
    topology: Topology,
    name: str,
    directory: Path,
) -> Draft:
    """Return the draft of a deployment; relative paths are in `directory`.

    `full` are modules with weights of their own; among `modules`, those are known by what lies on disk.
    Raises: ConfigError for what cannot be served so, with the fix.
    """
    taken: set[str] = set()
    found = find_base(base, directory)
    base_name = clean_name(base, taken | modules.keys() | full.keys())
    drafts = [find_module(label, text, directory) for label, text in modules.items()]
    drafts += [DraftModule(name=label, where=Where.find(text, directory), kind="full") for label, text in full.items()]
    if not drafts:
        raise ConfigError("there is no decode module: add --module NAME=WHERE, such as --module math=adapters/math")
    for module in drafts:
        _check_served(module, topology)
    return Draft(
        name=name,
        base=found,
        base_name=base_name,
        modules=drafts,
        topology=topology,
        head=[HEAD, _TOPOLOGY[topology]],
        notes={"page_size": "page_size = 16  # tokens of a page: prefixes are shared in whole pages; 1 where not said"},
    )


def parse_module(text: str) -> tuple[str, str]:
    """Return name and place of NAME=WHERE; a place alone is called by its last part.

    Raises: ConfigError.
    """
    name, equals, where = text.partition("=")
    if not equals:
        return clean_name(text, set()), text
    if not name or not where:
        raise ConfigError(f"{text!r} is no module: write NAME=WHERE, such as math=adapters/math or math=ORG/NAME")
    return name, where


def find_base(text: str, directory: Path) -> Where:
    """Return where the base lies.

    Raises: ConfigError for what is none.
    """
    where = Where.find(text, directory)
    if where.seen.content == "adapter":
        named = f", such as {where.seen.base}" if where.seen.base else ""
        raise ConfigError(f"--base {text} is a LoRA adapter: name the model that it was trained on{named}")
    _check_there(where, "--base")
    return where


def find_module(name: str, text: str, directory: Path) -> DraftModule:
    """Return a decode module, of the kind that lies in its directory.

    Raises: ConfigError for what is none.
    """
    where = Where.find(text, directory)
    _check_there(where, f"module {name!r}:")
    return DraftModule(name=name, where=where, kind="full" if where.seen.content == "model" else "lora")


def _check_there(where: Where, what: str) -> None:
    if where.is_hub or where.seen.content in ("adapter", "model"):
        return
    state = "does not exist" if where.seen.content == "nothing" else "holds neither a model nor an adapter"
    raise ConfigError(
        f"{what} {where.text} {state}: name a directory with config.json or adapter_config.json, or ORG/NAME"
    )


def _check_served(module: DraftModule, topology: Topology) -> None:
    if topology == "colocated" and module.kind == "full":
        raise ConfigError(
            f"module {module.name!r} has full weights, which one engine cannot serve beside others: choose --topology "
            "disaggregated, or its LoRA adapter"
        )
