"""Random schedules against the one rule of a store: a read gives the page that was written under that key, or none.

Two views as of two processes write, read, spill, come and go; between their steps bits flip, writers die with claims in
their hands, memory is lost. As long as nothing was damaged and everything fits, what was written is also found. A write
does not look at bytes that are there under its key: damage is found by a read, and only what is written after that is
whole again.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from prefillshare.store import KvStore, StoreSettings
from prefillshare.store.folders import remove_folder, store_folders
from prefillshare.store.layout import NO_SLOT
from prefillshare.store.table import as_words
from tests.store.stores import chain, identity, pages, read, settings

CHAINS = [chain(40, of=of) for of in range(6)]
NO_SUCH_PROCESS = (1 << 22) + 1


class Schedules(RuleBasedStateMachine):
    """Steps of processes and of misfortune."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        (self.folder / "memory").mkdir()
        (self.folder / "disk").mkdir()
        self.found_surely: set[bytes] = set()
        self.maybe_damaged: set[bytes] = set()
        """Keys under which a tier may hold a damaged page, until it is dropped."""

    @initialize(memory_kb=st.sampled_from([200, 400, 1600]), has_disk=st.booleans(), threads=st.sampled_from([1, 2]))
    def open_both(self, memory_kb: int, has_disk: bool, threads: int) -> None:
        disk = {"directory": self.folder / "disk", "disk_bytes": 2 << 20} if has_disk else {}
        self.where: StoreSettings = settings(
            self.folder / "memory", memory_bytes=memory_kb << 10, threads=threads, **disk
        )
        self.views = [KvStore.attach(self.where, identity()) for _ in range(2)]
        self.room = self.views[0].stats().tiers[-1].capacity_bytes // 4096

    @rule(view=st.integers(0, 1), of=st.integers(0, 5), start=st.integers(0, 39), length=st.integers(1, 40))
    def write(self, view: int, of: int, start: int, length: int) -> None:
        keys = CHAINS[of][start : start + length]
        self.maybe_damaged &= self._known()
        kept = self.views[view].write(keys, pages(keys), prefix=CHAINS[of][:start])
        assert kept <= len(keys)
        if kept == len(keys) and len(self.found_surely | set(keys)) < self.room // 2:
            self.found_surely |= set(keys) - self.maybe_damaged
        else:
            self.found_surely = set()

    @rule(view=st.integers(0, 1), of=st.integers(0, 5), start=st.integers(0, 39))
    def read_chain(self, view: int, of: int, start: int) -> None:
        keys = CHAINS[of][start:]
        num_read = read(self.views[view], keys)
        assert all(key in keys[:num_read] for key in self._sure_run(keys))

    @rule(view=st.integers(0, 1), of=st.integers(0, 5))
    def count(self, view: int, of: int) -> None:
        assert self.views[view].count_present(CHAINS[of]) >= len(self._sure_run(CHAINS[of]))

    @rule(view=st.integers(0, 1))
    def spill(self, view: int) -> None:
        self.views[view].spill()

    @rule(view=st.integers(0, 1))
    def come_again(self, view: int) -> None:
        self.views[view].close()
        self.views[view] = KvStore.attach(self.where, identity())

    @rule()
    def lose_memory(self) -> None:
        for view in self.views:
            view.close()
        for folder in store_folders(self.folder / "memory"):
            assert remove_folder(folder)
        self.views = [KvStore.attach(self.where, identity()) for _ in range(2)]
        self.found_surely = set()

    @rule(of=st.integers(0, 5), length=st.integers(1, 20))
    def die_with_claims(self, of: int, length: int) -> None:
        tier = self.views[0]._tiers[0]
        keys = as_words(CHAINS[of][:length])
        usable = tier.pages.num_usable()
        claims = tier.table.reserve(keys, [1] * length, older_than=0, usable=usable, grow=lambda: usable).claims
        for claim in claims:
            tier.table._records["writer_pid"][claim.slot] = NO_SUCH_PROCESS

    @rule(number=st.integers(0, 1000), place=st.integers(0, 4095), bit=st.integers(0, 7))
    def flip_in_a_page(self, number: int, place: int, bit: int) -> None:
        tier = self.views[0]._tiers[0]
        ready = tier.table.ready_slots()
        if len(ready):
            slot = int(ready[number % len(ready)])
            tier.pages.view(slot, 4096)[place] ^= 1 << bit
            self.found_surely = set()
            self.maybe_damaged.add(tier.table._keys[slot].tobytes())

    @rule(number=st.integers(0, 10), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def flip(self, number: int, place: float, bit: int) -> None:
        files = sorted([*self.folder.rglob("*.store"), *self.folder.rglob("*.pages")])
        file = files[number % len(files)]
        # The header is another test's: a view that comes later makes the file anew.
        at = 4096 + int(place * (file.stat().st_size - 4096))
        with file.open("r+b") as opened:
            opened.seek(at)
            byte = opened.read(1)[0]
            opened.seek(at)
            opened.write(bytes([byte ^ (1 << bit)]))
        self.found_surely = set()
        self.maybe_damaged |= self._known()

    @rule(view=st.integers(0, 1))
    def read_each(self, view: int) -> None:
        for keys in CHAINS:
            for key in keys:
                read(self.views[view], [key])

    def teardown(self) -> None:
        if hasattr(self, "views"):
            self.read_each(0)
        for view in getattr(self, "views", []):
            assert view.stats().failures == 0
            view.close()
        shutil.rmtree(self.folder)

    def _known(self) -> set[bytes]:
        """Keys under which a tier has a page, whole or not."""
        keys = [key for of_chain in CHAINS for key in of_chain]
        found = [tier.find(as_words(keys)) != NO_SLOT for tier in self.views[0]._tiers]
        return {key for key, is_known in zip(keys, np.any(found, axis=0), strict=True) if is_known}

    def _sure_run(self, keys: list[bytes]) -> list[bytes]:
        run = []
        for key in keys:
            if key not in self.found_surely:
                break
            run.append(key)
        return run


TestSchedules = Schedules.TestCase
TestSchedules.settings = hypothesis_settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_the_chains_share_no_page() -> None:
    assert len({key for keys in CHAINS for key in keys}) == sum(map(len, CHAINS))
    assert len(np.unique([page.tobytes() for page in pages(CHAINS[0])])) == 40
