"""The tiny family's `math` in codebooks: weighed by its inputs, tuned over the base's KV, written and read again."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from prefillshare.config.quantisation import Tuning
from prefillshare.modules.manifest import read_manifest
from prefillshare.quantize.clusters import Clustering
from prefillshare.quantize.decode_module import load_trainable, map_full, map_model
from prefillshare.quantize.layers import Recipe, quantise_module
from prefillshare.quantize.moments import input_moments
from prefillshare.quantize.source import WeightSource
from prefillshare.quantize.tune import Tuner, held_out_loss, write_tuned
from prefillshare.quantize.tune_layers import LayerTuning
from prefillshare.tiny.data import encode, tuning_pieces
from prefillshare.tiny.language.conversations import tuning_conversations
from prefillshare.training.layout import Layout, lay_out
from prefillshare.training.model import load_base
from prefillshare.training.shard import Document
from tests.support.engines import MODELS_DIR

TINY = MODELS_DIR / "tiny"


def documents(seed: int) -> Iterator[Document]:
    tokenizer = Tokenizer.from_file(str(TINY / "base" / "tokenizer.json"))
    encoded = (encode(tokenizer, tuning_pieces(chat, "math")) for chat in tuning_conversations(seed, "math"))
    return (document for document in encoded if any(document.weights))


def lay_side_by_side(chats: Iterable[Document]) -> Layout:
    return lay_out([(document.tokens, document.weights) for document in chats], packed=True)


def layouts(seed: int, size: int) -> Iterator[Layout]:
    usable = documents(seed)
    while True:
        yield lay_side_by_side(islice(usable, size))


@pytest.mark.long
def test_tuning_wins_back_what_codebooks_lose(tmp_path: Path) -> None:
    source, base = WeightSource(TINY / "base", TINY / "math"), map_model(TINY / "base")
    manifest = read_manifest(TINY / "math")
    assert manifest is not None
    manifest = replace(manifest, kind="full")
    held_out = list(islice(layouts(2, 8), 1))
    full = map_full(source)
    moments = input_moments(full, base, source, islice(layouts(3, 8), 1))
    assert moments.keys() == {names[0] for layer in range(5) for names in source.linear_groups(layer)}
    losses = {"full weights": held_out_loss(full, base, held_out)}

    how = Clustering(num_samples=1 << 13, num_rounds=8)
    recipe = Recipe(source="math", clustering=how)
    weighed = quantise_module(
        source, tmp_path / "weighed", replace(recipe, data_sha256="chats"), manifest, moments=moments
    )
    losses["weighed"] = held_out_loss(load_base(weighed, torch.float32).eval(), base, held_out)

    model = load_trainable(source, weighed)
    tuner = Tuner(model, base, Tuning(steps=8, warmup_steps=0))
    for layout in islice(layouts(4, 8), 8):
        tuner.step(layout)
    losses["tuned"] = held_out_loss(model, base, held_out)
    tuned = write_tuned(model, weighed, tmp_path / "tuned", manifest)
    losses["read again"] = held_out_loss(load_base(tuned, torch.float32).eval(), base, held_out)

    rows = [lay_side_by_side([document]) for document in islice(documents(4), 48)]
    one_by_one = LayerTuning(
        source=source,
        base=WeightSource(TINY / "base"),
        quantised=weighed,
        directory=tmp_path,
        how=Tuning(warmup_steps=0, steps=6),
        num_rows=len(rows),
        layout_of=rows.__getitem__,
        steps=[[*range(first, first + 8)] for first in range(0, len(rows), 8)],
        show=lambda *_: None,
    ).run(tmp_path / "one-by-one", manifest)
    losses["layer by layer"] = held_out_loss(load_base(one_by_one, torch.float32).eval(), base, held_out)

    print(", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
    assert losses["tuned"] < losses["weighed"]
    assert losses["layer by layer"] < losses["weighed"]
    assert losses["tuned"] < losses["full weights"] + 0.02
    # Codebooks and scales are rounded to float16 when they are written.
    assert losses["read again"] == pytest.approx(losses["tuned"], abs=2e-3)
