"""Rows of the real GSM8K file, through the tiny base's tokenizer and template. Collected only where the data is."""

from pathlib import Path

from transformers import AutoTokenizer

from prefillshare.config.training import BaseModel, Batch, Data, Optimizer, Training
from prefillshare.training.data.prepare import prepare
from prefillshare.training.layout import segment_bounds

DATA = Path(__file__).parents[4] / "shared" / "data"
TINY = Path(__file__).parents[3] / "models" / "tiny" / "base"
NUM_ROWS = 200


def test_every_row_is_used_or_counted() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    training = Training(
        name="gsm8k",
        output=Path("out"),
        kind="lora",
        base=BaseModel(path=TINY),
        data=Data(source="gsm8k", file=DATA / "gsm8k_test.jsonl", max_rows=NUM_ROWS),
        batch=Batch(max_tokens=400),
        optimizer=Optimizer(learning_rate=1e-4),
    )
    prepared = prepare(training, tokenizer)
    report = prepared.report
    assert report.num_rows == NUM_ROWS
    assert report.num_used + sum(report.left_out.values()) == NUM_ROWS
    assert report.left_out["too long"] > 0
    assert report.left_out["malformed"] == report.left_out["empty"] == 0
    for (document,) in prepared.training:
        ((first, end),) = segment_bounds(document.weights)
        assert end == len(document.tokens)
        assert "#### " in tokenizer.decode(document.tokens[first:end])
