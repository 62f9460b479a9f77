"""Whether a base has the layers that an adapter is to be trained on.

PEFT skips a name that no layer has as long as another one fits, so a run would train less than its file says.
"""

from collections.abc import Iterable
from pathlib import Path

from prefillshare.errors import ModuleError
from prefillshare.modules.fingerprint import tensor_entries, weight_files


def check_targets(base: Path, targets: Iterable[str]) -> None:
    """Compare `[lora] targets` with the matrices of the checkpoint `base`.

    Raises: ModuleError naming the first that no layer has.
    """
    matrices = [entry.name for entry in tensor_entries(weight_files(base)) if len(entry.shape) == 2]
    known = sorted({name.split(".")[-2] for name in matrices if ".layers." in name})
    if missing := [target for target in targets if target not in known]:
        raise ModuleError(
            f"targets under [lora] names {missing[0]!r}, and {base} has no such layer (it has {', '.join(known)}): "
            "name only layers that it has"
        )
