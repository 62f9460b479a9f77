"""What a pair of workers cannot do is refused with one sentence, and nothing hangs or dies of it (I6)."""

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefillshare.contract import FINGERPRINT_VARIABLE, NO_BOOTSTRAP_HOST
from prefillshare.serving.machine.ports import free_port
from sglang_patches.disaggregation.handshake import NAMES, KvIdentity, difference, refusal
from tests.support.pd import deployment_file, pd_workers

WRONG = "sha256:" + "0" * 64
TIMEOUT_S = 3


def refused(pair, **fields) -> str:
    body = {"input_ids": [5, 6, 7], "sampling_params": {"temperature": 0, "max_new_tokens": 2}, **fields}
    replies = pair.post("/generate", body)
    assert [reply.status_code for reply in replies] == [400, 400]
    (message,) = {reply.json()["error"]["message"] for reply in replies}
    return message


def test_prompts_with_different_numbers_of_samples_are_refused(pair):
    params = [{"n": 3}, {"n": 2}]
    assert "n differs between the prompts" in refused(pair, input_ids=[[5, 6], [7, 8]], sampling_params=params)


def test_logprobs_of_the_prompt_that_did_not_come_along_are_refused(pair):
    assert "send the call to the deployment's router" in refused(pair, return_logprob=True, logprob_start_len=0)


def test_what_needs_the_sampler_of_both_workers_is_refused(pair):
    assert "return_sampling_mask is not available" in refused(pair, return_sampling_mask=True)


def test_a_call_past_the_router_is_refused(pair):
    for worker in (pair.prefill, pair.decode):
        reply = worker.post("/generate", json={"input_ids": [5, 6, 7]})
        assert reply.status_code == 400
        assert "send the call to the deployment's router" in reply.json()["error"]["message"]


def test_a_prefill_worker_that_answers_alone_refuses_what_an_engine_refuses(pair):
    alone = {"bootstrap_host": NO_BOOTSTRAP_HOST, "bootstrap_room": 7, "sampling_params": {"max_new_tokens": 0}}
    reply = pair.prefill.post(
        "/generate", json={"input_ids": [5, 6, 7], "return_logprob": True, "logprob_start_len": 9, **alone}
    )
    assert reply.status_code == 400
    assert "logprob_start_len=9 is higher than the number of input tokens" in reply.json()["error"]["message"]
    assert len(pair.generate([5, 6, 7], 3).tokens) == 3


@pytest.mark.engine
def test_a_prompt_that_one_worker_has_no_room_for_is_refused_by_that_one(tmp_path):
    """The other one has room, and would send KV that nobody waits for, or wait for what is never sent."""
    file = deployment_file(tmp_path, "tool", "code")
    tables = file.read_text().replace('name = "code"', 'name = "code"\nengine = { max_total_tokens = 640 }')
    file.write_text(tables + "max_total_tokens = 2048\n[engine.prefill]\nmax_total_tokens = 1024\n")
    with pd_workers(file) as workers:
        for module, num_tokens, refuses_first in (("tool", 1100, True), ("code", 700, False)):
            pair = workers.pairs[module]
            body = {"input_ids": [7] * num_tokens, "sampling_params": {"temperature": 0, "max_new_tokens": 2}}
            decoded, prefilled = pair.submit("/generate", {**body, "rid": module})
            refusing, waiting = (prefilled, decoded) if refuses_first else (decoded, prefilled)
            reply = refusing.result()
            assert reply.status_code == 400
            message = reply.json()["error"]["message"]
            assert f"the prompt has {num_tokens} tokens and the KV cache takes prompts of" in message
            # As the router does.
            (pair.decode if refuses_first else pair.prefill).post("/abort_request", json={"rid": module})
            assert waiting.result().status_code >= 400
            assert len(pair.generate([5, 6, 7], 3).tokens) == 3


def test_retracting_everything_is_refused(pair):
    reply = pair.decode.post("/pause_generation", json={"mode": "retract"})
    assert reply.status_code == 400
    assert "use abort or in_place" in reply.text
    assert len(pair.generate([5, 6, 7], 3).tokens) == 3


