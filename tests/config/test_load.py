"""Every mistake in a deployment file gives one sentence with the value and the fix."""

import contextlib
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import ConfigError
from tests.support.random_models import write_deployment

NO_HUB = 'path = "base"'


@pytest.fixture
def deployment_file(tmp_path: Path) -> Path:
    for name in ("base", "math", "tool", "code"):
        (tmp_path / name).mkdir()
    return write_deployment(tmp_path / "deployment.toml")


def test_a_valid_file_gives_absolute_paths_and_defaults(deployment_file: Path) -> None:
    deployment = load_deployment(deployment_file)
    assert deployment.model_names == ("math", "tool", "code", "random-base")
    assert deployment.prefill.path == deployment_file.parent / "base"
    assert deployment.decode[1].path == deployment_file.parent / "tool"
    assert (deployment.engine.dtype, deployment.engine.page_size, deployment.engine.device) == ("float32", None, "auto")
    assert deployment.source == deployment_file


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("dtype", "dtpye", "[engine] has the unknown key 'dtpye': did you mean 'dtype'?"),
        ("[prefill]", "[prefil]", "the file has the unknown key 'prefil': did you mean 'prefill'?"),
        ('"float32"', '"fp32"', "dtype is 'fp32': it must be one of auto, float32, bfloat16, float16"),
        ('"float32"', '"flot32"', "dtype is 'flot32': did you mean 'float32'?"),
        ('"colocated"', '"disagregated"', "did you mean 'disaggregated'?"),
        ('kind = "lora"', 'kind = "lora"\nreplicas = 2', 'remove replicas, or write topology = "disaggregated"'),
        ('kind = "lora"', 'kind = "lora"\nreplicas = 0', "replicas is 0: it must be at least 1"),
        ('kind = "lora"', 'kind = "lora"\nengine = 3', "engine is 3: make it a table, engine of [[decode]] number 1"),
        ('kind = "lora"', 'kind = "lora"\nreplicas = 100000', "replicas is 100000: it must be at most 1024"),
        ("[prefill]", "[prefill]\nworkers = 1025", "workers is 1025: it must be at most 1024"),
        ('kind = "lora"', 'kind = "lora"\nmerge = true', 'write kind = "full" to serve the merged weights'),
        ('kind = "lora"', 'kind = "full"\nshare = false', 'has share = false and kind = "full": only an adapter'),
        ('kind = "lora"', 'kind = "lora"\nshare = false\naccept_naive = true', "remove accept_naive"),
        ("[prefill]", "[prefill]\nworkers = 2", 'remove workers, or write topology = "disaggregated"'),
        ('kind = "lora"', 'kind = "full"', 'use its LoRA adapter with kind = "lora"'),
        ('kind = "lora"\n', "", "has no 'kind': add kind = \"lora\""),
        ('name = "tool"', 'name = "math"', "name 'math' of decode module 2 is also that of decode module 1"),
        ('name = "tool"', 'name = "random-base"', "is also that of the prefill module"),
        ('name = "tool"', 'name = "a:b"', "name 'a:b' cannot be a model name"),
        ('path = "math"', 'path = "maths"', "path 'maths' of module 'math' does not exist"),
        ('path = "math"', 'path = "deployment.toml"', "is not a directory"),
        ('path = "math"', f'path = "{1000 * "long"}"', "does not exist"),
        ('path = "math"', 'path = ""', "path is empty"),
        ('path = "math"', "path = 3", "path is 3: it must be text in quotes"),
        (NO_HUB, 'path = "base"\nrevision = "v1"', "revision 'v1' but no hub"),
        (NO_HUB, 'path = "base"\nhub = "a/b"', "has both path and hub"),
        (NO_HUB, "", "has neither path nor hub"),
        ("[[decode]]", "[decode]", "valid TOML"),
        ("[engine]\n", "[engine]\npage_size = '16'\n", "page_size is '16': it must be a whole number"),
        ("[engine]\n", "[engine]\npage_size = true\n", "page_size is true: it must be a whole number"),
        ("[prefill]", 'otlp_endpoint = "collector"\n[prefill]', "an address such as http://localhost:4317"),
        ("[engine]\n", "[engine]\npage_size = 0\n", "page_size is 0: it must be at least 1"),
        ("[engine]\n", "[engine]\nmem_fraction_static = 80\n", "it must lie between 0 and 1"),
        ("[engine]\n", "[engine]\noverlap_schedule = 1\n", "it must be true or false"),
        (
            "[engine]\n",
            "[engine]\nmemory_wait_s = -1.0\n",
            "memory_wait_s is -1.0: it must be a number of seconds, or 0",
        ),
        ("[engine]\n", "[engine]\nextra_args = '--x'\n", 'write extra_args = ["..."]'),
        ("[engine]\n", "[engine]\nextra_args = ['--radix-cache-backend=x']\n", "the shared prefix cache is always on"),
        ("[engine]\n", "[engine]\nextra_args = ['--page-size', '4']\n", "write page_size under [engine]"),
        ('"random-agents"', '"a\\u0000b"', "cannot be the name of a deployment"),
        ('"random-agents"', '"\\u001b[31m"', "use printable characters, up to 100 bytes"),
        ('"random-agents"', f'"{"é" * 51}"', "cannot be the name of a deployment"),
        ("[engine]\n", "[modules]\nmax_rank = 0\n[engine]\n", "max_rank is 0: it must be at least 1"),
        ("[engine]\n", "[modules]\ndir = 'nowhere'\n[engine]\n", "make the directory, or correct dir"),
        ("[engine]\n", "[aliases]\nlatest = 'nope'\n[engine]\n", "means 'nope', which is no decode module of math"),
        ("[engine]\n", "[aliases]\nmath = 'tool'\n[engine]\n", "alias 'math' is also the name of a module"),
        ("[engine]\n", "[aliases]\n'a b' = 'math'\n[engine]\n", "alias 'a b' cannot be a model name"),
        (
            "[engine]\n",
            "[aliases.auto]\ndefault = 'math'\nclassifier = 'head'\n[engine]\n",
            "classifier 'head' under [aliases.auto] does not exist",
        ),
        ("[engine]\n", "[aliases.auto]\nclassifier = 'math'\n[engine]\n", "alias 'auto' chooses by rules or a cl"),
        ("[engine]\n", "[aliases]\na = {math = '1'}\n[engine]\n", "it must be a number of at least 0"),
        ('topology = "colocated"', "topology = 1", "topology is 1: it must be one of colocated"),
    ],
)
def test_a_mistake_is_named_with_its_fix(deployment_file: Path, old: str, new: str, said: str) -> None:
    text = deployment_file.read_text()
    assert old in text
    deployment_file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_deployment(deployment_file)
    message = str(caught.value)
    assert said in message
    assert message.startswith(str(deployment_file))
    assert "\n" not in message


