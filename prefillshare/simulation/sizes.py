"""Numbers of workers, as the command line has them: 8, 4+4, 8..1000 or several of these."""

from prefillshare.errors import SimulationError
from prefillshare.simulation.system import Size


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Return the sizes that `text` names.

    `8` is half prefill, half decode workers; `4+4` says how many of each; `8..1000` doubles from 8 up to 1000.
    Raises: SimulationError.
    """
    return tuple(size for part in text.split(",") if part for size in _parse(part.strip()))


def _parse(part: str) -> list[Size]:
    try:
        if "+" in part:
            prefill, decode = map(int, part.split("+"))
            return [_check(Size(num_prefill=prefill, num_decode=decode), part)]
        first, _, last = part.partition("..")
        return [_check(_halve(number), part) for number in _double(int(first), int(last or first))]
    except ValueError:
        raise SimulationError(
            f"--workers {part!r} is no number of workers: write one such as 8, 4+4 or 8..1000"
        ) from None


def _double(first: int, last: int) -> list[int]:
    """Return `first`, twice as many, and so on, and `last`."""
    if not 0 < first <= last:
        raise ValueError
    numbers = []
    while first < last:
        numbers.append(first)
        first *= 2
    return [*numbers, last]


def _halve(number: int) -> Size:
    return Size(num_prefill=number // 2, num_decode=number - number // 2)


def _check(size: Size, part: str) -> Size:
    if min(size.num_prefill, size.num_decode) < 1:
        raise SimulationError(f"--workers {part!r} lacks prefill or decode workers: give at least 1+1")
    return size
