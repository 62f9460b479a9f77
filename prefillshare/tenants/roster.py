"""All tenants of one process: known by their keys, read again when their file has changed."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from prefillshare.config.tenants import Tenant
from prefillshare.errors import ConfigError
from prefillshare.observe.document import TenantsState
from prefillshare.tenants.account import Account, Clock
from prefillshare.tenants.file import FileState, look_at, read_tenants
from prefillshare.tenants.keys import hash_key

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Pause between two looks at the file."""
_TICK_NS = 100_000_000
"""A file may change once more within the tick of its clock without looking like it; no such clock is coarser."""


class Roster:
    """The tenants of a file."""

    def __init__(self, path: Path, clock: Clock = time.monotonic) -> None:
        """Read the file.

        Raises: ConfigError.
        """
        self.problem: str | None = None
        """Why the file as it is now cannot be used; then what it said before holds."""
        self.num_unknown_keys = 0
        """Requests with a key that is nobody's, or none."""
        self._path = path
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._by_hash: dict[str, Account] = {}
        self._seen = _settled(look_at(path))
        self._take(read_tenants(path).tenant)

    def find(self, key: str) -> Account | None:
        """Return the tenant whose key it is; None where it is nobody's."""
        # By a hash that nobody can choose: how long it takes tells nothing of any key.
        return self._by_hash.get(hash_key(key))

    def get(self, name: str) -> Account | None:
        """Return the tenant of that name."""
        return self._accounts.get(name)

    def look(self) -> None:
        """Read the file again if it has changed; one that cannot be used changes nothing, and is told of."""
        if self._has_changed():
            self._hear(_try_to_read(self._path))

    async def keep_looking(self) -> None:
        """Look again and again, without holding up calls: a file of many tenants takes a moment to read."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if await asyncio.to_thread(self._has_changed):
                    self._hear(await asyncio.to_thread(_try_to_read, self._path))
            except Exception as error:  # nobody else would hear of it, and revoked keys would open doors for ever
                self._go_on_with_before(f"{self._path} could not be looked at ({error})", error)

    def as_dict(self, held: Mapping[str, int]) -> TenantsState:
        """Return what people are told of them; `held` is what workers hold, in tokens by tenants' marks."""
        items = [account.as_dict(held) for account in self._accounts.values()]
        return {"items": items, "unknown_keys": self.num_unknown_keys, "problem": self.problem}

    def _has_changed(self) -> bool:
        seen = look_at(self._path)
        if seen == self._seen:
            return False
        # Noted before it is read: what changes meanwhile is seen at the next look.
        self._seen = _settled(seen)
        return True

    def _hear(self, read: Sequence[Tenant] | ConfigError) -> None:
        if isinstance(read, ConfigError):
            self._go_on_with_before(str(read))
        else:
            self._take(read)
            self.problem = None
            log.info("%s was read again: %d tenants", self._path, len(self._accounts))

    def _go_on_with_before(self, reason: str, unforeseen: Exception | None = None) -> None:
        # The reason may lie in this process (no free file descriptor) and end without a change of the file: it is read
        # again at each look, and each reason told once.
        self._seen = None
        problem = f"{reason}; the tenants of before go on"
        if problem != self.problem:
            log.error("%s", problem, exc_info=unforeseen)
        self.problem = problem

    def _take(self, tenants: Sequence[Tenant]) -> None:
        accounts = {}
        for tenant in tenants:
            # What a tenant has used, and its calls under way, outlive a change of the file.
            account = self._accounts.get(tenant.name)
            if account is None:
                account = Account(tenant, self._clock)
            else:
                account.set_tenant(tenant)
            accounts[tenant.name] = account
        self._accounts = accounts
        self._by_hash = {key: accounts[tenant.name] for tenant in tenants for key in tenant.keys}


def _try_to_read(path: Path) -> Sequence[Tenant] | ConfigError:
    try:
        return read_tenants(path).tenant
    except ConfigError as error:
        return error


def _settled(state: FileState | None) -> FileState | None:
    """Return a state by which a later one is known to be another: no file's while it may change within one tick."""
    may_change = state is not None and 0 <= time.time_ns() - state.changed_ns < _TICK_NS
    return replace(state, inode=-1) if state is not None and may_change else state
