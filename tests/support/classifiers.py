"""What a classifier must say, computed by plain transformers and safetensors; and classifiers with other labels."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from prefillshare.modules.heads import Head, read_head, write_head
from tests.support.engines import MODELS_DIR

TINY_ROUTER = MODELS_DIR / "tiny-router"
AUTO = {"default": "math", "classifier": str(TINY_ROUTER)}
HEADER = "X-PrefillShare-Choice"
TOLERANCE = 2e-5
"""Of a probability; the header has four digits, which adds half of the last one."""
HEADER_TOLERANCE = TOLERANCE + 5e-5


def write_classifier(directory: Path, labels: tuple[str, ...]) -> None:
    """A classifier of the tiny base with other labels, the first of the tiny one's in their places."""
    known = read_head(TINY_ROUTER)
    directory.mkdir(exist_ok=True)
    weight, bias = known.weight[: len(labels)].copy(), known.bias[: len(labels)].copy()
    write_head(directory, Head(manifest=replace(known.manifest, labels=labels), weight=weight, bias=bias))


def assert_stays(directory: Path, set_alias: Callable[[str, object], httpx.Response], ask: Callable[[], str]) -> None:
    """Hold what an alias means against what becomes of its classifier's directory; `ask` gives an answer's header."""
    meaning = {"default": "math", "classifier": str(directory)}
    write_classifier(directory, ("math", "tool", "code"))
    assert set_alias("auto", meaning).status_code == 200
    before = _approximately(ask())
    write_classifier(directory, ("math", "tool", "law"))
    for name in ("auto", "other"):
        refused = set_alias(name, meaning)
        assert refused.status_code == 400, refused.text
        assert "has the label 'law'" in refused.json()["error"]["message"]
    assert told(ask()) == before, "what was refused has changed something"
    write_classifier(directory, ("code", "tool", "math"))
    assert set_alias("other", meaning).status_code == 200
    assert told(ask()) == before, "another alias's version has come to this one"
    shutil.rmtree(directory)
    assert told(ask()) == before, "the directory is needed after it was read"
    refused = set_alias("auto", meaning)
    assert refused.status_code == 400
    assert f"{directory} holds no classifier" in refused.json()["error"]["message"]
    write_classifier(directory, ("code", "tool", "math"))
    assert set_alias("auto", meaning).status_code == 200
    now = told(ask())
    assert now.keys() == {"math", "tool", "code"}
    assert now != before


def _approximately(header: str) -> Any:
    return pytest.approx(told(header), abs=2 * HEADER_TOLERANCE)


@cache
def _base() -> Any:
    return AutoModel.from_pretrained(MODELS_DIR / "tiny" / "base", dtype=torch.float32).eval()


@torch.no_grad()
def plain_state(prompt: Sequence[int]) -> torch.Tensor:
    """The base's state of a prompt's last token, behind its final norm."""
    state: torch.Tensor = _base()(torch.tensor([list(prompt)])).last_hidden_state[0, -1]
    return state


def plain_probabilities(prompt: Sequence[int], directory: Path = TINY_ROUTER) -> dict[str, float]:
    """How likely each module is."""
    tensors = load_file(directory / "router.safetensors")
    labels = json.loads((directory / "router.json").read_text())["labels"]
    likely = torch.softmax((plain_state(prompt) @ tensors["weight"].T + tensors["bias"]).double(), dim=-1)
    return dict(zip(labels, likely.tolist(), strict=True))


def told(header: str) -> dict[str, float]:
    """The probabilities in an answer's header."""
    pairs = (pair.split("=") for pair in header.split(", "))
    return {label: float(likely) for label, likely in pairs}


def assert_is_the_choice(header: str, prompt: Sequence[int]) -> str:
    """Hold an answer's header against the plain computation; the module that must have answered."""
    expected = plain_probabilities(prompt)
    found = told(header)
    assert found.keys() == expected.keys()
    differences = {label: abs(found[label] - expected[label]) for label in expected}
    assert max(differences.values()) <= HEADER_TOLERANCE, (found, expected)
    return max(expected, key=lambda label: expected[label])
