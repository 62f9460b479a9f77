"""Bytes of one client, wherever they may stand, never break what others read; what is no HTTP gets an error to read."""

import json

import pytest

from tests.routing.raw import CHAT, error_of, send
from tests.routing.workers import deployment, in_loop

PAGES = ("/deployment/state", "/metrics", "/router/state", "/workers", "/health", "/v1/models")
LATIN_1 = "café".encode("latin-1")


def _with(**fields: object) -> bytes:
    return json.dumps(json.loads(CHAT) | fields).encode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([b"X-Session-ID: " + LATIN_1], CHAT),
        ([b"X-Session-ID: \xff\xfe\x80"], CHAT),
        ([b"X-Session-ID: " + b"s" * 8000], CHAT),
        ([b"X-Request-ID: " + LATIN_1, b"traceparent: 00-\xff", b"tracestate: \xfe=1"], CHAT),
        ([b"Authorization: Bearer \xe9\xff", b"User-Agent: \xff"], CHAT),
        ([], _with(user="a\x1b[31mb\x00\u202e", session_id="")),
        ([], _with(session_id="s\x00\x1b]0;title\x07" * 1000, cache_salt="\x00\x1b", extra_key="\u2028")),
    ],
)
@in_loop
async def test_pages_are_readable_after_a_call_with_odd_text(headers: list[bytes], body: bytes) -> None:
    async with deployment(prefill=2, policy="session") as running:
        status, answer = await send(running.url, body, headers=headers)
        assert status == 200, answer
        # The session moves to another worker, which is told in an event that names it.
        running["p0"].status = running["p1"].status = 200
        for worker in ("p0", "p1"):
            running.parts.pool.get(worker).set_state("draining")  # type: ignore[union-attr]
            await send(running.url, body, headers=headers)
            running.parts.pool.get(worker).set_state("up")  # type: ignore[union-attr]
        for page in PAGES:
            async with running.http.get(running.url + page) as reply:
                assert reply.status == 200, page
                text = await reply.text()
                if page != "/metrics":
                    told = json.loads(text)
        async with running.http.get(running.url + "/deployment/state") as reply:
            told = await reply.json()
        assert all(session["id"].isprintable() for session in told["sessions"]["items"])
        assert all(event["subject"].isprintable() for event in told["events"])


@in_loop
async def test_a_session_is_the_same_in_utf_8_and_in_latin_1() -> None:
    async with deployment() as running:
        for name in (LATIN_1, "café".encode()):
            assert (await send(running.url, headers=[b"X-Session-ID: " + name]))[0] == 200
        async with running.http.get(running.url + "/deployment/state") as reply:
            (session,) = (await reply.json())["sessions"]["items"]
        assert (session["id"], session["num_calls"]) == ("café", 2)


@in_loop
async def test_workers_get_headers_that_every_server_takes() -> None:
    async with deployment() as running:
        await send(running.url, headers=[b"X-Request-ID: " + LATIN_1, b"tracestate: \xff=1"])
        for worker in ("p0", "math-0"):
            (headers,) = running[worker].headers
            assert headers["X-Request-Id"] == r"caf\xe9"
            assert headers["tracestate"].isascii()
            assert headers["tracestate"].isprintable()


@pytest.mark.parametrize(
    ("head", "headers", "body", "status"),
    [
        (b"POST /caf\xe9", [], CHAT, 400),
        (b"POST /caf%E9%0Aan%20entry", [], CHAT, 404),
        (b"GET /v1/models?a=\xff", [], b"", 400),
        (b"GET /v1/models/%00%E9%0A", [], b"", 404),
        (b"POST /modules/%FF/generate", [], b'{"text": "a"}', 404),
        (b"G\xe9T /health", [], b"", 400),
        (b"FOO /v1/chat/completions", [], b"", 400),
        (b"DELETE /v1/chat/completions", [], b"", 405),
        (b"POST /v1/chat/completions", [b"X-Session-ID: a\x01b"], CHAT, 400),
        (b"POST /v1/chat/completions", [b"X-Long: " + b"a" * 20_000], CHAT, 400),
        (b"POST /v1/chat/completions", [b"X-%d: a" % number for number in range(300)], CHAT, 400),
        (b"POST /v1/chat/completions", [b"Content-Length: -1"], CHAT, 400),
        (b"POST /v1/chat/completions", [b"Content-Length: 3", b"Content-Length: 4"], CHAT, 400),
        (b"POST /v1/chat/completions", [b"Transfer-Encoding: chunked"], b"zz\r\nhello\r\n0\r\n\r\n", 400),
        (b"POST /v1/chat/completions", [b"Expect: nonsense"], CHAT, 417),
    ],
)
@in_loop
async def test_what_cannot_be_read_gets_openais_error(
    head: bytes, headers: list[bytes], body: bytes, status: int
) -> None:
    async with deployment() as running:
        found, answer = await send(running.url, body, head=head, headers=headers)
        assert (found, error_of(answer)["type"]) == (status, "invalid_request_error")
        assert error_of(answer)["message"].isprintable()
        assert running["math-0"].bodies == []
