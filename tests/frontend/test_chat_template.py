"""A model's chat template in SGLang's form."""

import pytest

from prefillshare.errors import PrefillShareError
from prefillshare.frontend.chat_template import derive
from tests.support.engines import MODELS_DIR

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_DEFAULT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}" + CHATML
)
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# The last answer of a conversation is written with thoughts, earlier ones without.
THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIRST_DIFFERS = (
    "{% for m in messages %}{{ '[FIRST]' if loop.first else '[NEXT]' }}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[NEXT]assistant: {% endif %}"
)
UPPER = CHATML.replace("m.content", "m.content | lower")


@pytest.mark.parametrize("source", [CHATML, WITH_DEFAULT, THOUGHTS], ids=["plain", "default", "thoughts"])
def test_roles_of_chatml(source) -> None:
    template = derive(source)
    assert template.role_prefix_and_suffix == {
        role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")
    }
    assert template.stop_str == ["<|im_end|>"]
    assert template.default_system_prompt == ("You are helpful." if source == WITH_DEFAULT else None)


def test_roles_without_a_system_turn() -> None:
    template = derive(NO_SYSTEM)
    assert template.role_prefix_and_suffix == {
        "user": ("<turn>user\n", "<end>\n"),
        "assistant": ("<turn>model\n", "<end>\n"),
    }


def test_the_tiny_familys_template() -> None:
    source = (MODELS_DIR / "tiny" / "base" / "chat_template.jinja").read_text()
    assert derive(source).role_prefix_and_suffix["system"] == ("<|im_start|>system\n", "<|im_end|>\n")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (FIRST_DIFFERS, "does not end with"),
        (UPPER, "changed or left out"),
        ("{{ raise_exception('never') }}", "never"),
        ("{% for %}", "Expected"),
        (None, "no single chat template"),
    ],
)
def test_what_has_no_such_form_is_refused_with_the_way_out(source, reason) -> None:
    with pytest.raises(PrefillShareError, match=reason) as error:
        derive(source)
    assert "give chat_template_name" in str(error.value)
