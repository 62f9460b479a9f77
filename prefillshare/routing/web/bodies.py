"""The body of a request: JSON text as it is, neither compressed nor larger nor slower than the settings allow."""

import asyncio

from aiohttp import web

from prefillshare.config.router import Router
from prefillshare.routing.errors import BadCallError, BodyTimeoutError, MediaTypeError, TooLargeError
from prefillshare.routing.headers import read_header
from prefillshare.wire.bodies import is_uncompressed, is_utf_8


async def read_json_body(request: web.Request, settings: Router) -> bytes:
    """Return the body of `request`, which must be declared as JSON.

    Raises: MediaTypeError, TooLargeError, BodyTimeoutError, BadCallError.
    """
    if request.content_type != "application/json":
        raise MediaTypeError(
            f"the content type is {request.content_type}: send JSON with the header Content-Type: application/json"
        )
    charset = request.charset or ""
    if not is_utf_8(charset):
        raise MediaTypeError(f"the charset is {charset[:40]!r}: send JSON in UTF-8")
    return await read_body(request, settings)


async def read_body(request: web.Request, settings: Router) -> bytes:
    """Return the body of `request`, whatever it is declared as.

    Raises: MediaTypeError when it is compressed, TooLargeError, BodyTimeoutError, BadCallError.
    """
    encoding = read_header(request.headers, "Content-Encoding") or ""
    if not is_uncompressed(encoding):
        raise MediaTypeError(f"the content encoding is {encoding[:40]!r}: send the JSON text uncompressed")
    try:
        if (request.content_length or 0) <= settings.max_body_bytes:
            if request.content.is_eof():
                return _take(request, settings)  # most bodies come with their headers
            async with asyncio.timeout(settings.body_timeout_s):
                return await request.read()
    except web.HTTPRequestEntityTooLarge:
        pass
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {settings.body_timeout_s:g} s: send it again") from None
    except web.RequestPayloadError as error:
        raise BadCallError(f"the body cannot be read ({error}): send it again") from None
    raise _too_large(settings)


def _take(request: web.Request, settings: Router) -> bytes:
    """Return a body that is all there.

    Raises: TooLargeError, web.RequestPayloadError.
    """
    body = request.content.read_nowait()
    if len(body) > settings.max_body_bytes:
        raise _too_large(settings)
    return body


def _too_large(settings: Router) -> TooLargeError:
    return TooLargeError(
        f"the body is larger than {settings.max_body_bytes} bytes: send less, or raise max_body_bytes under [router]"
    )
