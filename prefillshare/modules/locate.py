"""Where a module's files are: its local directory, or a snapshot of its hub repository."""

from pathlib import Path

from prefillshare.config.schema import DecodeModule, PrefillModule
from prefillshare.errors import ModuleError, first_line

_BASE_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def locate(module: PrefillModule | DecodeModule) -> Path:
    """Return the directory of a module, fetching it from the hub when it names a repository.

    Effects: may download into the Hugging Face cache, with its progress on stderr.
    Raises: ModuleError when the repository cannot be fetched.
    """
    if module.path is not None:
        return module.path
    assert module.hub is not None
    return _snapshot(module.name, module.hub, module.hub_revision)


def _snapshot(name: str, repository: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_BASE_FILES))
    except GatedRepoError:
        reason, fix = "needs an accepted licence", "accept it on the hub and log in with `hf auth login`"
    except RevisionNotFoundError:
        reason, fix = f"has no revision {revision!r}", "correct revision, or remove it for the main branch"
    except (RepositoryNotFoundError, HFValidationError):
        reason, fix = "is not a public repository", 'correct hub, or give a local directory with path = "..."'
    except Exception as error:  # the hub client raises its transport's own errors: all mean that it was not reached
        reason = f"could not be fetched ({first_line(error)})"
        fix = 'check the network, or download it elsewhere and give path = "..." instead of hub'
    raise ModuleError(f"hub repository {repository!r} of module {name!r} {reason}: {fix}")
