"""Worker models as files, and sizes as text."""

from pathlib import Path

import pytest

from prefillshare.errors import ConfigError, SimulationError
from prefillshare.simulation.model import read_model, write_model
from prefillshare.simulation.presets import H100_QWEN3_8B, choose_model
from prefillshare.simulation.sizes import parse_sizes
from tests.simulation.cases import MODEL


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    for model in (MODEL, H100_QWEN3_8B):
        write_model(model, tmp_path / "model.toml")
        assert read_model(tmp_path / "model.toml") == model


def test_presets_have_names() -> None:
    assert choose_model("h100-qwen3-8b") is H100_QWEN3_8B


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("token_s = 0.001", "token_s = -1"), "token_s under .prefill. is -1"),
        (("page_size = 1", "page_size = 0"), "page_size is 0: it must be at least 1"),
        (("page_size", "page_sise"), "did you mean 'page_size'"),
        (("bytes_per_s = 1000000.0", "bytes_per_s = 0"), "bytes_per_s under .handoff. is 0"),
        (("[prefill]", "[prefill"), "is not TOML"),
    ],
)
def test_a_model_that_cannot_be_says_why(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "model.toml"
    write_model(MODEL, file)
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change, 1))
    with pytest.raises(ConfigError, match=message):
        read_model(file)


def test_a_model_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(SimulationError, match=r"there is no worker model 'h200'.*h100-qwen3-8b"):
        choose_model("h200")


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("8", ["4P+4D"]),
        ("3+5", ["3P+5D"]),
        ("8..40", ["4P+4D", "8P+8D", "16P+16D", "20P+20D"]),
        ("8..8,2+2", ["4P+4D", "2P+2D"]),
    ],
)
def test_sizes(text: str, sizes: list[str]) -> None:
    assert [size.title for size in parse_sizes(text)] == sizes


@pytest.mark.parametrize("text", ["many", "0", "8..4", "1", "4+", "0+3", "8...9"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(SimulationError, match="--workers"):
        parse_sizes(text)
