"""When a codec pays: on a link or disk that is slower than the work that the codec saves.

A page of 1 byte takes 1/B on a link of bandwidth B. Encoded it takes 1/(r·B) for a ratio of r, and the codec's own
time, which is 1/C for a codec of speed C. Where both happen one after the other the codec pays below

    B = C · (1 - 1/r)

Ways in a row, to a disk and back, or encoding and decoding, have the speed 1/(1/B₁ + 1/B₂): the same formula holds for
what is written and read again, and for a link, which a page takes once.

And where the next page is encoded while one is on its way, as long as C itself is faster than the link: below B = C.
The store does them one after the other.
"""

from collections.abc import Sequence


def in_a_row(bytes_per_s: Sequence[float]) -> float:
    """The speed of ways that are taken one after the other; those with the speed 0, not known, are left out.

    0 where none is known.
    """
    seconds_per_byte = sum(1 / speed for speed in bytes_per_s if speed > 0)
    return 1 / seconds_per_byte if seconds_per_byte else 0.0


def break_even_bytes_per_s(codec_bytes_per_s: float, ratio: float) -> float:
    """The bandwidth below which pages move sooner when they are encoded first, one after the other.

    Units: bytes of pages per second; `ratio` is bytes of pages for each encoded byte. Raises: ValueError.
    """
    if ratio <= 1 or codec_bytes_per_s <= 0:
        raise ValueError(f"a codec with a ratio of {ratio} and {codec_bytes_per_s} bytes/s never pays")
    return codec_bytes_per_s * (1 - 1 / ratio)


def moves_sooner(link_bytes_per_s: float, codec_bytes_per_s: float, ratio: float) -> bool:
    """Whether pages move sooner over the link when they are encoded."""
    return ratio > 1 and link_bytes_per_s < break_even_bytes_per_s(codec_bytes_per_s, ratio)
