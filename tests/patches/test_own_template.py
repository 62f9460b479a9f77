"""A chat template beside the tokenizer counts, whatever the directory is called."""

import pytest


@pytest.fixture
def managers():
    """SGLang's template manager, and the same with the patch."""
    from sglang.srt.parser.template_manager import TemplateManager

    from sglang_patches.engine.template_manager import TemplateManager as Ours

    return TemplateManager(), Ours()


@pytest.mark.parametrize(
    ("word", "name"), [("points", "points-v15-chat"), ("my-janus-8b", "janus-pro"), ("vicuna", "vicuna_v1.1")]
)
def test_a_word_in_the_path_changes_nothing_where_a_template_is(managers, tmp_path, word: str, name: str) -> None:
    (tmp_path / word).mkdir()
    (tmp_path / word / "chat_template.jinja").write_text("{{ messages }}")
    for manager in managers:
        manager.guess_chat_template_from_model_path(str(tmp_path / word))
    plain, patched = managers
    assert plain.chat_template_name == name
    assert patched.chat_template_name is None


def test_a_model_without_a_template_is_guessed_as_before(managers, tmp_path) -> None:
    _, patched = managers
    patched.guess_chat_template_from_model_path(str(tmp_path / "vicuna"))
    assert patched.chat_template_name == "vicuna_v1.1"
