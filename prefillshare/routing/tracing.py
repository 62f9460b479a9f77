"""One OpenTelemetry trace per call: the router's span, and below it those of both workers.

The trace context goes to the workers as W3C `traceparent`, by which SGLang's own tracing continues the trace; a client
that sends one has the call in its own trace. Spans are exported by a thread of their own, in batches, to an OTLP gRPC
receiver; one that cannot be reached costs spans, never calls.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prefillshare.observe import gen_ai
from prefillshare.routing.headers import pick_headers

if TYPE_CHECKING:
    from opentelemetry.trace import Span

PASSED_HEADERS = ("X-Request-Id", "traceparent", "tracestate")
"""What of a client's headers its call takes along."""
_SEND_TIMEOUT_S = 2.0
_CLOSE_TIMEOUT_S = 3.0


class CallSpan:
    """One call in its trace; without tracing it only passes the client's headers on."""

    def __init__(self, headers: Mapping[str, str], span: "Span | None" = None) -> None:
        self.headers = headers
        """What both legs are sent."""
        self._span = span

    def note(self, **attributes: str | int) -> None:
        """Add attributes to the span."""
        if self._span is not None:
            self._span.set_attributes({f"prefillshare.{name}": value for name, value in attributes.items()})


class Tracing:
    """Makes spans, if there is an `endpoint` to send them to."""

    def __init__(self, endpoint: str | None) -> None:
        self._provider: Any = None
        if endpoint is None:
            return
        # Imported late: a router without tracing needs neither gRPC nor the SDK.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=Resource.create({"service.name": "prefillshare-router"}))
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=endpoint, insecure=True, timeout=_SEND_TIMEOUT_S), schedule_delay_millis=500
            )
        )
        self._tracer = self._provider.get_tracer("prefillshare.routing")
        self._propagator = TraceContextTextMapPropagator()

    def span(
        self, headers: Mapping[str, str], *, module: str, endpoint: str, session: str | None
    ) -> contextlib.AbstractContextManager[CallSpan]:
        """Give a call its span while the block runs; an exception that leaves the block marks it failed."""
        passed = pick_headers(headers, PASSED_HEADERS)
        if self._provider is None:
            return contextlib.nullcontext(CallSpan(passed))
        return self._record(passed, module=module, endpoint=endpoint, session=session)

    @contextlib.contextmanager
    def _record(self, passed: dict[str, str], *, module: str, endpoint: str, session: str | None) -> Iterator[CallSpan]:
        from opentelemetry import trace

        span = self._tracer.start_span(
            f"{gen_ai.name_operation(endpoint)} {module}",
            context=self._propagator.extract(passed),
            kind=trace.SpanKind.SERVER,
            attributes=gen_ai.describe_call(endpoint, module, session),
        )
        self._propagator.inject(passed, context=trace.set_span_in_context(span))
        with trace.use_span(span, end_on_exit=True):
            call_span = CallSpan(passed, span)
            call_span.note(module=module, endpoint=endpoint)
            yield call_span

    async def close(self) -> None:
        """Send what is left, for at most `_CLOSE_TIMEOUT_S`."""
        if self._provider is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await asyncio.to_thread(self._provider.shutdown)
