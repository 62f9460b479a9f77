"""The HTTP driver against a small server that answers like an OpenAI-compatible one."""

import json
from http.server import BaseHTTPRequestHandler

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import score_served
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