def test_one_decode_table_with_single_brackets_is_explained(deployment_file: Path) -> None:
    text = deployment_file.read_text().split("[[decode]]")
    deployment_file.write_text(f"{text[0]}[decode]{text[1]}")
    with pytest.raises(ConfigError, match=r"write \[\[decode\]\] with two brackets"):
        load_deployment(deployment_file)


def test_no_decode_module_is_refused(deployment_file: Path) -> None:
    deployment_file.write_text("decode = []\n" + deployment_file.read_text().split("[[decode]]")[0])
    with pytest.raises(ConfigError, match=r"add a \[\[decode\]\] table"):
        load_deployment(deployment_file)


def test_a_missing_file_names_the_nearest(deployment_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*deployment\.toml"):
        load_deployment(deployment_file.with_name("deploymen.toml"))


def test_a_home_that_nobody_has_is_named(deployment_file: Path) -> None:
    deployment_file.write_text(deployment_file.read_text().replace('path = "', 'path = "~no-such-user/', 1))
    with pytest.raises(ConfigError, match="begins with the home of a user who does not exist"):
        load_deployment(deployment_file)


def test_only_deployments_are_suggested(deployment_file: Path) -> None:
    folder = deployment_file.parent
    for name, text in (("deploymend.toml", "[tool.ruff]\n"), ("deploymenx.toml", "[base]\n[data]\n"), ("d.toml", "[")):
        (folder / name).write_text(text)
    with pytest.raises(ConfigError, match=r"did you mean .*/deployment\.toml"):
        load_deployment(folder / "deploymen.toml")
    deployment_file.unlink()
    with pytest.raises(ConfigError, match="serves the embedded tiny family"):
        load_deployment(folder / "deploymen.toml")


def test_a_mark_before_the_text_is_no_part_of_it(deployment_file: Path) -> None:
    plain = load_deployment(deployment_file)
    deployment_file.write_bytes(b"\xef\xbb\xbf" + deployment_file.read_bytes())
    assert load_deployment(deployment_file) == plain
    with pytest.raises(ConfigError, match=r"did you mean .*/deployment\.toml"):
        load_deployment(deployment_file.with_name("deploymen.toml"))


def test_a_directory_or_a_binary_file_is_no_deployment(deployment_file: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        load_deployment(deployment_file.parent)
    deployment_file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="is not a text file"):
        load_deployment(deployment_file)


def test_every_shipped_deployment_file_is_valid_apart_from_missing_weights() -> None:
    files = sorted(Path("models").glob("*.toml"))
    assert {"tiny-agents.toml", "qwen3-8b-agents.toml", "llama3.1-8b-agents.toml"} <= {file.name for file in files}
    for file in files:
        with contextlib.suppress(_MissingWeights):
            _load_without_weights(file)


class _MissingWeights(Exception):
    """The only thing that a shipped file may lack."""


def _load_without_weights(file: Path) -> None:
    try:
        load_deployment(file)
    except ConfigError as error:
        if "does not exist" in str(error):
            raise _MissingWeights from None
        raise
