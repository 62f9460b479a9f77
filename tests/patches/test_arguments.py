"""The table of SGLang's arguments is that of the SGLang that is installed."""

from sglang_patches import arguments


def test_the_table_is_that_of_the_installed_sglang() -> None:
    text = arguments.as_text(arguments.installed_options())
    assert text == arguments._FILE.read_text(), "write it anew: python -m sglang_patches arguments"


def test_every_spelling_leads_to_its_option() -> None:
    known = arguments.known_options()
    option = known["--tensor-parallel-size"]
    assert option is known["--tp-size"]
    assert (option.field, option.values, option.kind) == ("tp_size", "1", "int")
    assert "qwen3" in known["--reasoning-parser"].choices