@pytest.mark.engine
def test_a_decode_worker_of_another_prefill_module_is_refused_by_name(tmp_path):
    timeout = {"SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": str(TIMEOUT_S)}
    environment = {"decode-tool-0": {FINGERPRINT_VARIABLE: WRONG}, "prefill-0": timeout}
    with pd_workers(deployment_file(tmp_path, "tool"), environment=environment) as workers:
        pair = workers.pairs["tool"]
        body = {"input_ids": [5, 6, 7], "sampling_params": {"temperature": 0, "max_new_tokens": 2}}
        for _ in range(2):  # the second call finds a worker that goes on, and refuses again
            started = time.monotonic()
            decoded, prefilled = pair.post("/generate", body)
            assert time.monotonic() - started < TIMEOUT_S + 60
            assert decoded.status_code == 500
            message = decoded.json()["error"]["message"]
            assert message.startswith("decode worker 'tiny-base' needs prefill module sha256:000000000000...")
            assert "but prefill worker 'tiny-base' at 127.0.0.1:" in message
            assert prefilled.status_code >= 500


def test_a_prefill_worker_that_is_not_there_is_named(pair):
    """The decode worker serves others while it waits, and gives up after fifteen tries."""
    away = {"bootstrap_host": "127.0.0.1", "bootstrap_port": free_port(), "bootstrap_room": 7}
    body = {"input_ids": [5, 6, 7], "sampling_params": {"temperature": 0, "max_new_tokens": 2}, **away}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pair.decode.post, "/generate", json=body)
        assert len(pair.generate([5, 6, 7, 8], 3).tokens) == 3
        assert not waiting.done()
        reply = waiting.result()
    assert reply.status_code == 500
    assert (
        f"the prefill worker at 127.0.0.1:{away['bootstrap_port']} does not answer" in reply.json()["error"]["message"]
    )


def test_a_prefill_worker_that_stalls_holds_up_its_own_calls_only(pair):
    """It accepts the connection, and its answer never ends."""
    with ThreadPoolExecutor(1) as pool:
        with dripping() as (port, is_asked):
            stalls = {"bootstrap_host": "127.0.0.1", "bootstrap_port": port, "bootstrap_room": 8}
            body = {"input_ids": [5, 6, 7], "sampling_params": {"temperature": 0, "max_new_tokens": 2}, **stalls}
            waiting = pool.submit(pair.decode.post, "/generate", json=body)
            assert is_asked.wait(300)
            assert len(pair.generate([5, 6, 7, 8], 3).tokens) == 3
            assert not waiting.done()
        reply = waiting.result()
    assert reply.status_code == 500
    reason = f"the prefill worker at 127.0.0.1:{port} does not answer: see whether it runs"
    assert reply.json()["error"]["message"] == reason


@contextlib.contextmanager
def dripping() -> Iterator[tuple[int, threading.Event]]:
    """A server that says a byte now and then: its port, and whether somebody has come."""
    is_asked, is_over = threading.Event(), threading.Event()

    def drip(connection: socket.socket) -> None:
        is_asked.set()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not is_over.wait(0.2):
                connection.sendall(b"x")

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not is_over.is_set():
                threading.Thread(target=drip, args=(server.accept()[0],)).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept, args=(server,))
        accepting.start()
        try:
            yield server.getsockname()[1], is_asked
        finally:
            is_over.set()
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()


@pytest.fixture
def identity() -> KvIdentity:
    return KvIdentity(
        worker="math",
        prefill_module="sha256:" + "a" * 64,
        geometry='{"num_layers": 5}',
        tokenizer="b" * 64,
        dtype="float32",
        kv_cache_dtype="auto",
        page_size=16,
    )


@pytest.mark.parametrize("field", NAMES)
def test_every_part_of_the_identity_is_compared(identity, field):
    other = dataclasses.replace(identity, worker="base", **{field: 1 if field == "page_size" else "other"})
    reason = difference(identity, other, "10.0.0.1:8998")
    assert reason is not None
    assert NAMES[field] in reason
    assert "'math'" in reason
    assert "'base' at 10.0.0.1:8998" in reason
    assert difference(identity, dataclasses.replace(identity, worker="base"), "10.0.0.1:8998") is None


def test_a_prefill_worker_that_says_nothing_is_refused_and_one_that_is_away_is_asked_again(identity, monkeypatch):
    from sglang_patches.disaggregation import handshake

    def away(url: str) -> tuple[int, str]:
        raise ConnectionRefusedError

    monkeypatch.setattr(handshake, "own_identity", lambda: identity)
    assert refusal("h:1", lambda url: (200, json.dumps(dataclasses.asdict(identity)))) is None
    with pytest.raises(ConnectionRefusedError):
        refusal("h:1", away)
    assert "start it with prefillshare" in (refusal("h:1", lambda url: (404, "404: Not Found")) or "")
