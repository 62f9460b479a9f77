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


def test_a_stream_may_begin_with_a_refusal() -> None:
    end = '{"type":"abort","message":"too long","status_code":400,"err_type":"BadRequestError"}'
    meta_info = f'{{"id":"1","finish_reason":{end},"prompt_tokens":1}}'
    found = read_stream_error(f'data: {{"text":"","output_ids":[],"meta_info":{meta_info}}}\n\n'.encode())
    body = b'{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":null}}'
    assert found == StreamError(status=400, message="too long", body=body)


@pytest.mark.parametrize(
    "end",
    [
        "null",
        '{"type":"length","length":0}',
        '{"type":"abort","message":"by the caller","status_code":null}',
        '{"type":"abort","status_code":400}',
        '{"type":"abort","message":"odd","status_code":200}',
    ],
)
def test_a_piece_without_a_token_is_no_refusal(end: str) -> None:
    first = f'data: {{"text":"","output_ids":[],"meta_info":{{"id":"1","finish_reason":{end}}}}}\n\n'
    assert read_stream_error(first.encode()) is None


@pytest.mark.parametrize(
    "first", [b"", b'data: {"id": 1}\n', b'data: {"error": "no", \n', b'data: {"error": {"code": "odd"}}\n']
)
def test_other_beginnings_are_no_error(first: bytes) -> None:
    assert read_stream_error(first) is None
