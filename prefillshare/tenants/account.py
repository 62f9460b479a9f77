"""One tenant while it calls: what it may, what it has used."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prefillshare.config.tenants import Tenant
from prefillshare.errors import short_repr
from prefillshare.observe.document import TenantState
from prefillshare.observe.tenants import RefusalReason, TenantStats
from prefillshare.tenants.errors import ForbiddenModuleError, OverLimitError, OverTokensError
from prefillshare.tenants.limits import Bucket
from prefillshare.tenants.namespace import MARK_END, make_mark

_BUSY_RETRY_S = 1.0
"""Nobody knows when a call that runs will end."""
_MINUTE_S = 60.0
Clock = Callable[[], float]


class Account:
    """What one tenant may, and what it has used in this process.

    Limits are looked at when a call begins. Its tokens are known only afterwards: they are taken then, and whoever has
    taken more than there was waits until the rest has come.
    """

    def __init__(self, tenant: Tenant, clock: Clock = time.monotonic) -> None:
        self.stats = TenantStats()
        self.num_running = 0
        self._clock = clock
        self.set_tenant(tenant)

    @property
    def name(self) -> str:
        """The tenant's name."""
        return self.tenant.name

    def set_tenant(self, tenant: Tenant) -> None:
        """Take what the file says now; limits that it has changed begin anew."""
        before = getattr(self, "tenant", None)
        self.tenant = tenant
        self.mark = None if tenant.shared else make_mark(tenant)
        """Begin of its namespaces; None in the common cache."""
        if before is None or before.calls_per_s != tenant.calls_per_s:
            rate = tenant.calls_per_s
            self._calls = None if rate is None else Bucket(rate, max(rate, 1.0), self._clock)
        if before is None or before.tokens_per_min != tenant.tokens_per_min:
            most = tenant.tokens_per_min
            self._tokens = None if most is None else Bucket(most / _MINUTE_S, most, self._clock)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Count a call while the context is open.

        Raises: OverLimitError.
        """
        self.check_tokens()
        self._check_calls()
        self.stats.calls += 1
        with self.running():
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a call among those that run at a time; in the background, it does so when its request is answered."""
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1

    def check_tokens(self) -> None:
        """Raise OverTokensError while the tokens of this minute are used up."""
        wait_s = 0.0 if self._tokens is None else self._tokens.wait_s(1)
        if wait_s > 0:
            self.refuse("tokens")
            raise OverTokensError(
                f"rate limit reached for tenant {self.name!r} on tokens per min: limit {self.tenant.tokens_per_min}; "
                f"try again in {wait_s:.1f} s",
                reason="tokens",
                retry_after_s=wait_s,
            )

    def _check_calls(self) -> None:
        most = self.tenant.concurrent
        if most is not None and self.num_running >= most:
            self.refuse("concurrent")
            raise OverLimitError(
                f"rate limit reached for tenant {self.name!r} on calls at a time: limit {most}; wait for one to end",
                reason="concurrent",
                retry_after_s=_BUSY_RETRY_S,
            )
        wait_s = 0.0 if self._calls is None else self._calls.wait_s(1)
        if wait_s > 0:
            self.refuse("rate")
            raise OverLimitError(
                f"rate limit reached for tenant {self.name!r} on calls per s: limit {self.tenant.calls_per_s:g}; try "
                f"again in {wait_s:.1f} s",
                reason="rate",
                retry_after_s=wait_s,
            )
        if self._calls is not None:
            self._calls.take(1)

    def refuse(self, reason: RefusalReason) -> None:
        """Count a call that is refused."""
        self.stats.refused[reason] += 1

    def note_prompt(self, tokens: int, cached: int) -> None:
        """A prompt is prefilled, `cached` of its tokens were there."""
        self.stats.prompt_tokens += tokens
        self.stats.cached_tokens += cached
        self._take(tokens)

    def note_generated(self, tokens: int) -> None:
        """An answer has so many tokens more."""
        self.stats.generated_tokens += tokens
        self._take(tokens)

    def _take(self, tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.take(tokens)

    def allows(self, model: str) -> bool:
        """Whether the tenant may put this name into "model"."""
        return not self.tenant.modules or model in self.tenant.modules

    def check_name(self, model: str) -> None:
        """Raise ForbiddenModuleError for a name that the tenant may not put into "model", whether or not it exists."""
        if self.allows(model):
            return
        self.refuse("module")
        raise ForbiddenModuleError(
            f"tenant {self.name!r} does not have access to model {short_repr(model)}; it has: "
            f"{', '.join(self.tenant.modules)}",
            reason="module",
            param="model",
        )

    def session_name(self, given: str) -> str:
        """Return the name under which a session of this tenant is known: never that of another tenant's."""
        return f"{self.name}/{given}"  # a tenant's name has no slash

    def as_dict(self, held: Mapping[str, int]) -> TenantState:
        """Return what people are told of it; `held` are tokens of KV by the begin of namespaces."""
        return {
            "name": self.name,
            "is_shared": self.tenant.shared,
            "running": self.num_running,
            "kv_tokens": None if self.mark is None else held.get(self.mark.removesuffix(MARK_END), 0),
            **self.stats.counters(),
            "refused": self.stats.refusals(),
        }
