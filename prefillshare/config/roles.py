"""The `[roles]` table of a deployment file: whether workers change what they do as the load shifts, and how far."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prefillshare.errors import ConfigError

NO_LIMIT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many workers may do the same."""

    min: int = 1
    """Fewest; with none, calls would have nobody."""
    max: int = NO_LIMIT
    """Most."""

    def __post_init__(self) -> None:
        if self.min < 1:
            raise ConfigError(f"min is {self.min}: it must be at least 1, or calls would have no worker")
        if self.max < self.min:
            raise ConfigError(f"max is {self.max}, less than min {self.min}: raise max, or lower min")

    @property
    def text(self) -> str:
        """What people read."""
        return f"{self.min} or more" if self.max == NO_LIMIT else f"{self.min} to {self.max}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """When a worker is moved to where calls wait, from where nobody would miss it; times in the unit of the name."""

    follow_load: bool = False
    """Whether workers change their role with the load."""
    dry_run: bool = False
    """Only say, in the router's events, what would be moved."""
    interval_s: float = 1.0
    """Pause between two looks at the load."""
    window_s: float = 30.0
    """How long calls must wait in one place, and a worker be dispensable in another, before it moves."""
    prefill_wait_ms: float = 500.0
    """Wait for a prefill worker, estimated from its backlog and speed, above which one more is wanted."""
    decode_wait_ms: float = 500.0
    """Wait in the router's queue for a decode worker above which its module wants one more."""
    busy_calls: int = 0
    """Calls that decode at each worker of a module at a time above which the module wants one more; 0 is half of
    max_running_per_worker under [router]."""
    cool_down_s: float = 120.0
    """Shortest pause after a move; longer where moves take long, or undo each other."""
    prefill: Limits = field(default_factory=Limits)
    """Fewest and most prefill workers."""
    modules: dict[str, Limits] = field(default_factory=dict)
    """Fewest and most decode workers by module; 1 or more where nothing is said."""

    def __post_init__(self) -> None:
        for name in ("interval_s", "window_s", "prefill_wait_ms", "decode_wait_ms"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ConfigError(f"{name} is {value}: it must be more than 0, and finite")
        if not 0 <= self.cool_down_s < float("inf"):
            raise ConfigError(f"cool_down_s is {self.cool_down_s}: it must be at least 0, and finite")
        if self.busy_calls < 0:
            raise ConfigError(f"busy_calls is {self.busy_calls}: it must be at least 1, or 0 for half of the places")
        if self.window_s < 2 * self.interval_s:
            raise ConfigError(
                f"window_s is {self.window_s:g}, less than two looks of interval_s {self.interval_s:g}: raise window_s"
            )
        if self.dry_run and not self.follow_load:
            raise ConfigError("dry_run is true and follow_load is not: write follow_load = true beside it")

    def with_places(self, max_running_per_worker: int) -> "Roles":
        """Return the same with `busy_calls` as a number, for workers that take so many calls at a time."""
        return replace(self, busy_calls=self.busy_calls or max(1, max_running_per_worker // 2))

    def limits_of(self, module: str | None) -> Limits:
        """Return the limits of a module's decode workers, of the prefill workers for None."""
        return self.prefill if module is None else self.modules.get(module, Limits())


def check_limits(roles: Roles, num_prefill: int, num_replicas: Mapping[str, int], kept: Collection[str] = ()) -> None:
    """`kept` are modules of which no worker changes its role: they compute their prompts themselves.

    Raises: ConfigError where `roles` names a module that is not there or of these, or a deployment begins outside the
    limits.
    """
    unknown = next((name for name in roles.modules if name not in num_replicas), None)
    if unknown is not None:
        raise ConfigError(f"[roles] has limits for {unknown!r}: name one of {', '.join(num_replicas)}")
    if (needless := next((name for name in roles.modules if name in kept), None)) is not None:
        raise ConfigError(
            f"[roles] has limits for {needless!r}, which has share = false: its workers serve whole calls and keep "
            "their role, so remove the limits"
        )
    if not roles.follow_load:
        return
    _check_size("workers under [prefill]", "prefill", num_prefill, roles.prefill)
    for name, number in num_replicas.items():
        _check_size(f"replicas of module {name!r}", f"modules.{name}", number, roles.limits_of(name))


def _check_size(what: str, key: str, number: int, limits: Limits) -> None:
    if not limits.min <= number <= limits.max:
        raise ConfigError(
            f"{what} is {number}, and {key} under [roles] allows {limits.text}: change one of the two; roles only move "
            "workers that are there"
        )


def describe_limits(roles: Roles, modules: Sequence[str]) -> str:
    """Return one sentence that says what may move."""
    limits = [f"{name} {roles.limits_of(name).text}" for name in modules]
    verb = "would follow (dry_run: they are only told of)" if roles.dry_run else "follow"
    return f"roles {verb} the load: {', '.join([f'prefill {roles.prefill.text}', *limits])}"
