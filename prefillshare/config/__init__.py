"""Deployment, training, task and quantisation files: TOML into frozen dataclasses, with every mistake in one sentence.

`load_deployment` and `load_training` read and check what the file alone can tell. Whether the modules on disk fit each
other is decided by `prefillshare.modules.deployment`, whether a run can start by `prefillshare.training.finetune`.
"""

from prefillshare.config.cluster import Cluster
from prefillshare.config.growing import GrowTask
from prefillshare.config.load import (
    load_deployment,
    load_grow_task,
    load_quantisation,
    load_router_training,
    load_training,
)
from prefillshare.config.modules import Modules
from prefillshare.config.quantisation import Quantisation
from prefillshare.config.responses import Responses
from prefillshare.config.roles import Limits, Roles
from prefillshare.config.router import Router
from prefillshare.config.router_training import RouterTraining
from prefillshare.config.schema import DecodeModule, Deployment, Engine, PrefillModule, Transfer
from prefillshare.config.store import Store
from prefillshare.config.tenants import Tenants
from prefillshare.config.training import Training

__all__ = [
    "Cluster",
    "DecodeModule",
    "Deployment",
    "Engine",
    "GrowTask",
    "Limits",
    "Modules",
    "PrefillModule",
    "Quantisation",
    "Responses",
    "Roles",
    "Router",
    "RouterTraining",
    "Store",
    "Tenants",
    "Training",
    "Transfer",
    "load_deployment",
    "load_grow_task",
    "load_quantisation",
    "load_router_training",
    "load_training",
]
