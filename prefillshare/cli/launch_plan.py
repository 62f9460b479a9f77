"""What `prefillshare launch` says of a deployment before it is started, and instead of starting it."""

import json
from typing import TYPE_CHECKING

from prefillshare.cli.launch_memory_table import memory_table
from prefillshare.cli.output import put, put_comment_table, put_json, say, warn

if TYPE_CHECKING:
    from prefillshare.config import Deployment
    from prefillshare.modules.deployment import ResolvedDeployment
    from prefillshare.serving.options import LaunchOptions


def say_what_is_planned(deployment: "ResolvedDeployment", options: "LaunchOptions") -> None:
    """Say what should be known of a deployment before it is served."""
    from prefillshare.config.roles import describe_limits
    from prefillshare.serving.launch import plan_warnings
    from prefillshare.serving.plan.store import describe_store, plan_store
    from prefillshare.serving.plan.transfer import describe_transfer

    config = deployment.config
    for text in (*deployment.warnings, *plan_warnings(deployment, options)):
        warn(text)
    if (store := plan_store(deployment)) is not None:
        say(describe_store(store))
    if config.topology == "disaggregated":
        say(describe_transfer(deployment))
    if config.roles.follow_load:
        say(describe_limits(config.roles, [module.name for module in config.decode if module.share]))


def print_plan(deployment: "ResolvedDeployment", options: "LaunchOptions", *, as_json: bool) -> None:
    """Print devices, memory and the commands that would be run."""
    from dataclasses import asdict

    from prefillshare.serving.launch import plan, plan_memory

    commands = plan(deployment, options)
    sizes = {budget.name: budget for budget in plan_memory(deployment)}
    if as_json:
        put_json(
            [
                {
                    "name": name,
                    "argv": command.argv,
                    "environment": command.environment,
                    "memory": asdict(sizes[name]),
                }
                for name, command in commands.items()
            ]
        )
        return
    put_settings(deployment.config)
    put_comment_table(*memory_table(list(sizes.values())))
    for name, command in commands.items():
        put(f"# {name}\n{command.as_shell()}" if len(commands) > 1 else command.as_shell())


def put_settings(config: "Deployment") -> None:
    """Print, as comments, what is not as by default, and who says so."""
    from prefillshare.config.origins import list_settings

    rows = [(setting.key, _as_toml(setting.value), setting.origin) for setting in list_settings(config)]
    put_comment_table(("key", "value", "from"), rows)
    put("#")


def _as_toml(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
