"""Who asks for a path that is not there learns which one was meant, and which there are."""

import pytest

from prefillshare.wire.paths import CALLS, describe_missing


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/v1/nothing/of/this", None),
        ("/", None),
        ("//", None),
    ],
)
def test_the_nearest_path_is_named(path: str, meant: str | None) -> None:
    told = describe_missing(path, CALLS)
    assert told.startswith(f"there is no {path} here; " + (f"did you mean {meant}? " if meant else "there are: "))
    assert told.endswith("/deployment/state, /flush_cache")
