"""A model's own chat template counts, whatever its directory is called.

Target: ``sglang.srt.parser.template_manager.TemplateManager``
Why: words such as ``points``, ``janus``, ``unlimited`` or ``vicuna`` anywhere in the path of a model choose a
    built-in conversation format over the chat template that lies beside its tokenizer: prompts, and what a module was
    trained on, would depend on where the model lies.
How: nothing is guessed for a model that has a chat template.
Remove when: upstream looks at the model first.
"""

from __future__ import annotations

from pathlib import Path

from sglang.srt.parser import template_manager as upstream

from prefillshare.modules.fingerprint import chat_template
from sglang_patches.declarations import binds, overrides


@binds("parser.template_manager:TemplateManager", at=("entrypoints.engine", "entrypoints.http_server"))
class TemplateManager(upstream.TemplateManager):
    """Looks at the model before it guesses by its path."""

    @overrides("9489ca2b0a5eba39", "a word in a model's path would replace its chat template")
    def guess_chat_template_from_model_path(self, model_path: str) -> None:
        if not chat_template(Path(model_path)):
            super().guess_chat_template_from_model_path(model_path)
