"""What goes over the wire, as msgpack: between the processes of two hosts, and from an engine to its host's own."""

import msgspec

MOST_BODY_BYTES = 8 << 20
"""Keys of a prompt of 2 million tokens and more, at 16 tokens a page."""
FETCH_PATH = "/fetch"
STAGE_PATH = "/stage"
MAC_HEADER = "X-PrefillShare-Mac"


class Meet(msgspec.Struct, kw_only=True):
    """Asks for what NIXL has to know of the peer's staging memory."""

    nonce: bytes


class Met(msgspec.Struct, kw_only=True):
    """The peer's agent."""

    agent: str
    metadata: bytes


class Find(msgspec.Struct, kw_only=True):
    """Asks how many of the pages, from the first on, a peer has."""

    nonce: bytes
    identity: bytes
    keys: list[bytes]


class Found(msgspec.Struct, kw_only=True):
    """How many."""

    num_pages: int


class Stage(msgspec.Struct, kw_only=True):
    """Asks for pages to be laid where they can be read; the peer lays as many as it has and has room for."""

    nonce: bytes
    identity: bytes
    keys: list[bytes]
    codec: int
    """The number of the codec that is wanted on the way; a page that it does not make smaller comes as it is."""


class StagedPage(msgspec.Struct, kw_only=True):
    """Where a page lies, and what it must be."""

    address: int
    length: int
    codec: int
    digest: int
    """Of the page as engines have it (`tier.page_digest`)."""
    mac: bytes
    """Of the bytes that are read, under the secret and the nonce of the request."""


class Staged(msgspec.Struct, kw_only=True):
    """Pages that lie there until the lease is given back or has ended."""

    lease: bytes
    agent: str
    pages: list[StagedPage]


class Fetch(msgspec.Struct, kw_only=True):
    """An engine asks its host's process to bring pages into the host's store."""

    identity: bytes
    prefix: list[bytes]
    """Keys of the chain before them."""
    keys: list[bytes]
    timeout_s: float


class Fetched(msgspec.Struct, kw_only=True):
    """How many of the pages, from the first on, the store has now that it had not."""

    num_pages: int
