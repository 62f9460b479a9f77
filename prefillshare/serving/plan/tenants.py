"""What a launch of a deployment with tenants needs: a file that can be used, and a key of the operator's own."""

from prefillshare.config import Deployment
from prefillshare.contract import TENANTS_VARIABLE
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.tenants.file import read_tenants


def check_tenants(config: Deployment, api_key: str | None) -> None:
    """Raise ConfigError where the tenants of a deployment cannot be served.

    Effects: reads their file.
    """
    if config.tenants is not None:
        read_tenants(config.tenants.file)
        check_operators_key(config, api_key)


def check_operators_key(config: Deployment, api_key: str | None) -> None:
    """Raise ConfigError where the operator of a deployment with tenants has no key."""
    if config.tenants is not None and not api_key:
        raise ConfigError(
            "[tenants] gives keys to clients, and numbers and changes of the deployment are the operator's: set a key "
            "of your own as PREFILLSHARE_API_KEY"
        )


def tenant_variables(deployment: ResolvedDeployment) -> dict[str, str]:
    """Return the variables that tell an engine its tenants; behind a router, that knows them."""
    config = deployment.config
    if config.tenants is None or config.topology != "colocated":
        return {}
    return {TENANTS_VARIABLE: str(config.tenants.file)}
