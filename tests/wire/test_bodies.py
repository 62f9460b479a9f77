"""How a body must be declared, and the error with which a stream may begin."""

import pytest

from prefillshare.wire.bodies import StreamError, is_uncompressed, is_utf_8, read_stream_error


def test_json_is_utf_8_and_not_compressed() -> None:
    assert all(map(is_utf_8, ("", "UTF-8", "utf8", "us-ascii", "ASCII")))
    assert not is_utf_8("utf-16")
    assert all(map(is_uncompressed, ("", " identity ", "Identity")))
    assert not is_uncompressed("gzip")


@pytest.mark.parametrize(("code", "status"), [("400", 400), ('"503"', 503), ("0", 500)])
def test_a_stream_may_begin_with_an_error(code: str, status: int) -> None:
    body = f'{{"error": {{"message": "no room", "code": {code}}}}}'
    found = read_stream_error(f"data: {body}\n\ndata: [DONE]\n\n".encode())
    assert found == StreamError(status=status, message="no room", body=body.encode())


@pytest.mark.parametrize(
    "first", [b"", b'data: {"id": 1}\n', b'data: {"error": "no", \n', b'data: {"error": {"code": "odd"}}\n']
)
def test_other_beginnings_are_no_error(first: bytes) -> None:
    assert read_stream_error(first) is None
