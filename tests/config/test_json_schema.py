"""The JSON Schema of deployment files takes what is loaded, and refuses what no key allows."""

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from prefillshare.config.json_schema import deployment_schema

MODELS = Path(__file__).parents[2] / "models"
VALIDATOR = jsonschema.Draft202012Validator(deployment_schema())
FILE: dict[str, Any] = {
    "name": "a",
    "prefill": {"name": "base", "path": "base"},
    "decode": [{"name": "math", "kind": "lora", "path": "math"}],
}


def test_it_is_a_schema_itself() -> None:
    jsonschema.Draft202012Validator.check_schema(deployment_schema())


@pytest.mark.parametrize("file", sorted(MODELS.glob("*.toml")), ids=lambda file: file.name)
def test_every_shipped_file_is_taken(file: Path) -> None:
    VALIDATOR.validate(tomllib.loads(file.read_text()))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"nmae": "a"}, "'nmae' was unexpected"),
        ({"topology": "both"}, "'both' is not one of"),
        ({"engine": {"page_size": "16"}}, "'16' is not of type 'integer'"),
        ({"engine": {"pages": 16}}, "'pages' was unexpected"),
        ({"decode": {"name": "math"}}, "is not of type 'array'"),
        ({"decode": [{"name": "math"}]}, "is a required property"),
        ({"roles": {"modules": {"math": {"most": 3}}}}, "'most' was unexpected"),
    ],
)
def test_a_slip_is_found(fields: dict[str, Any], reason: str) -> None:
    VALIDATOR.validate(FILE)
    assert any(reason in error.message for error in VALIDATOR.iter_errors(FILE | fields))


def test_every_key_says_what_it_means_and_what_it_is_without() -> None:
    def keys(schema: dict[str, Any], where: str = "") -> dict[str, dict[str, Any]]:
        found = {f"{where}{name}": value for name, value in schema.get("properties", {}).items()}
        return found | {k: v for name, value in found.items() for k, v in keys(value, f"{name}.").items()}

    described = keys(deployment_schema())
    assert [name for name, value in described.items() if not value.get("description")] == []
    assert described["engine.tensor_parallel_size"]["default"] == 1
    assert described["topology"] == {
        "enum": ["colocated", "disaggregated"],
        "default": "colocated",
        "description": described["topology"]["description"],
    }
