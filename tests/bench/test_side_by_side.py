"""One real measurement: PrefillShare beside SGLang as released, on the same calls, with every token accounted for."""

import json
import re
from pathlib import Path

import pytest

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.metrics.prefixes import account
from prefillshare.bench.metrics.summary import Slo
from prefillshare.bench.plan import Cell, Plan
from prefillshare.bench.progress import Progress
from prefillshare.bench.report.write import write_report
from prefillshare.bench.runner import Runner
from prefillshare.bench.store import Store
from prefillshare.bench.workloads.base import Shape
from tests.support.marks import starts_engine

SESSIONS, TURNS, MODULES = 2, 6, 3
START, GROWTH, OUTPUT = 100, 12, 8
LOAD = Load(kind="closed", value=1)
TOGETHER = Load(kind="closed", value=2)
"""Prompts are computed while another session's answer is decoded."""


@pytest.fixture(scope="module")
@starts_engine
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store, Runner]:
    plan = Plan(
        workload="react",
        family="tiny",
        systems=("shared", "vanilla-lora"),
        module_counts=(MODULES,),
        loads=(LOAD, TOGETHER),
        repeats=1,
        shape=Shape(
            num_sessions=SESSIONS, start_tokens=START, growth_tokens=GROWTH, output_tokens=(OUTPUT,), turns=TURNS
        ),
        kv_tokens=8192,
        slo=Slo(ttft_s=5.0, gap_s=1.0),
        num_checked=SESSIONS * TURNS,
    )
    store = Store(tmp_path_factory.mktemp("bench") / "results")
    store.begin(plan, {"cores": 2})
    runner = Runner(plan, store)
    runner.run(Progress(runner.num_calls(), tell=lambda line: None))
    return plan, store, runner


def _cell(system: str, load: Load = LOAD) -> Cell:
    return Cell(repeat=1, num_modules=MODULES, system=system, load=load)


def test_each_token_is_prefilled_as_often_as_it_must(measured: tuple[Plan, Store, Runner]) -> None:
    _, store, runner = measured
    runs = {system: store.get(_cell(system)).record for system in ("shared", "vanilla-lora")}
    prompts = [START + call * (GROWTH + OUTPUT) for call in range(TURNS)]
    for run in runs.values():
        assert [call.error for call in run.calls] == [None] * SESSIONS * TURNS
        assert [call.prompt_tokens for call in run.calls] == prompts * SESSIONS

    # Shared: what the call before had as prompt, but for its x_n, which its decode module computed.
    expected = [0, *(prompt - 1 for prompt in prompts[:-1])]
    assert [call.cached_tokens for call in runs["shared"].calls] == expected * SESSIONS
    # As released: the module's own last prompt, with what it answered but for the last token, which no step computes.
    expected = [0] * MODULES + [prompt + OUTPUT - 1 for prompt in prompts[:-MODULES]]
    assert [call.cached_tokens for call in runs["vanilla-lora"].calls] == expected * SESSIONS

    workload = runner.workload(MODULES, LOAD)
    for run in runs.values():
        cached = sum(call.cached_tokens or 0 for call in run.calls)
        assert run.prefilled_tokens == sum(prompts) * SESSIONS - cached
    # Answers so short are not computed ahead, and SGLang as released computes none.
    assert {system: run.eager_tokens for system, run in runs.items()} == {"shared": 0, "vanilla-lora": None}
    ideal = account(workload, runs["vanilla-lora"].calls)
    assert ideal.own_tokens == (sum(expected) + TURNS - MODULES) * SESSIONS
    unique = account(workload, runs["shared"].calls).unique_tokens
    assert runs["shared"].prefilled_tokens == unique + SESSIONS * (TURNS - 1)
    assert max(sample.tokens for sample in runs["shared"].kv) <= prompts[-1] + OUTPUT


@pytest.mark.parametrize("system", ["shared", "vanilla-lora"])
def test_decoded_tokens_do_not_count_as_prefilled(measured: tuple[Plan, Store, Runner], system: str) -> None:
    _, store, _ = measured
    run = store.get(_cell(system, TOGETHER)).record
    assert [call.error for call in run.calls] == [None] * len(run.calls)
    assert run.prefilled_tokens == sum((call.prompt_tokens or 0) - (call.cached_tokens or 0) for call in run.calls)


