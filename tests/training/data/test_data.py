"""Rows become the documents that serving would see; whatever cannot is counted, with a reason and an example."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from prefillshare.config.training import Batch, Columns, Data, HeldOut, Training
from prefillshare.errors import TrainingError
from prefillshare.training.data.chat import Chat, RowError
from prefillshare.training.data.mapping import SOURCES
from prefillshare.training.data.prepare import prepare
from prefillshare.training.data.rows import DATA_VARIABLE, read_rows
from prefillshare.training.data.tokenise import documents_of_chat
from prefillshare.training.layout import segment_bounds
from tests.support.random_models import make_base

# The shapes of the real sets, with content of our own.
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "What is 1 plus 2?", "answer": "1+2=<<1+2=3>>3\n#### 3"},
    "metamath": {"query": "What is 2 times 4?", "response": "The answer is: 8", "type": "GSM_Rephrased"},
    "evolinstruct-code": {"instruction": "Write a function that adds.", "output": "def add(a, b):\n    return a + b"},
    "xlam-function-calling": {
        "id": 1,
        "query": "How warm is it in Oslo?",
        "answers": json.dumps([{"name": "weather", "arguments": {"city": "Oslo", "days": 1}}]),
        "tools": json.dumps(
            [
                {
                    "name": "weather",
                    "description": "Weather of a city.",
                    "parameters": {
                        "city": {"type": "str", "description": "Name of the city.", "default": ""},
                        "days": {"type": "int, optional", "description": "Days ahead.", "default": 1},
                        "units": {"type": "List[str], optional", "description": "Units."},
                    },
                }
            ]
        ),
    },
}
TINY = Path(__file__).parents[3] / "models" / "tiny" / "base"
# A template that drops the thinking of earlier answers, as Qwen3's does.
FORGETFUL_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.role == 'assistant' and loop.last -%}{{- '<think>\\n</think>\\n' -}}{%- endif -%}"
    "{{- message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("data-base"))


@pytest.fixture
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def training(data: Data, *, max_tokens: int = 200, held_out: int = 0) -> Training:
    from prefillshare.config.training import BaseModel, Optimizer

    return Training(
        name="sums",
        output=Path("out"),
        kind="lora",
        base=BaseModel(path=Path("base")),
        data=data,
        batch=Batch(max_tokens=max_tokens),
        optimizer=Optimizer(learning_rate=1e-3),
        evaluation=HeldOut(rows=held_out),
    )


def write(file: Path, *lines: Any) -> Path:
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def spoken(tokenizer: Any, document: Any) -> list[str]:
    """The targets of a document as text, one per answer."""
    return [tokenizer.decode(document.tokens[first:end]) for first, end in segment_bounds(document.weights)]


@pytest.mark.parametrize("source", SOURCES)
def test_known_sources_become_chats_of_their_answers(tmp_path: Path, source: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    file = write(tmp_path / "rows.jsonl", ROWS[source], ROWS[source])
    prepared = prepare(training(Data(source=source, file=file), max_tokens=1000), tokenizer)
    assert prepared.report.num_used == 2
    ((document,), _) = prepared.training
    (answer,) = spoken(tokenizer, document)
    wanted = ROWS[source].get("answer") or ROWS[source].get("response") or ROWS[source].get("output")
    if source == "xlam-function-calling":
        wanted = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 1}}\n</tool_call>'
        prompt = tokenizer.decode(document.tokens)
        assert '"required": ["city"]' in prompt or '"required":["city"]' in prompt
        assert '"type": "array"' in prompt or '"type":"array"' in prompt
    assert answer == f"{wanted}<|im_end|>"


def test_documents_are_what_serving_sees(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "shop"},
        {"role": "user", "content": "price of an apple?"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "and a train?"},
        {"role": "assistant", "content": "three"},
    ]
    (document,) = documents_of_chat(Chat(messages=messages), tokenizer, 500)
    assert spoken(tokenizer, document) == ["two<|im_end|>", "three<|im_end|>"]
    for number, (first, _) in zip((2, 4), segment_bounds(document.weights), strict=True):
        served = tokenizer.apply_chat_template(messages[:number], add_generation_prompt=True)["input_ids"]
        assert document.tokens[:first] == served


def test_an_answer_of_weight_0_is_prompt(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "price of an apple?"},
        {"role": "assistant", "content": "two", "weight": 0},
        {"role": "user", "content": "and a train?"},
        {"role": "assistant", "content": "three", "weight": 1},
        {"role": "user", "content": "and both?"},
        {"role": "assistant", "content": "five", "weight": 0},
    ]
    (document,) = documents_of_chat(Chat(messages=messages).check(), tokenizer, 500)
    assert spoken(tokenizer, document) == ["three<|im_end|>"]
    ((first, _),) = segment_bounds(document.weights)
    served = tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True)["input_ids"]
    assert document.tokens[:first] == served


def test_a_template_that_rewrites_answers_gives_a_document_per_answer(tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETFUL_TEMPLATE
    messages = [
        {"role": "user", "content": "price?"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "total?"},
        {"role": "assistant", "content": "three"},
    ]
    documents = documents_of_chat(Chat(messages=messages), tokenizer, 500)
    answers = [spoken(tokenizer, document) for document in documents]
    assert answers == [["<think>\n</think>\ntwo<|im_end|>"], ["<think>\n</think>\nthree<|im_end|>"]]
    served = tokenizer.apply_chat_template(messages[:3], add_generation_prompt=True)["input_ids"]
    assert documents[1].tokens[: len(served)] == served


def test_rows_that_cannot_be_used_are_counted_with_examples(tmp_path: Path, tokenizer: Any) -> None:
    good = {"q": "number?", "a": "one"}
    file = write(
        tmp_path / "rows.jsonl",
        good,
        {"q": "number?", "a": ""},
        {"q": " \n", "a": "one"},
        {"q": "number?", "a": None},
        {"q": "number " * 200, "a": "one"},
        {"q": "number?", "a": "one " * 200},
        {"q": 3, "a": "one"},
        {"q": "number?"},
        "{not json",
        "[1, 2]",
        good,
    )
    data = Data(file=file, columns=Columns(prompt="q", answer="a"))
    report = prepare(training(data), tokenizer).report
    assert (report.num_rows, report.num_used) == (11, 2)
    assert report.left_out == {"too long": 2, "empty": 3, "malformed": 4}
    text = "\n".join(report.lines())
    assert "row 2: a is empty" in text
    assert "row 5: " in text
    assert "tokens, and max_tokens is 200" in text
    assert "row 7: q is 3, not text" in text
    assert "row 9: the line is not JSON: {not json" in text
    assert "row 10" not in report.examples["malformed"][0]
    assert all(len(examples) <= 3 for examples in report.examples.values())


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "reason", "said"),
    [
        ([], "empty", "no turns"),
        ([{"role": "user", "content": "hi"}], "empty", "no assistant turn"),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}], "empty", "turn 2"),
        ([{"role": "assistant", "content": "hi"}], "malformed", "no prompt"),
        ([{"role": "robot", "content": "hi"}], "malformed", "needs a role"),
        (["hi"], "malformed", "needs a role"),
        ([{"role": "user", "content": ["hi"]}], "malformed", "not text"),
        ([USER, {"role": "assistant", "content": "hi", "weight": 0}], "empty", "no assistant turn to learn"),
        (
            [USER, {"role": "assistant", "content": "hi", "weight": 0.5}],
            "malformed",
            "turn 2 has weight 0.5: it must be 0 or 1",
        ),
        (
            [{**USER, "weight": 0}, {"role": "assistant", "content": "hi"}],
            "malformed",
            "only assistant turns may have one",
        ),
    ],
)
def test_chats_without_anything_to_learn_are_refused(messages: Any, reason: str, said: str) -> None:
    with pytest.raises(RowError, match=said) as caught:
        Chat(messages=messages).check()
    assert caught.value.reason == reason


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"question": "a", "answer": "b"})
    with pytest.raises(TrainingError, match=r"has no column 'questoin': did you mean 'question'\?"):
        read_rows(Data(file=file, columns=Columns(prompt="questoin", answer="answer")))
    with pytest.raises(TrainingError, match="has no column 'query': it must be one of question, answer"):
        read_rows(Data(source="metamath", file=file))


def test_unusable_data_is_one_sentence(tmp_path: Path, tokenizer: Any) -> None:
    empty = write(tmp_path / "empty.jsonl")
    with pytest.raises(TrainingError, match="has no rows"):
        read_rows(Data(source="gsm8k", file=empty))
    file = write(tmp_path / "rows.jsonl", {"question": "a", "answer": "b"}, {"question": "a", "answer": ""})
    data = Data(source="gsm8k", file=file)
    with pytest.raises(TrainingError, match=r"no row of .* can be used: 1 too long, 1 empty \(such as row 1: "):
        prepare(training(data, max_tokens=3), tokenizer)
    with pytest.raises(TrainingError, match="leaves none of 1 usable rows"):
        prepare(training(data, held_out=1), tokenizer)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_rows(Data(source="gsm8k", file=tmp_path / "binary.jsonl"))


def test_local_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "metamath.jsonl", ROWS["metamath"])
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert read_rows(Data(source="metamath")).origin == str(tmp_path / "metamath.jsonl")


def test_a_datasets_directory_is_read_by_name(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", *[{"q": f"number {n}?", "a": "one"} for n in range(5)])
    data = Data(hub=str(tmp_path / "set"), columns=Columns(prompt="q", answer="a"), max_rows=3)
    prepared = prepare(training(data, held_out=1), tokenizer)
    assert (len(prepared.training), len(prepared.held_out)) == (2, 1)
    with pytest.raises(TrainingError, match="has no column 'x'"):
        read_rows(Data(hub=str(tmp_path / "set"), columns=Columns(prompt="x", answer="a")))


def test_a_hub_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TrainingError, match=r"data set 'meta-math/MetaMathQA-40K' \(source 'metamath'\)") as caught:
        read_rows(Data(source="metamath"))
    assert "\n" not in str(caught.value)
    assert "metamath.jsonl" in str(caught.value)


def test_token_ids_beyond_16_bits_survive(tmp_path: Path) -> None:
    from prefillshare.training.finetune.examples import read_examples, write_examples
    from prefillshare.training.shard import Document

    write_examples(tmp_path, "data", [[Document(tokens=[70_000, 5, 9], weights=[0.0, 0.0, 1.0])]])
    ((tokens, weights),) = read_examples(tmp_path, "data")[0]
    assert torch.as_tensor(tokens).tolist() == [70_000, 5, 9]
    assert list(weights) == [0.0, 0.0, 1.0]
