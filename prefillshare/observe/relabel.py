"""Prometheus text of several processes made one: labels are added to every sample, and families are put together."""

import re
from collections.abc import Iterable, Mapping

_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(\{)?", re.MULTILINE)
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def add_labels(text: str, labels: Mapping[str, str]) -> str:
    """Return `text` with `labels` on every sample; none of them may be there already."""
    added = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())

    def add_to(match: re.Match[str]) -> str:
        return f"{match[1]}{{{added}," if match[2] else f"{match[1]}{{{added}}}"

    return _SAMPLE.sub(add_to, text).replace(f"{{{added},}}", f"{{{added}}}")


def merge_texts(texts: Iterable[str]) -> str:
    """Return one text with the samples of each family together, under the first text's HELP and TYPE."""
    families: dict[str, tuple[str, list[str]]] = {}
    for text in texts:
        for block in text.split("# HELP ")[1:]:
            about, type_line, samples = _split_family(block)
            families.setdefault(about.split(" ", 1)[0], (f"# HELP {about}\n{type_line}\n", []))[1].append(samples)
    return "".join(head + "".join(samples) for head, samples in families.values())


def _split_family(block: str) -> tuple[str, str, str]:
    """The HELP text, the TYPE line and the samples of one family."""
    about, _, rest = block.partition("\n")
    type_line, _, samples = rest.partition("\n")
    return about, type_line, samples if samples.endswith("\n") or not samples else samples + "\n"
