"""The fidelity matrix: exact generations out of how many, and the largest difference of y_1's log-probability."""

from dataclasses import dataclass

SCORES: list["Score"] = []


@dataclass(slots=True)
class Score:
    """One configuration's line."""

    name: str
    exact: int = 0
    total: int = 0
    largest_logprob_difference: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.name:<60} {self.exact:>5} of {self.total:<5} exact   "
            f"y_1 logprob differs by at most {self.largest_logprob_difference:.1e}"
        )
