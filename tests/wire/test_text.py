"""Whatever clients put into names and messages, pages and labels can be written, and terminals see no control."""

import json

import pytest

from prefillshare.observe.exposition import exposition
from prefillshare.observe.observer import Observer
from prefillshare.observe.sessions import Prompt
from prefillshare.observe.state import ModuleFacts, deployment_state, worker_state
from prefillshare.wire.text import MAX_NAME, as_json, decode_header, make_printable, session_name, shorten

ODD = ["caf\udce9", "\ud800", "a\x1b[31mb", "two\nlines", "\u202eright to left", "\x00", "\ufeff", "x" * 100_000]


@pytest.mark.parametrize("text", ODD)
def test_a_page_and_the_metrics_can_be_written_and_are_printable(text: str) -> None:
    observer = Observer()
    call = observer.begin(text, session=text, prompt=Prompt(data=b"a prompt that is long enough"))
    call.note_prefill(tokens=9, own=0, cross=0)
    call.end("error", reason=text)
    observer.events.tell("repin", text, text)
    observer.sessions.count_move(text)
    worker = worker_state(
        id=text,
        role="engine",
        module=text,
        url="http://127.0.0.1:1",
        pid=None,
        state="up",
        restarts=2**70,
        totals=dict.fromkeys(("prompt_tokens", "cached_tokens", "generated_tokens", "retractions"), 0),
        running=0,
        queued=0,
        kv=None,
        handoff=None,
    )
    state = deployment_state(
        observer,
        name=text,
        topology="disaggregated",
        prefill_module="base",
        modules=[ModuleFacts(name=text, kind="full", is_prefill_module=False)],
        workers=[worker],
    )
    told = json.loads(as_json(state))
    (session,) = told["sessions"]["items"]
    assert session["id"].isprintable()
    assert len(session["id"]) <= MAX_NAME
    assert session["repins"] == 1
    assert all(event[key].isprintable() for event in told["events"] for key in ("subject", "message"))
    assert b"prefillshare_requests_total{" in exposition(state)


@pytest.mark.parametrize("text", ODD)
def test_a_sessions_name_stays_itself_when_it_comes_again(text: str) -> None:
    name = session_name(text)
    assert session_name(name) == name
    assert name.isprintable()
    assert len(name) <= MAX_NAME


def test_long_names_with_one_beginning_are_two_sessions() -> None:
    assert session_name("s" * 500 + "a") != session_name("s" * 500 + "b")
    assert session_name("plain-name 1") == "plain-name 1"


def test_letters_of_any_script_stay() -> None:
    text = "café 東京 ħello 👍"
    assert make_printable(text) == text


def test_a_header_is_read_as_utf_8_or_else_as_latin_1() -> None:
    assert decode_header("café".encode()) == decode_header("café".encode("latin-1")) == "café"


def test_what_is_too_long_is_cut() -> None:
    assert shorten("abcdefgh", 6) == "abc..."
    assert shorten("abcdef", 6) == "abcdef"
