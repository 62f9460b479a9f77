"""The report: aiperf's figures of all systems side by side, then each of its own tables."""

from collections.abc import Mapping

from benchmarks.outside.aiperf import Profile
from benchmarks.outside.systems import SYSTEMS
from benchmarks.outside.workload import Sizes
from prefillshare.bench.report.machine import describe_machine

_COLUMNS = (
    ("requests/s", "request_throughput", "avg", 2),
    ("output tokens/s", "output_token_throughput", "avg", 1),
    ("TTFT p50 [ms]", "time_to_first_token", "p50", 0),
    ("TTFT p95 [ms]", "time_to_first_token", "p95", 0),
    ("latency p50 [ms]", "request_latency", "p50", 0),
    ("latency p95 [ms]", "request_latency", "p95", 0),
    ("prompt tokens", "input_sequence_length", "avg", 0),
    ("answer tokens", "output_sequence_length", "avg", 1),
)
"""Title, aiperf's name, its statistic, digits."""


def describe(profiles: Mapping[str, Profile], sizes: Sizes, num_modules: int, load: str, version: str) -> str:
    """Return the report as Markdown.

    Raises: BenchError when aiperf lacks a figure.
    """
    machine = describe_machine()
    titles = [title for title, *_ in _COLUMNS]
    return "\n".join(
        [
            f"aiperf {version}: {sizes.num_sessions} sessions of {sizes.num_turns} turns, {load} at a time; "
            f"{num_modules} modules take turns in each session; {sizes.start_words} words, then {sizes.growth_words} "
            f"per turn, answers of {sizes.output_tokens} tokens.",
            "",
            f"| system | {' | '.join(titles)} | failed |",
            "|" + "---|" * (len(titles) + 2),
            *(_row(name, profile) for name, profile in profiles.items()),
            "",
            f"({machine['processor']}, {machine['cores']} cores, Python {machine['Python']}, SGLang "
            f"{machine['sglang']}, load average now {machine['load average before the start']}, {machine['date']}.)",
            *(line for name, profile in profiles.items() for line in ("", f"### {SYSTEMS[name][0]}", *_fence(profile))),
            "",
        ]
    )


def _row(name: str, profile: Profile) -> str:
    cells = (f"{profile.find(metric, statistic):,.{digits}f}" for _, metric, statistic, digits in _COLUMNS)
    return f"| {SYSTEMS[name][0]} | {' | '.join(cells)} | {profile.num_failed} |"


def _fence(profile: Profile) -> tuple[str, ...]:
    return ("", "```text", *(line.rstrip() for line in profile.tables.splitlines()), "```")