def test_answers_equal_the_reference_while_they_are_measured(measured: tuple[Plan, Store, Runner]) -> None:
    _, store, _ = measured
    every = SESSIONS * TURNS
    assert store.get(_cell("shared")).record.fidelity == {"compared": every, "exact": every, "token_agreement": 1.0}
    assert store.get(_cell("vanilla-lora")).record.fidelity is None


def test_a_check_that_was_interrupted_is_made_up_for_when_the_measurement_goes_on(
    measured: tuple[Plan, Store, Runner],
) -> None:
    plan, store, _ = measured
    cell = _cell("shared", TOGETHER)
    run = store.get(cell)
    found, run.record.fidelity = run.record.fidelity, None
    assert found == {"compared": SESSIONS * TURNS, "exact": SESSIONS * TURNS, "token_agreement": 1.0}
    store.put(cell, run)
    lines: list[str] = []
    Runner(plan, store).run(Progress(0, tell=lines.append))
    assert store.get(cell).record.fidelity == found
    assert store.get(cell).commands == run.commands
    assert [line.rpartition(": ")[2] for line in lines] == [f"{SESSIONS * TURNS} of {SESSIONS * TURNS} equal"]


def test_the_report_holds_everything(measured: tuple[Plan, Store, Runner]) -> None:
    _, store, runner = measured
    header, rows = write_report(store, runner)
    assert header == ["modules", "load", "figure", "shared", "vanilla-lora", "shared vs vanilla-lora"]
    by_figure = {row[2]: row[3:] for row in rows if row[1] == LOAD.title}
    prompts = sum(START + call * (GROWTH + OUTPUT) for call in range(TURNS)) * SESSIONS
    shared = store.get(_cell("shared")).record.prefilled_tokens or 0
    assert by_figure["prefix hit ratio"][0] == f"{1 - shared / prompts:.4f}"
    assert by_figure["failed calls"][:2] == ["0", "0"]
    assert float(by_figure["cross-module share of hits"][0]) > 0.5

    names = {file.name for file in (store.directory / "plots").iterdir()}
    stems = {"latency-cdf", "p95-over-load", "throughput-over-load", "hit-ratio-over-load", "kv-over-time"}
    assert names == {f"{stem}-n{MODULES}.{kind}" for stem in stems for kind in ("png", "svg")}
    page = (store.directory / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == len(stems)
    assert "http" not in page.replace("http://127.0.0.1", "")
    assert f"{SESSIONS * TURNS} of {SESSIONS * TURNS}" in page
    for text in ("Seed 1", "--radix-cache-backend prefillshare", "SGLANG_PLUGINS=prefillshare_cpu ", *by_figure):
        assert text in page.replace("&#x27;", "'")
    assert str(Path.home()) not in page
    text = (store.directory / "report.md").read_text()
    assert text.count("## 3 modules, ") == 2
    assert all(f"\n| {figure} | " in text for figure in by_figure)
    assert all((store.directory / plot).is_file() for plot in re.findall(r"!\[.*\]\((.*)\)", text))
    summary = json.loads((store.directory / "summary.json").read_text())
    assert [row["system"] for row in summary] == ["shared", "vanilla-lora"] * 2


def test_a_finished_measurement_has_nothing_left_to_run(measured: tuple[Plan, Store, Runner]) -> None:
    plan, store, _ = measured
    assert store.plan() == plan
    assert Runner(plan, store).pending == []


def test_the_cell_files_say_what_was_started(measured: tuple[Plan, Store, Runner]) -> None:
    _, store, _ = measured
    plain = store.get(_cell("vanilla-lora")).commands[0]
    ours = store.get(_cell("shared")).commands[0]
    assert "--max-total-tokens 8192" in plain
    assert "--max-total-tokens 8192" in ours
    # The same engine settings but for what makes it PrefillShare.
    assert _settings(ours) - _settings(plain) == {"--radix-cache-backend", "prefillshare"}
    assert _settings(plain) <= _settings(ours)


def _settings(command: str) -> set[str]:
    words = command.split()
    return {word for word in words[words.index("sglang.launch_server") :] if not word.isdigit()}
