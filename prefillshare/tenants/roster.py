"""All tenants of one process: known by their keys, read again when their file has changed."""

import asyncio
import logging
import time
from pathlib import Path

from prefillshare.errors import ConfigError
from prefillshare.observe.document import TenantsState
from prefillshare.tenants.account import Account, Clock
from prefillshare.tenants.file import look_at, read_tenants
from prefillshare.tenants.keys import find_by_key

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Pause between two looks at the file."""


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
        self._seen = look_at(path)
        self._read()

    def find(self, key: str) -> Account | None:
        """Return the tenant whose key it is; None where it is nobody's."""
        return find_by_key(self._by_hash, key)

    def get(self, name: str) -> Account | None:
        """Return the tenant of that name."""
        return self._accounts.get(name)

    def look(self) -> None:
        """Read the file again if it has changed; one that cannot be used changes nothing, and is told of."""
        seen = look_at(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._read()
        except ConfigError as error:
            self.problem = f"{error}; the tenants of before go on"
            log.error("%s", self.problem)
        else:
            self.problem = None
            log.info("%s was read again: %d tenants", self._path, len(self._accounts))

    async def keep_looking(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def as_dict(self) -> TenantsState:
        """Return what people are told of them."""
        items = [account.as_dict() for account in self._accounts.values()]
        return {"items": items, "unknown_keys": self.num_unknown_keys, "problem": self.problem}

    def _read(self) -> None:
        tenants = read_tenants(self._path).tenant
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
