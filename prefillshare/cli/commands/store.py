"""`prefillshare store`: look at stores of KV pages, check them, remove them. No engine is needed, and none may run."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from prefillshare.store.inspect import FoundStore

app = typer.Typer(
    help="Stores of KV pages: list, verify, clear.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_Disk = Annotated[Path | None, typer.Option(help="Also the disk tier in this folder (`path` of [store]).")]
_Memory = Annotated[Path, typer.Option(help="File system in memory that holds the stores.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
_SHARED_MEMORY = Path("/dev/shm")


@app.command("ls")
def list_stores(disk: _Disk = None, memory: _Memory = _SHARED_MEMORY, as_json: _Json = False) -> None:
    """List this user's stores: whose pages, how many, and whether a process uses them."""
    from prefillshare.cli.output import put_json, put_table, say
    from prefillshare.store.inspect import find_stores

    stores = find_stores(memory, disk)
    if as_json:
        put_json([_as_json(store) for store in stores])
    elif not stores:
        say(f"no store is in {memory}{'' if disk is None else f' or {disk}'}")
    else:
        header = ("store", "tier", "prefill module", "rank", "codec", "pages", "MB", "state", "file")
        put_table(header, [_as_row(store) for store in stores])


@app.command("verify")
def verify(disk: _Disk = None, memory: _Memory = _SHARED_MEMORY, as_json: _Json = False) -> None:
    """Read every page and compare it with its checksum; a damaged one is never served, and costs its room."""
    from prefillshare.cli.output import put, put_json
    from prefillshare.errors import StoreError
    from prefillshare.store.inspect import find_stores, verify_store

    stores, found = find_stores(memory, disk), []
    for store in stores:
        if store.trouble is None:
            with contextlib.suppress(FileNotFoundError):  # its deployment has ended meanwhile
                found.append((store, verify_store(store)))
    unreadable = [store for store in stores if store.trouble is not None]
    if as_json:
        put_json(
            [
                {"file": str(store.path), "whole_pages": verified.num_whole, "damaged_keys": verified.damaged_keys}
                for store, verified in found
            ]
            + [{"file": str(store.path), "trouble": store.trouble} for store in unreadable]
        )
    else:
        for store, verified in found:
            put(f"{store.path}: {verified.num_whole} pages whole, {len(verified.damaged_keys)} damaged")
        for store in unreadable:
            put(f"{store.path}: {store.trouble}")
    if unreadable:
        names = ", ".join(dict.fromkeys(store.name for store in unreadable))
        raise StoreError(
            f"{len(unreadable)} files cannot be read (of {names}): remove them with prefillshare store clear"
        )
    if num_damaged := sum(len(verified.damaged_keys) for _, verified in found):
        raise StoreError(
            f"{num_damaged} pages are damaged: an engine drops each when it reads it, and computes it again; where "
            "there are many, look at the disk, and run: prefillshare store clear"
        )


@app.command("clear")
def clear(
    name: Annotated[str | None, typer.Argument(help="The deployment's store in memory; without a name all.")] = None,
    disk: _Disk = None,
    memory: _Memory = _SHARED_MEMORY,
    force: Annotated[bool, typer.Option("--force", help="Also what a process uses.")] = False,
) -> None:
    """Remove stores; what a process uses is refused without --force."""
    from prefillshare.cli.output import put, say
    from prefillshare.errors import StoreError
    from prefillshare.store.inspect import clear_store, find_stores

    stores = find_stores(memory, disk)
    chosen = [store for store in stores if name is None or store.medium == "disk" or store.name == name]
    if name is not None and not any(store.name == name for store in stores):
        names = ", ".join(sorted({store.name for store in stores if store.medium == "memory"})) or "none"
        raise StoreError(f'no store is named "{name}" (there: {names}): name one of these, or none for all')
    for store in chosen:
        clear_store(store, force=force)
        put(str(store.path))
    say(f"removed {len(chosen)} files with pages")


def _as_json(store: "FoundStore") -> dict[str, object]:
    from dataclasses import asdict

    from prefillshare.store.codec import codec_name

    header = store.header
    return {
        "store": store.name,
        "tier": store.medium,
        "file": str(store.path),
        "is_used": store.is_used,
        "trouble": store.trouble,
        "pages": store.num_pages,
        "encoded_pages": store.num_encoded,
        "bytes": store.num_bytes,
        "codec": None if header is None or store.trouble is not None else codec_name(header.codec),
        "capacity_bytes": None if header is None else header.num_slots * header.slot_bytes,
        "identity": None if header is None else asdict(header.identity),
    }


def _as_row(store: "FoundStore") -> tuple[str, ...]:
    from prefillshare.store.codec import codec_name

    state = store.trouble or ("in use" if store.is_used else "not used")
    if store.header is None or store.trouble is not None:
        whose = ("?", "?", "?")
    else:
        identity = store.header.identity
        rank = f"{identity.tp_rank} of {identity.tp_size}"
        # A store that decides page by page keeps some in each way.
        is_mixed = codec_name(store.header.codec) == "none" and store.num_encoded > 0
        codec = f"splitzip for {store.num_encoded}" if is_mixed else codec_name(store.header.codec)
        whose = (identity.prefill_fingerprint[:16], rank, codec)
    megabytes = f"{store.num_bytes / 1e6:.1f}"
    return (store.name, store.medium, *whose, str(store.num_pages), megabytes, state, str(store.path))
