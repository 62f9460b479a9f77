"""One call is one trace: the router's span, and below it one of each worker."""

import pytest

from tests.cluster.conftest import Cluster
from tests.support.otlp import Receiver

OURS = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.mark.parametrize("is_stream", [False, True])
def test_router_prefill_and_decode_share_the_clients_trace(cluster: Cluster, traces: Receiver, is_stream: bool) -> None:
    trace_id = f"{int(OURS, 16) + is_stream:032x}"
    body = {"model": "tool", "prompt": "Omar 3 boxes", "max_tokens": 4, "temperature": 0, "stream": is_stream}
    headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
    reply = cluster.http.post("/v1/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text

    spans = traces.trace(trace_id, services={"prefillshare-router", "sglang"}, num_roots=2)
    (router,) = [span for span in spans if span.service == "prefillshare-router"]
    assert router.parent_id == PARENT
    assert router.attributes["prefillshare.module"] == "tool"
    assert router.attributes["prefillshare.decode_worker"] == "decode-tool-0"
    legs = {span.name.split(" Req ")[0].strip().lower() for span in spans if span.parent_id == router.span_id}
    assert legs == {"prefill", "decode"}


def test_a_call_without_a_trace_begins_one(cluster: Cluster, traces: Receiver) -> None:
    before = {span.span_id for span in traces.spans}
    assert cluster.complete("math").status_code == 200
    while not (new := [one for one in traces.spans if one.span_id not in before and one.parent_id == ""]):
        assert cluster.http.get("/health").status_code == 200
    assert new[0].service == "prefillshare-router"
    traces.trace(new[0].trace_id, services={"prefillshare-router", "sglang"}, num_roots=2)
