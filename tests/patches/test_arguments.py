"""The table of SGLang's arguments is that of the SGLang that is installed."""

from prefillshare.serving.plan.known_options import TABLE, known_options
from sglang_patches.arguments import installed_arguments


def test_the_table_is_that_of_the_installed_sglang() -> None:
    assert installed_arguments() == TABLE.read_text(), "write it anew: python -m sglang_patches arguments"


def test_every_spelling_leads_to_its_option() -> None:
    known = known_options()
    option = known["--tensor-parallel-size"]
    assert option is known["--tp-size"]
    assert (option.field, option.values, option.kind) == ("tp_size", "1", "int")
    assert "qwen3" in known["--reasoning-parser"].choices
