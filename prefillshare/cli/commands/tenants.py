"""`prefillshare tenants`: keys of those who may call; a deployment that serves takes the change within a second."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prefillshare.config.tenants import Tenant

app = typer.Typer(
    help="Tenants: their keys, in the file that [tenants] names.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_Name = Annotated[str, typer.Argument(help="The tenant's name.")]
_File = Annotated[Path, typer.Option("--file", "-f", help="The tenants' file.")]
_FILE = Path("tenants.toml")
_HASH_LETTERS = 8
"""Of a key's hash: enough to say which one is meant."""


@app.command("new")
def new(name: _Name, file: _File = _FILE) -> None:
    """Make a key for a tenant, and the tenant if it is new; the key is printed once, the file gets its hash."""
    from prefillshare.cli.output import put, say
    from prefillshare.tenants.file import add_key

    key = add_key(file, name)
    say(f"{file} has the hash of this key of tenant {name}; limits and modules are written there by hand:")
    put(key)


@app.command("ls")
def list_tenants(file: _File = _FILE, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List the tenants with their limits, and the begin of their keys' hashes."""
    from prefillshare.cli.output import put_json, put_table, say
    from prefillshare.tenants.file import read_tenants

    tenants = read_tenants(file).tenant
    if as_json:
        put_json([_as_json(tenant) for tenant in tenants])
    elif not tenants:
        say(f"no tenant is in {file}: prefillshare tenants new NAME")
    else:
        header = ("tenant", "cache", "calls/s", "tokens/min", "at a time", "modules", "keys")
        put_table(header, [_as_row(tenant) for tenant in tenants])


@app.command("revoke")
def revoke(
    name: _Name,
    key: Annotated[
        str | None, typer.Option(help="Only the key whose hash begins so, as `ls` shows it; without it, the tenant.")
    ] = None,
    file: _File = _FILE,
) -> None:
    """Take a tenant out of the file, or one of its keys; calls under way end, further ones are 401."""
    from prefillshare.cli.output import say
    from prefillshare.tenants.file import remove

    remove(file, name, key)
    say(f"{file} has {'tenant ' + name if key is None else 'that key'} no more")


def _hash_begins(tenant: "Tenant") -> list[str]:
    from prefillshare.config.tenants import HASH_START

    return [key.removeprefix(HASH_START)[:_HASH_LETTERS] for key in tenant.keys]


def _as_json(tenant: "Tenant") -> dict[str, object]:
    return {
        "name": tenant.name,
        "shared": tenant.shared,
        "calls_per_s": tenant.calls_per_s,
        "tokens_per_min": tenant.tokens_per_min,
        "concurrent": tenant.concurrent,
        "modules": tenant.modules,
        "keys": _hash_begins(tenant),
    }


def _as_row(tenant: "Tenant") -> tuple[str, ...]:
    limits = (tenant.calls_per_s, tenant.tokens_per_min, tenant.concurrent)
    return (
        tenant.name,
        "shared" if tenant.shared else "its own",
        *("no limit" if limit is None else str(limit) for limit in limits),
        ", ".join(tenant.modules) or "all",
        ", ".join(_hash_begins(tenant)) or "none",
    )
