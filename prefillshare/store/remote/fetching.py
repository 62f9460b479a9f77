"""Brings pages of a chain from the peer that has most of them into this host's store."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from prefillshare.store.base import Bytes
from prefillshare.store.codec import PLAIN, Decoders, can_encode, make_codec
from prefillshare.store.codec.choice import Encoding
from prefillshare.store.codec.preparation import Preparation
from prefillshare.store.counts import Speed
from prefillshare.store.identity import StoreIdentity
from prefillshare.store.remote.link import READ_BYTES, Importer, LinkError
from prefillshare.store.remote.messages import STAGE_PATH, Fetch, Find, Found, Meet, Met, Stage, Staged, StagedPage
from prefillshare.store.remote.peers import Peer, PeerError, new_nonce
from prefillshare.store.remote.secret import Secret, is_same
from prefillshare.store.remote.stores import LocalStores
from prefillshare.store.settings import CodecName
from prefillshare.store.store import KvStore
from prefillshare.store.table import as_words
from prefillshare.store.tier import page_digest

FIND_TIMEOUT_S = 1.0
STEP_TIMEOUT_S = 5.0
"""Longest wait for one batch of pages, however long the engine would wait."""
_MAX_TOLD = 16

logger = logging.getLogger(__name__)


class Source:
    """A peer, what is read of it, and how fast."""

    def __init__(self, url: str, secret: Secret, codec: CodecName, preparation: Preparation) -> None:
        self.peer = Peer(url, secret)
        self.link = Importer()
        self.speed = Speed()
        self.turn = threading.Lock()
        """Held from asking for pages until they are in this host's store: they lie in memory of the link's."""
        self._secret = secret
        self._codec = codec
        self._preparation = preparation
        self._encodings: dict[bytes, tuple[Encoding, Decoders]] = {}
        """By identity: of the way from the peer."""
        self._told: set[str] = set()

    def count(self, identity: bytes, keys: Sequence[bytes], deadline: float) -> int:
        """How many of the pages, from the first on, the peer says it has; 0 when it says nothing."""
        if not self.peer.is_worth_asking:
            return 0
        question = Find(nonce=new_nonce(), identity=identity, keys=list(keys))
        try:
            found = self.peer.ask("/find", question, Found, deadline)
        except PeerError as error:
            self.fail(error)
            return 0
        return min(max(found.num_pages, 0), len(keys))

    def fetch(self, identity: StoreIdentity, keys: Sequence[bytes], deadline: float) -> list[Bytes]:
        """The first of the pages, as many as came whole at once; they may lie in memory that the next fetch overwrites.

        Raises: PeerError, LinkError.
        """
        encoding, decoders = self._encoding_of(identity)
        codec = encoding.codec.number if encoding.codec and encoding.decide((self.speed.bytes_per_s,)) else PLAIN
        question = Stage(nonce=new_nonce(), identity=identity.digest(), keys=list(keys), codec=codec)
        staged = self.peer.ask(STAGE_PATH, question, Staged, deadline)
        self._check_sizes(staged, identity, len(keys))
        if not staged.pages:
            return []
        if not self.link.knows(staged.agent):
            met = self.peer.ask("/meet", Meet(nonce=new_nonce()), Met, deadline)
            self.link.meet(staged.agent, met.metadata)
        with self.speed.measured(sum(page.length for page in staged.pages)):
            views = self.link.read([(page.address, page.length) for page in staged.pages], staged.lease, deadline)
        came = zip(keys, staged.pages, views, strict=False)
        pages = [self._unpack(question, key, page, view, decoders) for key, page, view in came]
        self.peer.succeed()
        return pages

    def fail(self, error: Exception) -> None:
        """Leave the peer alone for a while; each reason is told once, and no more than `_MAX_TOLD` of them."""
        self.peer.fail()
        if (reason := str(error)) not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(reason)
            logger.warning("the store of %s gives no pages, which are computed here: %s", self.peer.url, error)

    def _check_sizes(self, staged: Staged, identity: StoreIdentity, num_keys: int) -> None:
        is_right = all(0 < page.length <= identity.page_bytes for page in staged.pages)
        if not is_right or len(staged.pages) > num_keys or sum(page.length for page in staged.pages) > READ_BYTES:
            raise PeerError("it staged pages of another size")

    def _encoding_of(self, identity: StoreIdentity) -> tuple[Encoding, Decoders]:
        """Whether pages of this kind are encoded on the way, and what decodes them."""
        digest, kind = identity.digest(), (identity.kv_dtype, identity.page_bytes)
        if digest not in self._encodings:
            is_wanted = self._codec != "none" and can_encode(*kind)
            if is_wanted and not self._preparation.is_done():
                return Encoding(), Decoders(*kind)
            codec = make_codec("splitzip", *kind) if is_wanted else None
            encoding = Encoding(codec, what=f"the way from {self.peer.url}", is_measured=self._codec == "auto")
            self._encodings[digest] = encoding, Decoders(*kind)
        return self._encodings[digest]

    def _unpack(self, question: Stage, key: bytes, page: StagedPage, view: Bytes, decoders: Decoders) -> Bytes:
        """The page of the key, whose bytes are believed only under the secret and this question.

        Raises: LinkError.
        """
        mac = self._secret.of_page(question.nonce, question.identity, key, page.codec, view)
        if not is_same(mac, page.mac):
            raise LinkError("a page came damaged, or is another one")
        try:
            whole = view if page.codec == PLAIN else _decode(decoders, page.codec, view)
        except ValueError as error:
            raise LinkError(f"a page cannot be decoded: {error}") from error
        (words,) = as_words([key])
        if len(whole) != decoders.page_bytes or page_digest(words, whole) != page.digest:
            raise LinkError("a page was damaged before it was sent")
        return whole


def _decode(decoders: Decoders, codec: int, view: Bytes) -> Bytes:
    whole = np.empty(decoders.page_bytes, dtype=np.uint8)
    # In memory of its own: where it lies among the others, its parts are not where their types want them.
    decoders.get(codec).decode(view.copy(), whole)
    return whole


class Fetcher:
    """Fetches for all engines of this host; any thread may ask."""

    def __init__(self, stores: LocalStores, sources: Sequence[Source]) -> None:
        self._stores = stores
        self._sources = sources
        self._threads = ThreadPoolExecutor(4 * len(sources), thread_name_prefix="find")

    def fetch(self, asked: Fetch) -> int:
        """Bring pages into this host's store, from the first on; how many it got.

        What a peer has promised and does not give is asked of the next one, as long as there is time. A batch that was
        begun is finished even if its engine waits no longer: the next call will want it.
        """
        deadline = time.monotonic() + asked.timeout_s
        local = self._stores.get(asked.identity, asked.timeout_s)
        if local is None or not asked.keys:
            return 0
        identity, store = local
        num_got = 0
        for source, num_there in self._rank(asked):
            wanted = range(num_got, num_there)
            if wanted and source.turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                try:
                    num_got += self._fetch_from(source, identity, store, asked, wanted, deadline)
                finally:
                    source.turn.release()
        return num_got

    def _rank(self, asked: Fetch) -> list[tuple[Source, int]]:
        """Peers that have some of the pages, the one with most first."""
        limit = time.monotonic() + FIND_TIMEOUT_S
        begun: list[tuple[Source, Future[int]]] = [
            (source, self._threads.submit(source.count, asked.identity, asked.keys, limit))
            for source in self._sources
            if source.peer.is_worth_asking
        ]
        ranked = [(source, future.result()) for source, future in begun]
        return sorted((found for found in ranked if found[1] > 0), key=lambda found: -found[1])

    def _fetch_from(
        self, source: Source, identity: StoreIdentity, store: KvStore, asked: Fetch, wanted: range, deadline: float
    ) -> int:
        """Pages that came from this peer, batch by batch."""
        at = wanted.start
        batch = max(1, READ_BYTES // identity.page_bytes)
        while at < wanted.stop and time.monotonic() < deadline:
            keys = asked.keys[at : min(at + batch, wanted.stop)]
            try:
                pages = source.fetch(identity, keys, time.monotonic() + STEP_TIMEOUT_S)
            except (PeerError, LinkError) as error:
                source.fail(error)
                break
            kept = store.write(keys[: len(pages)], pages, prefix=[*asked.prefix, *asked.keys[:at]]) if pages else 0
            at += kept
            if kept < len(keys):
                break
        return at - wanted.start
