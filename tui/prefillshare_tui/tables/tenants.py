"""Tenants: what each of them asks, what it is refused, and how much KV is kept for it."""

from dataclasses import asdict, dataclass

from prefillshare_tui import words
from prefillshare_tui.parts import Line, line
from prefillshare_tui.snapshot import Refusals, Tenant
from prefillshare_tui.tables.base import Column, Table
from prefillshare_tui.view import NOTHING, Activity, View

_REASONS = (
    ("rate", "for calls/s"),
    ("tokens", "for tokens/min"),
    ("concurrent", "for calls at a time"),
    ("module", "for a module"),
    ("door", "for a door"),
)
"""Names of the refusals, and what they were for."""


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant and what it did within the window."""

    tenant: Tenant
    """As the server describes it."""
    activity: Activity
    """Within the window."""


def _rows(view: View) -> list[TenantRow]:
    tenants = view.snapshot.tenants
    return [TenantRow(tenant, view.tenants.get(tenant.name, NOTHING)) for tenant in tenants.items] if tenants else []


def _kv_cell(row: TenantRow) -> Line:
    return line(("common", "dim")) if row.tenant.is_shared else line((words.short(row.tenant.kv_tokens), "own"))


def _refused_cell(row: TenantRow) -> Line:
    """All since the start; a mark where there were some within the window."""
    is_new = bool(row.activity.grown.get("refused"))
    return line((f"{'!' if is_new else ''}{words.short(row.tenant.refused.total)}", "bad" if is_new else "plain"))


def _detail(row: TenantRow, view: View) -> tuple[Line, ...]:
    tenant, tenants = row.tenant, view.snapshot.tenants
    since = line(
        (tenant.name, "strong"),
        f" since the start: {words.exact(tenant.calls)} calls, prompt {words.exact(tenant.prompt_tokens)} tokens, of "
        f"which {words.exact(tenant.cached_tokens)} cached; generated {words.exact(tenant.generated_tokens)}",
    )
    cache = "in the common cache, which it shares" if tenant.is_shared else "in a cache of its own"
    held = "" if tenant.is_shared else f": {words.exact(tenant.kv_tokens)} tokens of KV"
    unknown = tenants.unknown_keys if tenants else None
    return (
        since,
        line(f"refused {_describe(tenant.refused)}"),
        line(f"{cache}{held}"),
        line((f"requests with nobody's key, or none: {words.exact(unknown)}", "dim")),
    )


def _describe(refused: Refusals) -> str:
    known = [f"{words.exact(number)} {what}" for name, what in _REASONS if (number := getattr(refused, name))]
    return ", ".join(known) or "nothing"


def _rate_column(title: str, name: str, width: int, priority: int = 0) -> Column[TenantRow]:
    return Column(
        title=title,
        width=width,
        cell=lambda row: line(words.short(row.activity.rate(name))),
        sort_key=lambda row: row.activity.rate(name),
        priority=priority,
    )


TENANTS: Table[TenantRow] = Table(
    name="tenants",
    columns=(
        Column(
            title="Tenant",
            width=12,
            cell=lambda row: line((row.tenant.name, "strong")),
            sort_key=lambda row: row.tenant.name,
            align="left",
            is_flexible=True,
            is_name=True,
        ),
        Column(
            title="Calls",
            width=6,
            cell=lambda row: line(words.short(row.tenant.calls)),
            sort_key=lambda row: row.tenant.calls,
            priority=2,
        ),
        _rate_column("Calls/s", "calls", 7),
        Column(
            title="Run",
            width=4,
            cell=lambda row: line(words.short(row.tenant.running)),
            sort_key=lambda row: row.tenant.running,
        ),
        _rate_column("Prompt/s", "prompt_tokens", 8),
        Column(
            title="Saved",
            width=5,
            cell=lambda row: line((words.percent(row.activity.cached_ratio), "strong")),
            sort_key=lambda row: row.activity.cached_ratio,
        ),
        _rate_column("Tok/s", "generated_tokens", 6),
        Column(
            title="KV",
            width=6,
            cell=_kv_cell,
            sort_key=lambda row: None if row.tenant.is_shared else row.tenant.kv_tokens,
        ),
        Column(title="Refused", width=7, cell=_refused_cell, sort_key=lambda row: row.tenant.refused.total),
    ),
    rows=_rows,
    key=lambda row: row.tenant.name,
    detail=_detail,
    record=lambda row: asdict(row.tenant),
    empty="No tenant is in the tenants' file: `prefillshare tenants new NAME` makes one.",
)
