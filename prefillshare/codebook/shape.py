"""What a codebook weight is made of, and what it takes."""

from dataclasses import dataclass

from prefillshare.errors import ModuleError

_SCALE_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookShape:
    """How the rows of a weight are cut up; each row is cut alike.

        row     | group of g inputs (one scale)     | group ...
                | v inputs | v inputs | ...         |
        codes     m bytes    m bytes                    each names one of 2^b entries of its codebook: v numbers

    The v weights of a segment are the sum of the m entries, times the group's scale.
    """

    num_codebooks: int = 1
    """m: codes of a segment, each into a codebook of its own."""
    code_bits: int = 8
    """b: bits of a code; a codebook has 2^b entries."""
    segment: int = 4
    """v: inputs that a code stands for."""
    group: int = 128
    """g: inputs that share a scale."""

    def __post_init__(self) -> None:
        _check("m", self.num_codebooks, 1 <= self.num_codebooks <= 4, "1 to 4")
        # Codes are stored as bytes, so fewer bits save nothing on disk; they make a smaller table.
        _check("b", self.code_bits, 1 <= self.code_bits <= 8, "1 to 8: a code is stored as a byte")
        _check("v", self.segment, self.segment in (4, 8, 16), "4, 8 or 16")
        is_multiple = self.group > 0 and self.group % self.segment == 0
        _check("g", self.group, is_multiple and self.group <= 512, f"a multiple of v = {self.segment}, up to 512")

    @property
    def num_entries(self) -> int:
        """Entries of a codebook."""
        return 2**self.code_bits

    @property
    def num_terms(self) -> int:
        """Codes of a row in one group."""
        return self.group // self.segment * self.num_codebooks

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of a weight, codebooks apart."""
        return 8 * self.num_codebooks / self.segment + _SCALE_BITS / self.group

    def weight_bytes(self, num_outputs: int, num_inputs: int) -> int:
        """Return the bytes of codes, scales and codebooks of one weight."""
        codes = num_outputs * num_inputs // self.segment * self.num_codebooks
        scales = num_outputs * num_inputs // self.group * 2
        return codes + scales + self.num_codebooks * self.num_entries * self.segment * 2

    def check_fits(self, num_inputs: int, name: str) -> None:
        """Refuse a weight whose rows cannot be cut up.

        Raises: ModuleError.
        """
        if num_inputs % self.group:
            raise ModuleError(
                f"{name} has {num_inputs} inputs, which do not divide into groups of g = {self.group}: choose a g that "
                f"divides {num_inputs}"
            )


def _check(name: str, value: int, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise ModuleError(f"codebooks with {name} = {value}: it must be {wanted}")
