"""When a codec pays: on a link or disk that is slower than the work that the codec saves.

A page of 1 byte takes 1/B on a link of bandwidth B. Encoded it takes 1/(r·B) for a ratio of r, and the codec's own
time, which is 1/C for a codec of speed C. Where both happen one after the other the codec pays below

    B = C · (1 - 1/r)

and where the next page is encoded while one is on its way, as long as C itself is faster than the link: below B = C.
"""


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
