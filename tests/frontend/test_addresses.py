"""Addresses of other servers than a deployment's."""

import pytest

from prefillshare.errors import PrefillShareError
from prefillshare.frontend import Endpoint
from tests.support.http import answering, serving


@pytest.mark.parametrize("content", [b"<html>It works!</html>", b"", b"[]", b"{}", b'{"prefill": "base"}'])
def test_a_server_of_another_kind_is_named(content: bytes) -> None:
    with serving(answering(content)) as url, pytest.raises(PrefillShareError, match="the address of a PrefillShare"):
        Endpoint(url)
