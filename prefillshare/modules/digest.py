"""One hash for the weights of a decode module, to tell whether two machines, or two times, have the same."""

import hashlib

from prefillshare.config.schema import DecodeModule
from prefillshare.errors import ModuleError
from prefillshare.modules.fingerprint import prefill_fingerprint, read_chunks
from prefillshare.modules.locate import locate

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "prefillshare.json")


def module_digest(module: DecodeModule) -> str:
    """Return `sha256:<hex>` over the weights of a decode module; of its adapter, where it is to be merged.

    Effects: may download from the hub; a whole checkpoint is read once, then remembered.
    Raises: ModuleError when its files are missing or broken.
    """
    path = locate(module)
    files = [path / name for name in _ADAPTER_FILES if (path / name).is_file()]
    if not (path / "adapter_config.json").is_file():
        return prefill_fingerprint(path)
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            for chunk in read_chunks(file, 0, file.stat().st_size):
                digest.update(chunk)
    except OSError as error:
        raise ModuleError(f"module {module.name!r} in {path} cannot be read ({error.strerror})") from None
    return f"sha256:{digest.hexdigest()}"
