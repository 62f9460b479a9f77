"""A deployment in which ordinary modules and modules that read base-made KV only are served side by side."""

from pathlib import Path

from tests.support.engines import MODELS_DIR
from tests.support.random_models import make_adapter

TINY = MODELS_DIR / "tiny"
PAIRED = ("solver", "writer")
"""Random adapters under the rule that all KV is the prefill module's."""
TWIN = "solver-own"
"""The weights of ``solver`` under the rule of ordinary modules."""
ORDINARY = ("math", TWIN)
TARGETS = ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCALE = 2.0
"""So large that the two rules give other tokens for every prompt."""


def make_icarus_family(directory: Path) -> Path:
    """Write the adapters and a deployment file into `directory`; return the file."""
    base = TINY / "base"
    for seed, name in enumerate(PAIRED, start=101):
        make_adapter(directory / name, base, name, seed=seed, scale=SCALE, objective="icarus", target_modules=TARGETS)
    make_adapter(directory / TWIN, base, TWIN, seed=101, scale=SCALE, target_modules=TARGETS)
    paths = {"math": TINY / "math"} | {name: directory / name for name in (TWIN, *PAIRED)}
    modules = "".join(f'[[decode]]\nname = "{name}"\nkind = "lora"\npath = "{path}"\n' for name, path in paths.items())
    file = directory / "icarus-agents.toml"
    file.write_text(
        'name = "icarus-agents"\ntopology = "colocated"\n'
        f'[prefill]\nname = "tiny-base"\npath = "{base}"\n{modules}[engine]\ndtype = "float32"\n',
        encoding="utf-8",
    )
    return file
