"""Deployment, training and quantisation files: TOML into frozen dataclasses, with every mistake named in one sentence.

`load_deployment` and `load_training` read and check what the file alone can tell. Whether the modules on disk fit each
other is decided by `prefillshare.modules.deployment`, whether a run can start by `prefillshare.training.finetune`.
"""

from prefillshare.config.cluster import Cluster
from prefillshare.config.load import load_deployment, load_quantisation, load_training
from prefillshare.config.quantisation import Quantisation
from prefillshare.config.roles import Limits, Roles
from prefillshare.config.router import Router
from prefillshare.config.schema import DecodeModule, Deployment, Engine, PrefillModule, Transfer
from prefillshare.config.store import Store
from prefillshare.config.training import Training

__all__ = [
    "Cluster",
    "DecodeModule",
    "Deployment",
    "Engine",
    "Limits",
    "PrefillModule",
    "Quantisation",
    "Roles",
    "Router",
    "Store",
    "Training",
    "Transfer",
    "load_deployment",
    "load_quantisation",
    "load_training",
]
