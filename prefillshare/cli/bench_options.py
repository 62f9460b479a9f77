"""The options of `prefillshare bench`: one type per option, and all of them as they were given."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from prefillshare.cli.completion import complete_key
from prefillshare.cli.text import key_option, number_option, text_option

WorkloadName = Annotated[
    str | None, typer.Argument(help="react, reflexion, unshared, trace FILE or gsm8k-agents FILE.")
]
WorkloadFile = Annotated[Path | None, typer.Argument(help="File of the workloads trace and gsm8k-agents.")]

# What is measured.
Systems = Annotated[
    str,
    typer.Option(
        help="shared, shared-lazy, shared-open, shared-wait, shared-pd, vanilla-lora, vanilla-pd, vanilla-single; the "
        "first is compared."
    ),
]
Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=URL of an OpenAI-compatible server that runs already; URL#MODEL,MODEL names models.",
        callback=text_option,
    ),
]
EndpointKey = Annotated[
    str | None, typer.Option(help="Key of the endpoints.", envvar="PREFILLSHARE_BENCH_API_KEY", callback=key_option)
]
PresetName = Annotated[
    str | None,
    typer.Option(help="cpu, gpu-8b or gpu-15min; without one, cpu or gpu-8b, as the machine is. Options override it."),
]
FamilyName = Annotated[
    str | None,
    typer.Option(
        help="bench-0.1b, bench-0.1b-icarus, tiny, qwen3-1.7b-shape, qwen3-8b-shape or a colocated deployment file."
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of what all systems serve, such as engine.page_size=16; again for each further one.",
        callback=text_option,
        autocompletion=complete_key,
    ),
]
ModuleCounts = Annotated[str | None, typer.Option(help="Numbers of decode modules, such as 1,2,4,8; else 4.")]

# How hard it is driven.
Concurrency = Annotated[str | None, typer.Option(help="Closed loop: sessions at a time, such as 1,4,8.")]
Rate = Annotated[str | None, typer.Option(help="Poisson arrivals: sessions per second, such as 0.5,1,2.")]
Speed = Annotated[str | None, typer.Option(help="Trace: its own arrival times, so many times faster, such as 1,2.")]

# The shape of the workload.
NumSessions = Annotated[int | None, typer.Option(help="Sessions per run.")]
StartTokens = Annotated[int | None, typer.Option(help="Context before the first call.")]
GrowthTokens = Annotated[int | None, typer.Option(help="Tokens that join between two calls.")]
OutputTokens = Annotated[str | None, typer.Option(help="Answer lengths, taken in turn, such as 8 or 64,8.")]
Turns = Annotated[int | None, typer.Option(help="Calls per session.")]
RoleTokens = Annotated[int | None, typer.Option(help="Instructions at the end of each prompt.")]
ThinkTime = Annotated[
    float | None, typer.Option(help="Seconds from an answer to the session's next call.", callback=number_option)
]
ContextLength = Annotated[int | None, typer.Option(help="Context window that a trace is scaled to.")]
VocabSize = Annotated[int | None, typer.Option(help="Made-up tokens lie below this id.")]
Seed = Annotated[int, typer.Option(help="Seed of everything made up.")]

# Limits, and what is checked.
KvTokens = Annotated[int | None, typer.Option(help="KV budget of each system in tokens; 0: the engine's.", min=0)]
StoreSize = Annotated[
    str | None,
    typer.Option("--store", help="A store of that size in memory, such as '4 GiB', for PrefillShare's systems."),
]
SloTtft = Annotated[
    float | None, typer.Option(help="Goodput: longest time to the first token, s.", callback=number_option)
]
SloGap = Annotated[
    float | None, typer.Option(help="Goodput: longest mean time between tokens, s.", callback=number_option)
]
Repeats = Annotated[int | None, typer.Option(help="Starts of each system; else 3.")]
NumChecked = Annotated[
    int | None,
    typer.Option(help="Answers per shared run compared with the reference; 8, with --resume as it was.", min=0),
]
RunLimit = Annotated[
    float | None,
    typer.Option(
        help="Seconds after which a run is cut; its figures are of the calls until then.", callback=number_option
    ),
]
TimeLimit = Annotated[
    float | None,
    typer.Option(help="Minutes that this call may take; it leaves out what does not fit.", callback=number_option),
]

# Where the results go.
ResultsDir = Annotated[Path | None, typer.Option("--out", "--output", help="New or empty directory for the results.")]
ResumeDir = Annotated[Path | None, typer.Option(help="Continue the measurement in this directory.")]


_SIZES: Mapping[str, str] = {
    "sessions": "num_sessions",
    "start_tokens": "start_tokens",
    "growth_tokens": "growth_tokens",
    "turns": "turns",
    "role_tokens": "role_tokens",
    "think_time": "think_time_s",
    "context_length": "context_length",
    "vocab_size": "vocab_size",
    "seed": "seed",
}
"""Fields of a workload's shape by the option that sets them."""


def read_sizes(given: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the fields of the workload's shape that a command's options set; None for those that were not given."""
    return {field: given[option] for option, field in _SIZES.items() if option in given}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The options as they were given; None leaves a value to the preset."""

    workload: str | None
    """Name of the workload; None with --resume."""
    file: Path | None
    """File that it is made from."""
    systems: str
    """Systems, separated by commas."""
    endpoints: tuple[str, ...]
    """NAME=URL of servers that run already."""
    preset: str | None
    """Name of the preset."""
    family: str | None
    """Family or deployment file."""
    changes: tuple[str, ...]
    """Keys that are set otherwise than the family has them."""
    modules: str | None
    """Numbers of modules, separated by commas."""
    concurrency: str | None
    """Closed loops."""
    rate: str | None
    """Poisson rates."""
    speed: str | None
    """Factors on the speed of a trace."""
    sizes: dict[str, float | None]
    """Fields of the workload's shape."""
    output_tokens: str | None
    """Answer lengths, separated by commas."""
    kv_tokens: int | None
    """KV budget; 0 leaves it to the engine."""
    store: str | None
    """Size of a store in memory."""
    slo: dict[str, float | None]
    """Fields of the SLO."""
    repeats: int | None
    """Starts of each system."""
    num_checked: int | None
    """Answers that are compared with the reference."""
    run_limit_s: float | None
    """Seconds of a run."""
    time_limit_s: float | None
    """Seconds of the whole call."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "BenchOptions":
        """Return the options of the command by the names of its parameters."""
        limit = given["time_limit"]
        renamed: dict[str, Any] = {
            "endpoints": tuple(given["endpoint"] or ()),
            "changes": tuple(given["changes"] or ()),
            "sizes": read_sizes(given),
            "slo": {"ttft_s": given["slo_ttft"], "gap_s": given["slo_gap"]},
            "num_checked": given["check_answers"],
            "run_limit_s": given["run_limit"],
            "time_limit_s": None if limit is None else 60 * limit,
        }
        same = {field.name: given[field.name] for field in fields(cls) if field.name not in renamed}
        return cls(**same, **renamed)
