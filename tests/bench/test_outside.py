"""What the outside load generator is given, and which of its tables the report shows."""

import json
from pathlib import Path

from benchmarks.outside.aiperf import Profile
from benchmarks.outside.workload import Sizes, write_sessions

_SIZES = Sizes(num_sessions=2, num_turns=5, start_words=30, growth_words=3, output_tokens=8)


def _read(file: Path) -> list[list[dict[str, object]]]:
    return [json.loads(line)["turns"] for line in file.read_text().splitlines()]


def test_every_turn_names_its_model_and_texts_do_not_depend_on_names(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_sessions(ours, _SIZES, ("a", "b", "c"))
    write_sessions(theirs, _SIZES, ("base:a", "base:b", "base:c"))
    for session in _read(ours):
        assert [turn["extra"] for turn in session] == [{"model": name} for name in "abcab"]
        assert [len(str(turn["text"]).split()) for turn in session] == [30, 3, 3, 3, 3]
    texts = [[turn["text"] for turn in session] for session in _read(ours)]
    assert texts == [[turn["text"] for turn in session] for session in _read(theirs)]
    assert texts[0] != texts[1]


def test_the_report_has_the_tables_that_servers_are_compared_by() -> None:
    titles = ("LLM Metrics: Effective", "LLM Metrics: Usage", "LLM Metrics")
    text = "\n".join(f"      NVIDIA AIPerf | {title}   \n| row of {title} |" for title in titles)
    profile = Profile(figures={"completed_request_count": {"avg": 40.0}, "request_error_rate": {"avg": 5.0}}, text=text)
    assert profile.num_failed == 2
    assert [line for line in profile.tables.splitlines() if "row" in line] == [
        "| row of LLM Metrics: Usage |",
        "| row of LLM Metrics |",
    ]
