"""The HTTP driver against a small server that answers like an OpenAI-compatible one."""

import json
from decimal import Decimal
from http.server import BaseHTTPRequestHandler

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import judge_answer, score_served
from prefillshare.evaluation.suites.gsm import GsmQuestion
from prefillshare.evaluation.suites.registry import load
from prefillshare.evaluation.suites.tiny import load_suite
from tests.support.http import serving


class Handler(BaseHTTPRequestHandler):
    """Knows the suite by heart as `right`, says nothing useful as `wrong`, refuses other names."""

    suite = load_suite("tiny-tool", 10)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        assert body["temperature"] == 0
        known = {json.dumps(question.messages): question.problem.answer for question in self.suite.questions}
        texts = {"right": known.get(json.dumps(body["messages"])), "wrong": "no idea"}
        text = texts.get(body["model"])
        usage = {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}}
        reply = {"choices": [{"message": {"content": text}}], "usage": usage} if text else {"message": "unknown model"}
        payload = json.dumps(reply).encode()
        self.send_response(200 if text else 404)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    with serving(Handler) as address:
        yield address


def test_asks_and_judges_every_question(url):
    counted = []
    score = score_served(Handler.suite, "right", url, on_answer=lambda: counted.append(1))
    assert (score.num_right, len(score.samples), len(counted)) == (10, 10, 10)
    assert {(sample.prompt_tokens, sample.cached_tokens) for sample in score.samples} == {(7, 5)}
    assert score_served(Handler.suite, "wrong", url).num_right == 0


def test_refusals_and_dead_servers_are_errors(url):
    with pytest.raises(EvaluationError, match="404"):
        score_served(Handler.suite, "unknown", url)
    with pytest.raises(EvaluationError, match="no answer from"):
        score_served(Handler.suite, "right", "http://127.0.0.1:9")
    with pytest.raises(EvaluationError, match="is not an address"):
        score_served(Handler.suite, "right", "http://127.0.0.1:none")


@pytest.mark.parametrize(
    "said", [b"<html>", b"", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"message": "no"}]}']
)
def test_a_server_of_another_kind_is_an_error(said: bytes):
    class Other(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    with serving(Other) as address, pytest.raises(EvaluationError, match=r"no chat completion .*: correct --url"):
        score_served(Handler.suite, "right", address)


@pytest.mark.parametrize("suite", ["tiny-math", "tiny-tool", "bfcl-simple", "gsm"])
@pytest.mark.parametrize(
    "answer",
    [
        "#### " + "9" * 5000,
        "[" * 100_000,
        '{"a":' * 100_000,
        "<tool_call>" + "[" * 100_000,
        "f(a={[1]: 2})",
        "f(a=" + "(" * 100_000,
        "f(a=" + "-" * 100_000 + "1)",
        "\0\ud800",
    ],
)
def test_an_answer_that_no_parser_takes_is_wrong_and_ends_nothing(suite, answer):
    if suite == "gsm":
        question = GsmQuestion(asked="1 + 1?", reference="2", final=Decimal(7))
    else:
        [question] = load(suite, directory=None, limit=1, may_run_code=False).questions
    sample = judge_answer(question, answer)
    assert not sample.is_right
    assert sample.reason
