"""aiperf as a process: its command, and what it wrote down."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.errors import BenchError

_JSON, _TABLE = "profile_export_aiperf.json", "profile_export_console.txt"
_TITLE = "NVIDIA AIPerf | LLM Metrics"
_COMPARED = (_TITLE, f"{_TITLE}: Usage")
_LAST_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run of aiperf."""

    url: str
    """Server."""
    sessions: Path
    """Data set."""
    num_sessions: int
    """Sessions in it."""
    concurrency: int
    """Sessions at a time."""
    tokenizer: Path
    """Folder of the tokenizer, by which aiperf counts the tokens of prompts and answers."""
    api_key: str | None
    """Key that the server wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What aiperf found."""

    figures: Mapping[str, Any]
    """Its JSON export."""
    text: str
    """Its own tables, as it prints them."""

    def find(self, metric: str, statistic: str = "avg") -> float:
        """Return one statistic of a metric.

        Raises: BenchError when aiperf has none.
        """
        try:
            return float(self.figures[metric][statistic])
        except (KeyError, TypeError, ValueError):
            raise BenchError(f"aiperf has written no {statistic} of {metric}: read {_JSON} of this run") from None

    @property
    def num_failed(self) -> int:
        """Requests without an answer."""
        return round(self.find("completed_request_count") * self.find("request_error_rate") / 100)

    @property
    def tables(self) -> str:
        """Of aiperf's tables, those of metrics that servers are compared by: of requests, and of what usage tells."""
        parts = re.split(rf"^(?=.*{re.escape(_TITLE)})", self.text, flags=re.MULTILINE)
        return "\n".join(part.rstrip() for part in parts if part.strip().partition("\n")[0].strip() in _COMPARED)


def run_aiperf(program: Path, load: Load, folder: Path, timeout_s: float) -> Profile:
    """Return what aiperf finds; everything that it writes lands in `folder`.

    Raises: BenchError when it cannot be run, ends with an error or takes too long.
    """
    command, log = _command(program, load, folder), folder / "aiperf.log"
    folder.mkdir(parents=True)
    try:
        with log.open("w", encoding="utf-8") as out:
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False
            )
    except OSError as error:
        raise BenchError(f"{program} cannot be run ({error.strerror or error}): run make bench-outside") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"aiperf took more than {timeout_s:.0f} s: lower --sessions or --turns") from None
    if done.returncode != 0:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])
        raise BenchError(f"aiperf ended with code {done.returncode}; {log} ends with\n{last}")
    return Profile(
        figures=json.loads((folder / _JSON).read_text(encoding="utf-8")),
        text=(folder / _TABLE).read_text(encoding="utf-8").strip("\n"),
    )


def _command(program: Path, load: Load, folder: Path) -> Sequence[str]:
    key = ("--api-key", load.api_key) if load.api_key else ()
    return (
        str(program),
        *("profile", "--url", load.url, "--endpoint-type", "chat", "--streaming", "--model", "per-turn", *key),
        *("--input-file", str(load.sessions), "--custom-dataset-type", "multi_turn"),
        *("--conversation-num", str(load.num_sessions), "--concurrency", str(load.concurrency)),
        # Answers have the length that their turn says.
        *("--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0", "--use-legacy-max-tokens"),
        *("--tokenizer", str(load.tokenizer), "--workers-max", "1", "--record-processor-service-count", "1"),
        *("--no-gpu-telemetry", "--no-server-metrics", "--ui", "none", "--artifact-dir", str(folder)),
    )
