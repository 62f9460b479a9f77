"""What a host does for its peers: says which pages it has, and lays them where they can be read."""

from collections.abc import Callable

import msgspec
import numpy as np

from prefillshare.store.base import Bytes
from prefillshare.store.codec import PLAIN, Codec, Decoders, can_encode
from prefillshare.store.codec.preparation import Preparation
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.remote.link import READ_BYTES
from prefillshare.store.remote.messages import STAGE_PATH, Find, Found, Meet, Met, Stage, Staged, StagedPage
from prefillshare.store.remote.secret import Secret
from prefillshare.store.remote.staging import Staging
from prefillshare.store.remote.stores import LocalStores
from prefillshare.store.store import KvStore
from prefillshare.store.table import as_words
from prefillshare.store.tier import page_digest

_ROOM_TIMEOUT_S = 1.0


class Sharing:
    """Answers of one host; any thread may ask."""

    def __init__(self, stores: LocalStores, secret: Secret, preparation: Preparation) -> None:
        self._stores = stores
        self._secret = secret
        self._preparation = preparation
        self._staging = Staging()
        self._decoders: dict[bytes, Decoders] = {}
        """By identity."""

    @property
    def answers(self) -> dict[str, Callable[[bytes], tuple[bytes, msgspec.Struct]]]:
        """For each path, what takes a body and returns the nonce and the answer.

        Raises: msgspec.DecodeError, of a body that is none.
        """
        return {"/meet": self._meet, "/find": self._find, STAGE_PATH: self._stage}

    def _meet(self, body: bytes) -> tuple[bytes, Met]:
        asked = msgspec.msgpack.decode(body, type=Meet)
        exporter = self._staging.exporter
        return asked.nonce, Met(agent=exporter.name, metadata=exporter.metadata)

    def _find(self, body: bytes) -> tuple[bytes, Found]:
        asked = msgspec.msgpack.decode(body, type=Find)
        found = self._stores.get(asked.identity)
        return asked.nonce, Found(num_pages=found[1].count_present(asked.keys) if found is not None else 0)

    def _stage(self, body: bytes) -> tuple[bytes, Staged]:
        asked = msgspec.msgpack.decode(body, type=Stage)
        found, exporter = self._stores.get(asked.identity), self._staging.exporter
        nothing = Staged(lease=b"", agent=exporter.name, pages=[])
        lent = self._staging.lend(_ROOM_TIMEOUT_S) if found is not None else None
        if found is None or lent is None:
            return asked.nonce, nothing
        lease, region = lent
        pages = self._lay(asked, *found, region)
        if not pages:
            self._staging.take_back(lease)
            return asked.nonce, nothing
        return asked.nonce, Staged(lease=lease, agent=exporter.name, pages=pages)

    def _lay(self, asked: Stage, identity: StoreIdentity, store: KvStore, region: Bytes) -> list[StagedPage]:
        num_pages = min(len(asked.keys), READ_BYTES // identity.page_bytes)
        keys = asked.keys[:num_pages]
        views = [region[page * identity.page_bytes :][: identity.page_bytes] for page in range(num_pages)]
        num_read = store.read(keys, views)
        codec = self._codec_for(asked.codec, identity)
        return [self._describe(asked, key, view, codec) for key, view in zip(keys, views[:num_read], strict=False)]

    def _codec_for(self, number: int, identity: StoreIdentity) -> Codec | None:
        """The codec that a peer wants; None where there is none for such pages, or none yet."""
        is_plain = number == PLAIN or not can_encode(identity.kv_dtype, identity.page_bytes)
        if is_plain or not self._preparation.is_done():
            return None
        digest = identity.digest()
        decoders = self._decoders.setdefault(digest, Decoders(identity.kv_dtype, identity.page_bytes))
        try:
            return decoders.get(number)
        except ValueError:
            return None

    def _describe(self, asked: Stage, key: bytes, view: Bytes, codec: Codec | None) -> StagedPage:
        """Where a page lies, after it was encoded in its place if that makes it smaller."""
        (words,) = as_words([key])
        digest, number = page_digest(words, view), PLAIN
        encoded = codec.encode(view) if codec is not None else None
        if codec is not None and encoded is not None and len(encoded) < len(view):
            view, number = view[: len(encoded)], codec.number
            np.copyto(view, encoded)
        return StagedPage(
            address=view.ctypes.data,
            length=len(view),
            codec=number,
            digest=digest,
            mac=self._secret.of_page(asked.nonce, asked.identity, key, number, view),
        )
