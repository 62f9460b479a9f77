"""GSM8K through lm-eval: what it asks over HTTP, and that right answers are right and wrong ones wrong.

In processes of their own: lm-eval seeds every random number generator when it starts.
"""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import run_eval
from tests.support.http import serving

TRAIN = [{"question": f"What is {n} + {n}?", "answer": f"Twice {n} is {2 * n}.\n#### {2 * n}"} for n in range(1, 9)]
TEST = [{"question": f"What is {n} - 3?", "answer": f"{n} less 3.\n#### {n - 3}"} for n in (1000, 1234, 7)]
ANSWERS = [TEST[0]["answer"], "So it is 1,231.", TEST[2]["answer"] + "1"]


class Handler(BaseHTTPRequestHandler):
    """Answers the first question as written, the second in other words and the third wrongly; refuses other models."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({**body, "key": self.headers.get("Authorization")})
        (number,) = (n for n, row in enumerate(TEST) if row["question"] in body["messages"][-1]["content"])
        is_known = body["model"] == "known"
        message = {"choices": [{"index": 0, "message": {"content": ANSWERS[number]}}]}
        payload = json.dumps(message if is_known else {"message": "no such model"}).encode()
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    Handler.asked = []
    with serving(Handler) as address:
        yield address


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, rows in (("train", TRAIN), ("test", TEST)):
        (tmp_path / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.slow
def test_both_filters_judge_and_examples_are_turns(url: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples.json"
    done = run_eval(
        *("gsm8k", "--harness", "lm-eval", "--model", "known", "--url", url, "--data", str(data), "--json"),
        *("--few-shot", "2", "--api-key", "secret", "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    assert {score["suite"]: score["num_right"] for score in json.loads(done.stdout)} == {
        "gsm8k (lm-eval, strict-match)": 1,
        "gsm8k (lm-eval, flexible-extract)": 2,
    }
    scores = json.loads(out.read_text())["scores"]
    assert [sample["is_right"] for sample in scores[0]["samples"]] == [True, False, False]
    assert [sample["reason"] for sample in scores[1]["samples"]] == ["", "", "41 instead of 4"]
    assert [(sample["question"], sample["answer"]) for sample in scores[0]["samples"]] == [
        (row["question"], answer) for row, answer in zip(TEST, ANSWERS, strict=True)
    ]
    assert len(Handler.asked) == len(TEST)
    for asked in Handler.asked:
        assert [turn["role"] for turn in asked["messages"]] == ["user", "assistant"] * 2 + ["user"]
        assert asked["messages"][1]["content"].startswith("Twice")
        assert (asked["temperature"], asked["key"]) == (0, "Bearer secret")


@pytest.mark.slow
def test_a_refusal_is_said_with_its_reason(url: str, data: Path) -> None:
    done = run_eval("gsm8k", "--harness", "lm-eval", "--model", "other", "--url", url, "--data", str(data))
    assert done.returncode != 0
    assert "no such model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gsm8k", "--harness", "helm"), "no harness 'helm'"),
        (("gsm8k", "--few-shot", "3"), "--few-shot 3 is for --harness lm-eval"),
        (("gsm-plus", "--harness", "lm-eval"), "suite gsm-plus cannot be asked through lm-eval"),
        (("gsm8k", "--harness", "lm-eval", "--weights", "some.toml"), "leave --weights out"),
        (("gsm8k", "--harness", "lm-eval", "--data", "/nowhere"), "/nowhere/gsm8k_train.jsonl does not exist"),
    ],
)
def test_bad_options_are_refused(url: str, arguments: tuple[str, ...], message: str) -> None:
    done = run_eval(*arguments, "--model", "known", "--url", url)
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
