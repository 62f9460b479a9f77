"""Whether pages are encoded on their way to a medium: always, never, or where it was measured to be sooner."""

import logging
from collections.abc import Sequence

from prefillshare.store.codec.base import Codec
from prefillshare.store.codec.break_even import break_even_bytes_per_s, in_a_row
from prefillshare.store.codec.speed import CodecSpeed, measured_speed
from prefillshare.store.stats import Verdict

logger = logging.getLogger(__name__)


class Encoding:
    """One medium's: `codec` without `is_measured` is always used."""

    def __init__(self, codec: Codec | None = None, *, what: str = "", is_measured: bool = False) -> None:
        self.codec = codec
        self.is_measured = is_measured and codec is not None
        self.verdict = Verdict(is_encoded=codec is not None and not is_measured)
        self._what = what
        self._speed: CodecSpeed | None = measured_speed(codec) if codec is not None and is_measured else None
        self._told: set[bool] = set()

    def decide(self, bytes_per_s: Sequence[float]) -> bool:
        """Whether to encode a page that goes, and comes back, by ways of these speeds, one after the other.

        0 is a speed that is not known yet; pages are kept as they are until one is.
        """
        if self._speed is None:
            return self.verdict.is_encoded
        medium = in_a_row(bytes_per_s)
        codec = in_a_row((self._speed.encode_bytes_per_s, self._speed.decode_bytes_per_s))
        limit = break_even_bytes_per_s(codec, self._speed.ratio) if self._speed.ratio > 1 else 0.0
        self.verdict = Verdict(is_encoded=0 < medium < limit, medium_bytes_per_s=medium, break_even_bytes_per_s=limit)
        if medium > 0:
            self._tell()
        return self.verdict.is_encoded

    def _tell(self) -> None:
        verdict = self.verdict
        if verdict.is_encoded not in self._told:
            self._told.add(verdict.is_encoded)
            logger.info(
                "pages for %s are %s: it moves %.2f GB/s there and back, and SplitZip pays below %.2f GB/s",
                self._what,
                "encoded" if verdict.is_encoded else "kept as they are",
                verdict.medium_bytes_per_s / 1e9,
                verdict.break_even_bytes_per_s / 1e9,
            )
