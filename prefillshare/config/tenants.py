"""The `[tenants]` table of a deployment file, and the file that it names: who may call, and how much.

A tenant's file holds hashes of keys, never keys, and is read again while the deployment serves
(`prefillshare.tenants`).
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prefillshare.config.checks import check_optional_positive
from prefillshare.errors import ConfigError

HASH_START = "sha256:"
"""Begin of a key's hash in the file."""
MAX_TENANTS = 1000
"""Each has lines of its own in /metrics and in the state document."""
MIN_SALT = 16
"""Letters of a salt: shorter ones can be guessed."""
MIN_CALLS_PER_S = 1e-6
"""A call in twelve days; with less, the time to wait has no end that could be told."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(HASH_START + "[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """Who may call beside the operator."""

    file: Path
    """File with the tenants, relative to the deployment file; mode 600. `prefillshare tenants` writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One `[[tenant]]` table of that file."""

    name: str
    """Its name, for people, logs and metrics."""
    keys: tuple[str, ...] = ()
    """Hashes of its keys, `sha256:` and 64 hexadecimal digits; several while a key is replaced."""
    salt: str = ""
    """What keeps its cache apart from others'; with another one it begins with an empty cache."""
    shared: bool = False
    """Whether it is in the common cache, where it can find out what other shared tenants and the operator asked."""
    calls_per_s: float | None = None
    """Calls that it may begin in a second, on average; None is no limit."""
    tokens_per_min: int | None = None
    """Tokens of prompts and answers in a minute, on average; None is no limit."""
    concurrent: int | None = None
    """Calls at a time; None is no limit."""
    modules: tuple[str, ...] = ()
    """Decode modules that may answer it, by their own names; none given are all."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name {self.name!r} cannot be a tenant's: use up to 64 letters, digits, dots, dashes and "
                "underscores, starting with a letter or digit"
            )
        for key in self.keys:
            if not _HASH.fullmatch(key):
                # Whoever wrote the key itself there must not find it in a log.
                raise ConfigError(
                    f"tenant {self.name!r} has a key that is no hash: make one with `prefillshare tenants new "
                    f"{self.name}`, which writes {HASH_START} and 64 hexadecimal digits"
                )
        if not self.shared and len(self.salt) < MIN_SALT:
            raise ConfigError(
                f"tenant {self.name!r} has a salt of {len(self.salt)} letters: write {MIN_SALT} or more that nobody "
                "knows, or shared = true where others may find out what it asked"
            )
        if self.calls_per_s is not None and not MIN_CALLS_PER_S <= self.calls_per_s < float("inf"):
            raise ConfigError(f"calls_per_s is {self.calls_per_s}: it must be at least {MIN_CALLS_PER_S}, such as 0.5")
        check_optional_positive("tokens_per_min", self.tokens_per_min)
        check_optional_positive("concurrent", self.concurrent)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFile:
    """What the file holds."""

    tenant: tuple[Tenant, ...] = ()
    """The tenants."""

    def __post_init__(self) -> None:
        if len(self.tenant) > MAX_TENANTS:
            raise ConfigError(f"there are {len(self.tenant)} tenants, and {MAX_TENANTS} are the most: use fewer")
        _refuse_twice("name", [tenant.name for tenant in self.tenant])
        _refuse_twice("key's hash", [key for tenant in self.tenant for key in tenant.keys])


def _refuse_twice(what: str, values: list[str]) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise ConfigError(f"the {what} {value!r} is there {count} times: give each tenant its own")
