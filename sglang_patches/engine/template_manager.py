"""A model's own chat template counts, whatever its directory is called.

Target: ``sglang.srt.parser.template_manager.TemplateManager.guess_chat_template_from_model_path``
Why: words such as ``points``, ``janus``, ``unlimited`` or ``vicuna`` anywhere in the path of a model choose a
    built-in conversation format over the chat template that lies beside its tokenizer: prompts, and what a module was
    trained on, would depend on where the model lies.
How: nothing is guessed for a model that has a chat template.
Upstream: sglang/srt/parser/template_manager.py:214 at 0.5.17.
Remove when: upstream looks at the model first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefillshare.modules.fingerprint import chat_template


def wrap_guess_chat_template(original: Callable[..., None]) -> Callable[..., None]:
    def guess_chat_template_from_model_path(self: Any, model_path: str) -> None:
        if not chat_template(Path(model_path)):
            original(self, model_path)

    return guess_chat_template_from_model_path
