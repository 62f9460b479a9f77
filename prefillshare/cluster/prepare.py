"""What a deployment file means on this machine, before the cluster is asked for anything."""

from dataclasses import replace

from prefillshare import __version__
from prefillshare.cluster.plan import Plan, unmerged
from prefillshare.cluster.secrets import read_admin_key, read_api_key
from prefillshare.config import Cluster, Deployment
from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.modules.digest import module_digest
from prefillshare.serving.plan.tenants import check_tenants


def prepare(config: Deployment, port: int) -> tuple[Plan, ResolvedDeployment]:
    """Check the modules and the keys that every node must have, and return what to tell the nodes.

    Effects: reads the modules once, as on one machine, but merges none.
    Raises: ConfigError or ModuleError for what cannot be served.
    """
    if config.topology != "disaggregated":
        raise ConfigError(
            f'{config.name} has topology = "{config.topology}", one engine on one machine: write topology = '
            '"disaggregated" to serve it on a cluster'
        )
    config = replace(config, cluster=config.cluster or Cluster(), source=None)
    assert config.cluster is not None
    read_admin_key(config.cluster, config.name)
    check_tenants(config, read_api_key(config.cluster))
    deployment = resolve(unmerged(config))
    digests = {module.name: module_digest(module) for module in config.decode}
    plan = Plan(config=config, fingerprint=deployment.fingerprint, digests=digests, version=__version__, port=port)
    _check_router_ports(plan)
    return plan, deployment


def _check_router_ports(plan: Plan) -> None:
    taken = set(plan.router_ports) & set(plan.cluster.transport_ports or ())
    if taken:
        raise ConfigError(
            f"port {min(taken)}, a router's, is in the upper half of ports {plan.cluster.ports} under [cluster], of "
            "which KV transport takes any: choose another --port"
        )
