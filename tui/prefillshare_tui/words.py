"""Numbers as a person reads them: short, with units, and a dash for what nobody knows."""

from datetime import datetime

from prefillshare_tui.totals import Quantile

UNKNOWN = "-"
_THOUSANDS = ("", "k", "M", "G", "T")
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def short(number: float | None) -> str:
    """Three digits and a suffix: 7, 12.3k, 4.56M."""
    if number is None:
        return UNKNOWN
    if abs(number) < 1000:
        return f"{number:.0f}" if number == int(number) or abs(number) >= 100 else f"{number:.1f}"
    return _scaled(number, 1000, _THOUSANDS, "")


def exact(number: float | None) -> str:
    """All digits: 12,345."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def percent(part: float | None) -> str:
    """A ratio of 0 to 1: 84%."""
    if part is None:
        return UNKNOWN
    return f"{100 * part:.1f}%" if 0 < part < 0.0995 else f"{100 * part:.0f}%"


def size(num_bytes: float | None) -> str:
    """Bytes: 3.2 MiB."""
    return UNKNOWN if num_bytes is None else _scaled(num_bytes, 1024, _BYTES, " ")


def duration(seconds: float | None) -> str:
    """A latency: 0.4 ms, 120 ms, 1.25 s, 3.2 m."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{_three_digits(seconds * 1000)} ms"
    return f"{_three_digits(seconds)} s" if seconds < 100 else f"{_three_digits(seconds / 60)} m"


def quantile(value: Quantile | None) -> str:
    """A quantile: 120 ms, or >60 s where it lies beyond the histogram."""
    if value is None:
        return UNKNOWN
    return f">{duration(value.seconds)}" if value.is_at_least else duration(value.seconds)


def span(seconds: float | None) -> str:
    """How long something lasts or is ago, in two units: 7 s, 3 m 5 s, 2 h 3 m, 4 d 3 h."""
    if seconds is None:
        return UNKNOWN
    left = max(0, round(seconds))
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= length:
            parts.append(f"{left // length} {unit}")
            left %= length
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def clock_time(unix_s: float | None) -> str:
    """A moment on this machine's clock: 14:02:07."""
    return UNKNOWN if unix_s is None else f"{datetime.fromtimestamp(unix_s):%H:%M:%S}"


def cut(text: str, width: int) -> str:
    """`text` in at most `width` characters, with an ellipsis for what is missing."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def cut_middle(text: str, width: int) -> str:
    """`text` in at most `width` characters; what tells names apart is often at their end, so the middle goes."""
    if len(text) <= width or width < 3:
        return cut(text, width)
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def _scaled(number: float, base: int, suffixes: tuple[str, ...], space: str) -> str:
    for suffix in suffixes[:-1]:
        if abs(number) < base * 0.9995:
            return f"{_three_digits(number)}{space}{suffix}"
        number /= base
    return f"{_three_digits(number)}{space}{suffixes[-1]}"


def _three_digits(number: float) -> str:
    if number == int(number) and number < 1000:
        return f"{number:.0f}"
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}"
