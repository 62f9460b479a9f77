"""The state document: its page says what its types say, and what is built keeps to them."""

import re
import types
from pathlib import Path
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from prefillshare.observe import document, exposition
from prefillshare.observe.document import (
    AdmissionState,
    ChoicesState,
    ChoiceState,
    DeploymentState,
    DivergenceState,
    EagerJobsState,
    EagerState,
    EventState,
    HandoffState,
    HeldState,
    HistogramState,
    KvState,
    Latencies,
    ModuleState,
    PushState,
    RoleMovesState,
    SessionsState,
    SessionState,
    StoreState,
    TenantRefusals,
    TenantsState,
    TenantState,
    WorkerState,
)
from tests.observe.test_exposition import document as built
from tests.support.state_document import mistakes_in

PAGE = Path(__file__).parents[2] / "docs" / "state-document.md"
HEADINGS = {
    "Deployment": DeploymentState,
    "Choices": ChoicesState,
    "Choice": ChoiceState,
    "Tenants": TenantsState,
    "Tenant": TenantState,
    "Refusals": TenantRefusals,
    "Held": HeldState,
    "Eager jobs": EagerJobsState,
    "Role moves": RoleMovesState,
    "Module": ModuleState,
    "Latencies": Latencies,
    "Histogram": HistogramState,
    "Worker": WorkerState,
    "Pushes": PushState,
    "KV memory": KvState,
    "Hand-offs": HandoffState,
    "Store": StoreState,
    "Computed ahead": EagerState,
    "Waiting for memory": AdmissionState,
    "Sessions": SessionsState,
    "Session": SessionState,
    "Divergence": DivergenceState,
    "Event": EventState,
}
WORDS = {int: "integer", float: "number", str: "text", bool: "boolean", types.NoneType: "null"}


def in_words(kind: Any) -> str:
    """A type as the page writes it."""
    origin, options = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        heading = next(heading for heading, named in HEADINGS.items() if named is kind)
        return heading if heading.startswith("KV") else heading.lower()
    if origin is list:
        return f"list of {in_words(options[0])}"
    if origin is Literal:
        return ", ".join(options)
    if origin is NotRequired:
        return f"{in_words(options[0])}, may be missing"
    return " or ".join(map(in_words, options)) if options else WORDS[kind]


def tables() -> dict[str, dict[str, str]]:
    """By heading of the page, each name with its type in words."""
    sections = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    row = re.compile(r"^\| `(\w+)` \| ([^|]+?) \|", re.MULTILINE)
    return {heading: dict(row.findall(text)) for heading, text in sections}


def test_the_page_has_every_name_with_its_type_and_no_other() -> None:
    told = {
        heading: {name: in_words(type_) for name, type_ in get_type_hints(kind, include_extras=True).items()}
        for heading, kind in HEADINGS.items()
    }
    assert tables() == told


def test_every_part_of_the_document_has_its_table() -> None:
    parts = {kind for kind in vars(document).values() if is_typeddict(kind)}
    counters = {document.ModuleCounters, document.StoreCounters, document.WorkerCounters, document.ComputedAhead}
    counters |= {document.TenantCounters}
    assert parts - set(HEADINGS.values()) == counters


def test_what_is_built_keeps_to_the_types() -> None:
    assert mistakes_in(built()) == []


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"repins": None}, "state.repins is None, not int"),
        ({"repins": True}, "state.repins is True, not int"),
        ({"more": 1}, "state has more"),
        ({"topology": "other"}, "state.topology is 'other', not one of"),
        ({"modules": [{}]}, r"state.modules\[0\] lacks aborted"),
        ({"schema": 2}, "state.schema is 2"),
        ({"refusals": "many"}, "state.refusals is 'many', not int"),
    ],
)
def test_what_does_not_keep_to_them_is_found(change: dict[str, object], mistake: str) -> None:
    assert re.match(mistake, mistakes_in({**built(), **change})[0])


def test_the_metrics_are_read_out_of_names_of_the_document() -> None:
    assert exposition._MODULE_COUNTERS.keys() | exposition._MODULE_GAUGES.keys() <= get_type_hints(ModuleState).keys()
    assert exposition._LATENCIES.keys() == get_type_hints(Latencies).keys()
    assert exposition._WORKER_COUNTERS.keys() | exposition._WORKER_GAUGES.keys() <= get_type_hints(WorkerState).keys()
    assert exposition._HANDOFF_COUNTERS.keys() == get_type_hints(HandoffState).keys()
    assert exposition._PUSH_COUNTERS.keys() == get_type_hints(PushState).keys()
    assert {f"{part}_tokens" for part in exposition._KV_PARTS} | {"token_bytes"} == {
        *get_type_hints(KvState),
        "used_tokens",
    }
