"""Which key a request has, whatever headers it comes with."""

import pytest

from prefillshare.wire.keys import find_key
from sglang_patches.http.keys import read_key, with_key

FORMS = [
    ({"Authorization": "Bearer one"}, "one"),
    ({"Authorization": "bearer   one  "}, "one"),
    ({"Authorization": "one"}, ""),
    ({"Authorization": "Basic one"}, ""),
    ({"Authorization": "Bearer"}, ""),
    ({"X-Api-Key": "two"}, "two"),
    ({"X-Api-Key": " two "}, "two"),
    ({"Authorization": "Bearer one", "X-Api-Key": "two"}, "two"),
    ({"X-Api-Key": "two", "Authorization": "Bearer one"}, "two"),
    ({"Authorization": "Bearer one", "X-Api-Key": ""}, "one"),
    ({"Authorization": "Bearer one two"}, "one two"),
    ({"Authorization": "Bearer \u00e9\u00a0"}, "\u00e9\u00a0"),
    ({}, ""),
]


@pytest.mark.parametrize(("headers", "key"), FORMS)
def test_router_and_engine_find_the_same_key(headers: dict[str, str], key: str) -> None:
    assert find_key(headers.get) == key
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    assert read_key(raw) == key


def test_of_repeated_headers_the_first_counts() -> None:
    assert read_key([(b"authorization", b"Bearer one"), (b"authorization", b"Bearer two")]) == "one"


def test_bytes_that_are_no_text_stay_what_they_are() -> None:
    key = read_key([(b"x-api-key", b"\xff\xe9")])
    assert key.encode(errors="surrogateescape") == b"\xff\xe9"


def test_one_header_is_left_of_all_that_name_keys() -> None:
    given = [(b"x-api-key", b"two"), (b"host", b"h"), (b"authorization", b"Bearer one")]
    assert with_key(given, "own") == [(b"host", b"h"), (b"authorization", b"Bearer own")]
    assert with_key(given, "") == [(b"host", b"h")]
