"""The dashboard imports nothing of the server: its copy of the state document's names is compared with the server's."""

from dataclasses import fields
from typing import Any, get_type_hints

import orjson
import pytest

from benchmarks.tui.deployment import PaperDeployment
from prefillshare.observe import document
from prefillshare_tui import client, parse, snapshot
from tests.support.state_document import mistakes_in

NOT_SHOWN = {
    snapshot.Snapshot: {"schema", "refusals", "retries", "role_moves", "held", "choices"},
    snapshot.Store: {"is_attached", "failures", "fetched_pages", "declined_loads", "evicted_pages", "num_pages"}
    | {"host_capacity_tokens", "host_used_tokens", "codec", "codec_break_even_bytes_per_s", "medium_bytes_per_s"},
    snapshot.Module: {"retractions", "shared_prefix"},
    snapshot.Eager: {"loaded_tokens"},
    snapshot.Handoff: {"memory_bytes", "memory_calls"},
}
"""What the dashboard leaves to others."""
PARTS = {
    snapshot.Snapshot: document.DeploymentState,
    snapshot.Module: document.ModuleState,
    snapshot.Worker: document.WorkerState,
    snapshot.Kv: document.KvState,
    snapshot.Handoff: document.HandoffState,
    snapshot.Eager: document.EagerState,
    snapshot.Push: document.PushState,
    snapshot.Store: document.StoreState,
    snapshot.EagerJobs: document.EagerJobsState,
    snapshot.Session: document.SessionState,
    snapshot.Divergence: document.DivergenceState,
    snapshot.Event: document.EventState,
    snapshot.Tenants: document.TenantsState,
    snapshot.Tenant: document.TenantState,
    snapshot.Refusals: document.TenantRefusals,
}


@pytest.mark.parametrize(("ours", "theirs"), PARTS.items(), ids=lambda part: part.__name__)
def test_each_part_has_the_servers_names(ours: Any, theirs: Any) -> None:
    names = {field.name for field in fields(ours)} - {"num_sessions"}
    assert names == get_type_hints(theirs).keys() - NOT_SHOWN.get(ours, set())


def test_schema_path_and_latencies_are_the_servers() -> None:
    assert parse.SCHEMA == document.SCHEMA
    assert client.STATE_PATH == document.STATE_PATH
    assert snapshot.LATENCIES == document.LATENCIES


@pytest.mark.parametrize("num_workers", [1, 8])
def test_what_the_dashboard_is_tested_with_keeps_to_the_document(num_workers: int) -> None:
    deployment = PaperDeployment(num_workers=num_workers, num_tenants=3)
    for _ in range(40):
        deployment.step()
    document_ = orjson.loads(orjson.dumps(deployment.state()))
    assert mistakes_in(document_) == []
    seen = parse.parse(orjson.dumps(document_), "http://paper")
    assert [module.name for module in seen.modules] == [module["name"] for module in document_["modules"]]
    assert all(
        value is not None for worker in seen.workers if worker.kv for value in (worker.pid, worker.kv.free_tokens)
    )
