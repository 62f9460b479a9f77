"""What came of faults, as Markdown."""

import os
import platform
from collections.abc import Sequence

from benchmarks.hosts.trial import Result

_HOW_JUDGED = (
    "p95 before is of the 15 s before the fault, p95 since of all right answers from the fault until all is up again "
    "and 5 s more. Each kind of worker has a second one, which takes the calls. What is started again shares this "
    "machine's cores with those that answer, which machines of their own would not."
)
_HEADER = """\
| fault | calls | wrong | hung | failed | of them had streamed | not taken (no router) \
| p95 before, since [s] | ratio (goal 2) | all up again [s] | orphans | doubled |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


def write_table(equal: Sequence[str], results: Sequence[Result], command: str) -> str:
    """Return the figures; `equal` says of each deployment how its answers compare."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"
    lines = [*equal, "", _HEADER, *map(_write_row, results), "", _HOW_JUDGED, "", f"({machine}; `{command}`.)", ""]
    return "\n".join(lines)


def _write_row(result: Result) -> str:
    ends = result.ends
    streamed = ends.get("streamed, then failed", 0)
    ratio = result.p95_after_s / result.p95_before_s
    return (
        f"| {result.name} | {sum(ends.values())} | {ends.get('wrong', 0)} | {ends.get('hung', 0)} "
        f"| {ends.get('failed', 0) + streamed} | {streamed} | {ends.get('no router', 0)} "
        f"| {result.p95_before_s:.2f}, {result.p95_after_s:.2f} | {ratio:.1f} | {result.recovery_s:.0f} "
        f"| {result.num_orphans} | {result.num_doubled} |"
    )
