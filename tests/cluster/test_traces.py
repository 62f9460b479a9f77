"""One call is one trace: the router's span, and below it a request span of each worker."""

import time

import pytest

from tests.cluster.conftest import Cluster
from tests.support.otlp import DEADLINE_S, Receiver

OURS = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.mark.parametrize("is_stream", [False, True])
def test_router_prefill_and_decode_share_the_clients_trace(cluster: Cluster, traces: Receiver, is_stream: bool) -> None:
    trace_id = f"{int(OURS, 16) + is_stream:032x}"
    body = {"model": "tool", "prompt": "Omar 3 boxes", "max_tokens": 4, "temperature": 0, "stream": is_stream}
    headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
    reply = cluster.http.post("/v1/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text

    router, requests = traces.call(trace_id)
    assert router.parent_id == PARENT
    assert router.attributes["prefillshare.module"] == "tool"
    assert router.attributes["prefillshare.decode_worker"] == "decode-tool-0"
    assert {span.parent_id for span in requests.values()} == {router.span_id}


def test_a_call_without_a_trace_begins_one(cluster: Cluster, traces: Receiver) -> None:
    before = {span.trace_id for span in traces.spans}
    assert cluster.complete("code").status_code == 200
    deadline = time.monotonic() + DEADLINE_S
    while not (new := [span for span in traces.spans if span.trace_id not in before and " code" in span.name]):
        assert time.monotonic() < deadline, "no span came"
    router, requests = traces.call(new[0].trace_id)
    assert router.parent_id == ""
    assert {span.parent_id for span in requests.values()} == {router.span_id}
