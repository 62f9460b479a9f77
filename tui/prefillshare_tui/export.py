"""The time window as a file: CSV for a spreadsheet, JSON with everything."""

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import orjson

from prefillshare_tui.history import Point, Sample
from prefillshare_tui.snapshot import LATENCIES
from prefillshare_tui.summary import summary_values
from prefillshare_tui.totals import MODULE_COUNTERS, increase, quantile
from prefillshare_tui.view import View

Format = Literal["csv", "json"]
_QUANTILES = (0.5, 0.95, 0.99)


def export(view: View, folder: Path, format: Format) -> Path:
    """Write the window and return the file.

    Raises: OSError when the folder cannot be written to.
    """
    moment = datetime.fromtimestamp(view.snapshot.time, UTC)
    path = folder / f"prefillshare-{view.snapshot.name or 'top'}-{moment:%Y%m%dT%H%M%SZ}.{format}"
    path.write_bytes(as_csv(view).encode() if format == "csv" else as_json(view))
    return path


def as_csv(view: View) -> str:
    """One row per moment and module, and one with an empty module for all of them together."""
    rows = list(records(view))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=rows[0] if rows else ["time"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(view: View) -> bytes:
    """The figures of the window, its records, and the latest snapshot."""
    content = {
        "schema": 1,
        "span_s": view.span_s,
        "summary": summary_values(view),
        "records": list(records(view)),
        "snapshot": asdict(view.snapshot),
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def records(view: View) -> Iterator[dict[str, Any]]:
    """What happened between each two samples; counters are the growth since the sample before."""
    for before, after in pairwise(view.samples):
        yield _record(before, after, "", before.total, after.total)
        for name, point in after.modules.items():
            yield _record(before, after, name, before.modules.get(name), point)


def _record(before: Sample, after: Sample, module: str, first: Point | None, last: Point) -> dict[str, Any]:
    grown = increase(first.totals, last.totals) if first else last.totals
    latency = {
        f"{name}_p{round(100 * q)}_s": value.seconds if (value := quantile(grown.histograms.get(name), q)) else None
        for name in LATENCIES
        for q in _QUANTILES
    }
    return {
        "time": after.time,
        "seconds": round(after.time - before.time, 3),
        "module": module,
        **{name: grown.get(name) for name in MODULE_COUNTERS},
        "running": last.running,
        "queued": last.queued,
        **latency,
    }
