"""Deployment files: TOML into frozen dataclasses, with every mistake named in one sentence.

`load_deployment` reads and checks what the file alone can tell. Whether the modules on disk fit each other is decided
by `prefillshare.modules.deployment`.
"""

from prefillshare.config.load import load_deployment
from prefillshare.config.router import Router
from prefillshare.config.schema import DecodeModule, Deployment, Engine, PrefillModule, Transfer

__all__ = ["DecodeModule", "Deployment", "Engine", "PrefillModule", "Router", "Transfer", "load_deployment"]
