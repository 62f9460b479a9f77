"""A receiver of OpenTelemetry traces: a real gRPC server in the test's process that keeps every span."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One received span."""

    service: str
    """Who made it."""
    name: str
    """What it is about."""
    trace_id: str
    """Hexadecimal."""
    span_id: str
    """Hexadecimal."""
    parent_id: str
    """Hexadecimal; empty at the root of a trace."""
    attributes: dict[str, Any]
    """Texts and numbers."""


class Receiver(services.TraceServiceServicer):
    """What was received so far."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.spans: list[Span] = []

    def Export(self, request: Any, context: Any) -> Any:
        """Take the spans of one process."""
        for group in request.resource_spans:
            service = _attributes(group.resource.attributes).get("service.name", "")
            self.spans += [_span(service, span) for scope in group.scope_spans for span in scope.spans]
        return messages.ExportTraceServiceResponse()

    def call(self, trace_id: str) -> tuple[Span, dict[str, Span]]:
        """Of a trace the router's span and, by role, SGLang's request spans, once both workers' have come."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            spans = [span for span in self.spans if span.trace_id == trace_id]
            routers = [span for span in spans if span.service == "prefillshare-router"]
            # SGLang names them "prefill Req 1234abcd"; its web framework adds spans of its own.
            requests = {span.name.split()[0].lower(): span for span in spans if " Req " in span.name}
            if len(routers) == 1 and {"prefill", "decode"} <= set(requests):
                return routers[0], requests
            assert time.monotonic() < deadline, spans
            time.sleep(0.05)


@contextlib.contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """A receiver on a free port."""
    receiver = Receiver()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        services.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
        receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(grace=None).wait()


def _span(service: str, span: Any) -> Span:
    return Span(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
