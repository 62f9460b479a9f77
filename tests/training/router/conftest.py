"""A small training of a classifier on a base with random weights."""

import json
from pathlib import Path

import pytest

from tests.support.random_models import make_base

TASKS = {"sums": "add {0} and {1} please", "calls": "mail {0} about {1}"}
NUM_ROWS = 30


@pytest.fixture
def router_file(tmp_path: Path) -> Path:
    """Two modules with two files of conversations, some rows of which cannot be used."""
    make_base(tmp_path / "base", hidden=32, heads=2, kv_heads=1)
    tables = []
    for name, form in TASKS.items():
        rows = [{"prompt": form.format(number, 7 * number), "answer": "yes"} for number in range(NUM_ROWS)]
        lines = [json.dumps(row) for row in rows] + ['{"prompt": "?", "answer": ""}', "{half"]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        tables.append(
            f'[[modules]]\nname = "{name}"\ndata = {{ file = "{name}.jsonl", columns = {{ prompt = "prompt", '
            'answer = "answer" } }\n'
        )
    file = tmp_path / "router.toml"
    file.write_text('name = "choice"\noutput = "out"\nseed = 3\n[base]\npath = "base"\n' + "\n".join(tables))
    return file
