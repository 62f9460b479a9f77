"""Systems by name."""

from collections.abc import Sequence

from prefillshare.bench.systems.base import System
from prefillshare.bench.systems.endpoint import parse_endpoint
from prefillshare.bench.systems.shared import Shared, SharedLazy, SharedOpen, SharedPd, SharedWait
from prefillshare.bench.systems.vanilla_lora import VanillaLora
from prefillshare.bench.systems.vanilla_pd import VanillaPd
from prefillshare.bench.systems.vanilla_single import VanillaSingle
from prefillshare.errors import BenchError

_KINDS: tuple[type[System], ...] = (
    Shared,
    SharedLazy,
    SharedOpen,
    SharedWait,
    SharedPd,
    VanillaLora,
    VanillaPd,
    VanillaSingle,
)
SYSTEMS = tuple(kind.name for kind in _KINDS)


def make_systems(names: Sequence[str], endpoints: Sequence[str] = (), api_key: str | None = None) -> list[System]:
    """The systems by name, then the endpoints (NAME=URL).

    Raises: BenchError for a name that does not exist or comes twice, or when there is none.
    """
    by_name = {kind.name: kind for kind in _KINDS}
    for name in names:
        if name not in by_name:
            raise BenchError(f"there is no system {name!r}: choose among {', '.join(SYSTEMS)}")
    made = [by_name[name]() for name in names]
    made += [parse_endpoint(text, api_key) for text in endpoints]
    seen = [system.name for system in made]
    if not made or len(set(seen)) < len(seen):
        what = "no system is named" if not made else f"a system comes twice among {', '.join(seen)}"
        raise BenchError(f"{what}: write --systems shared,vanilla-lora")
    return made
