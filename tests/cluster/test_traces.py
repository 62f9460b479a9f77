"""One call is one trace: the router's span, and below it a request span of each worker."""

import time

import pytest

from tests.cluster.conftest import Cluster
from tests.support.otlp import DEADLINE_S, Receiver

OURS = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.mark.parametrize("is_stream", [False, True])
def test_router_prefill_and_decode_share_the_clients_trace(cluster: Cluster, traces: Receiver, is_stream: bool) -> None:
    trace_id = _trace_id(is_stream)
    body = {"model": "tool", "prompt": "Omar 3 boxes", "max_tokens": 4, "temperature": 0, "stream": is_stream}
    headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
    reply = cluster.http.post("/v1/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text

    router, requests = traces.call(trace_id)
    assert router.parent_id == PARENT
    assert router.attributes["prefillshare.module"] == "tool"
    assert router.attributes["prefillshare.decode_worker"] == "decode-tool-0"
    assert {span.parent_id for span in requests.values()} == {router.span_id}


def test_spans_have_the_names_of_opentelemetrys_conventions(cluster: Cluster, traces: Receiver) -> None:
    trace_id = _trace_id(48)
    headers = {"traceparent": f"00-{trace_id}-{PARENT}-01", "X-Session-ID": "s-48"}
    body = {"model": "tool", "messages": [{"role": "user", "content": "Omar"}], "max_tokens": 4, "temperature": 0}
    reply = cluster.http.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    usage = reply.json()["usage"]

    router, requests = traces.call(trace_id)
    assert router.name == "chat tool"
    of_the_call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "tool", "gen_ai.conversation.id": "s-48"}
    assert of_the_call.items() <= router.attributes.items()
    decode = requests["decode"].attributes
    assert decode["gen_ai.provider.name"] == "prefillshare"
    assert decode["gen_ai.request.model"] == decode["gen_ai.response.model"] == "tool"
    assert decode["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert decode["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert "gen_ai.usage.cache_read.input_tokens" in requests["prefill"].attributes


def test_a_call_without_a_trace_begins_one(cluster: Cluster, traces: Receiver) -> None:
    before = {span.trace_id for span in traces.spans}
    assert cluster.complete("code").status_code == 200
    deadline = time.monotonic() + DEADLINE_S
    while not (new := [span for span in traces.spans if span.trace_id not in before and " code" in span.name]):
        assert time.monotonic() < deadline, "no span came"
    router, requests = traces.call(new[0].trace_id)
    assert router.parent_id == ""
    assert {span.parent_id for span in requests.values()} == {router.span_id}


def test_looks_make_no_traces_and_calls_make_one_of_the_same_size(cluster: Cluster, traces: Receiver) -> None:
    _after_a_call(cluster, traces, 18)  # the router's spans come in order: now those of all earlier calls are here
    before = {span.trace_id for span in traces.spans}
    for path in ("/health", "/metrics", "/deployment/state", "/v1/models"):
        assert cluster.http.get(path).status_code == 200, path
        for name in (planned.worker.name for planned in cluster.running.workers):
            assert cluster.ask_worker(name, "GET", path).status_code == 200, (name, path)
    trace_ids = [_trace_id(number) for number in (16, 17)]
    for trace_id, num_tokens in zip(trace_ids, (2, 24), strict=True):
        body = {"model": "math", "prompt": [5, 6, 7, num_tokens], "max_tokens": num_tokens, "ignore_eos": True}
        headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
        assert cluster.http.post("/v1/completions", json=body, headers=headers).status_code == 200
        _, requests = traces.call(trace_id)
        assert {span.attributes["prefillshare.module"] for span in requests.values()} == {"math"}
    last = _after_a_call(cluster, traces, 19)
    assert {span.trace_id for span in traces.spans} - before == {*trace_ids, last}

    def names(trace_id: str) -> list[str]:
        return [span.name for span in traces.spans if span.trace_id == trace_id and "pid:" not in span.name]

    cluster.wait(lambda: len(names(trace_ids[0])) == len(names(trace_ids[1])), "both traces have the same size")
    assert not [name for name in names(trace_ids[1]) if "fastapi" in name or name == "decode_loop"]


def test_what_is_computed_and_pushed_ahead_makes_no_trace(cluster: Cluster, traces: Receiver) -> None:
    def num_pushed() -> int:
        told: dict[str, int] = cluster.http.get("/deployment/state").json()["eager_jobs"]
        return told["pushed"]

    _after_a_call(cluster, traces, 32)
    before, pushed_before = {span.trace_id for span in traces.spans}, num_pushed()
    prompt, trace_ids = [5, 6, 7, 8], [_trace_id(number) for number in range(33, 38)]
    for trace_id in trace_ids:
        params = {"max_new_tokens": 40, "ignore_eos": True, "temperature": 0}
        body = {"lora_path": "math", "input_ids": prompt, "sampling_params": params, "session_id": "traced"}
        headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
        reply = cluster.http.post("/generate", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        traces.call(trace_id)
        prompt += [*reply.json()["output_ids"], 9]
        time.sleep(0.3)
    # The session calls one module again and again, which is expected soon.
    cluster.wait(lambda: num_pushed() > pushed_before, "something was pushed")
    last = _after_a_call(cluster, traces, 38)
    assert {span.trace_id for span in traces.spans} - before == {*trace_ids, last}


def _after_a_call(cluster: Cluster, traces: Receiver, number: int) -> str:
    """The trace of a further call, once its spans have come."""
    headers = {"traceparent": f"00-{_trace_id(number)}-{PARENT}-01"}
    body = {"model": "math", "prompt": [5, 6, number], "max_tokens": 1}
    assert cluster.http.post("/v1/completions", json=body, headers=headers).status_code == 200
    traces.call(_trace_id(number))
    return _trace_id(number)


def _trace_id(number: int) -> str:
    return f"{int(OURS, 16) + number:032x}"
