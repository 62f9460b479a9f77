"""The window as CSV and JSON."""

import csv
import io
import json
from pathlib import Path

from prefillshare_tui.export import as_csv, as_json, export
from prefillshare_tui.history import SPANS_S, History
from prefillshare_tui.view import View, view_of_window
from tests.support.dashboard import snapshots

NUM_SECONDS = 20


def window() -> View:
    history, states = History(), snapshots(NUM_SECONDS)
    for state in states:
        history.add(state)
    return view_of_window(states[-1], history, SPANS_S[0])


def test_the_rows_of_all_moments_add_up_to_the_window() -> None:
    view = window()
    rows = list(csv.DictReader(io.StringIO(as_csv(view))))
    assert len(rows) == (NUM_SECONDS - 1) * (1 + len(view.modules))
    for module, activity in [("", view.total), *view.modules.items()]:
        own = [row for row in rows if row["module"] == module]
        for name in ("requests", "prompt_tokens", "own_hit_tokens", "cross_hit_tokens", "generated_tokens"):
            assert sum(float(row[name]) for row in own) == activity.grown.get(name)
    assert float(rows[-1]["time"]) == view.snapshot.time


def test_json_holds_the_summary_and_the_newest_state() -> None:
    view = window()
    content = json.loads(as_json(view))
    assert content["summary"]["hit_ratio"] == view.total.hits.ratio  # type: ignore[union-attr]
    assert content["snapshot"]["modules"][0]["requests"] == view.snapshot.modules[0].requests
    assert len(content["records"]) == (NUM_SECONDS - 1) * (1 + len(view.modules))


def test_the_file_is_named_after_deployment_and_time(tmp_path: Path) -> None:
    path = export(window(), tmp_path, "csv")
    assert path.name == "prefillshare-tiny-agents-20251009T085340Z.csv"
    assert path.read_text() == as_csv(window())
