"""Byte-level BPE trained on the corpus, with ChatML's special tokens and a template of our own beside it.

Digits are tokens of their own (with the space before them, if any), so numbers are spelled, not memorised.
"""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from prefillshare.tiny.language.chatml import END, END_OF_TEXT, START

SPECIAL_TOKENS = (END_OF_TEXT, START, END)
PATTERN = r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MAX_LENGTH = 4096


def train_tokenizer(texts: Iterable[str], vocab_size: int, directory: Path) -> int:
    """Train on the texts and write tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Effects: writes three files into `directory`. Returns the size of the vocabulary.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(_config(), indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(chat_template())
    return tokenizer.get_vocab_size()


def chat_template() -> str:
    """The text of the ChatML template."""
    return files("prefillshare.tiny.language").joinpath("chat_template.jinja").read_text()


def _config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [START],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
    }
