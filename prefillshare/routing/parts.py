"""The parts of one router: made here, in the order in which they stand on each other, and handed on as one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from prefillshare.modules.heads import read_again, tell_left_out
from prefillshare.naming.alias import AnyAlias
from prefillshare.naming.changes import Changes, apply_changes
from prefillshare.naming.names import Names
from prefillshare.observe.observer import Observer
from prefillshare.peer_keys import PeerKeys
from prefillshare.routing.changes.book import AliasBook
from prefillshare.routing.changes.kept import read_kept_changes
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.chooser import Chooser
from prefillshare.routing.choice.policies import make_policy
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.choice.start_hold import StartHold
from prefillshare.routing.descriptors import Descriptors
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.tracing import Tracing
from prefillshare.routing.workers.client import WorkerClient
from prefillshare.routing.workers.health import Health
from prefillshare.routing.workers.kv_events import KvEvents
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.reports import WorkerReports
from prefillshare.routing.workers.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What answers calls, and what tells of them, is made of."""

    settings: RouterSettings
    """What the router was told."""
    descriptors: Descriptors
    """The account of file descriptors."""
    observer: Observer
    """What is counted of calls."""
    tracing: Tracing
    """The calls' spans."""
    pool: WorkerPool
    """The workers."""
    client: WorkerClient
    """HTTP towards them."""
    health: Health
    """Whether they are up."""
    reports: WorkerReports
    """What they tell of themselves."""
    kv_events: KvEvents
    """What they evict."""
    sessions: Sessions
    """Whose prefill worker is whose."""
    chooser: Chooser
    """Which workers take a call."""
    admission: Admission
    """When they take it."""
    book: AliasBook
    """Other names of decode modules, and what has changed about them."""

    @property
    def aliases(self) -> Mapping[str, AnyAlias]:
        """Other names of decode modules as they are now."""
        return self.book.aliases

    def names(self) -> Names:
        """Return all names that the deployment answers to now."""
        return Names(base=self.settings.base_model, modules=self.pool.modules(), aliases=self.aliases)


def make_parts(settings: RouterSettings) -> Parts:
    """Return the parts of a router without workers; to be called inside the event loop that runs it."""
    router, observer, pool = settings.router, Observer(), WorkerPool(settings.modules)
    descriptors = Descriptors(settings.max_open_files, len(settings.workers))
    client = WorkerClient(router, settings.worker_api_key, descriptors)
    sessions = Sessions(router.max_sessions, on_moved=_tell_moves(observer))
    chooser = Chooser(router, pool, make_policy(router, sessions), on_moved=_tell_moves(observer))
    hold = StartHold(pool, may_join=settings.admin_key is not None)
    admission = Admission(router, pool, chooser, hold)
    kept = read_kept_changes(settings.aliases_file)
    aliases = _read_aliases(settings, kept, observer)
    changed = _follow_states(observer, chooser, admission)
    return Parts(
        settings=settings,
        descriptors=descriptors,
        observer=observer,
        tracing=Tracing(settings.otlp_endpoint),
        pool=pool,
        client=client,
        health=Health(router, client, settings.base_model, on_changed=changed),
        reports=WorkerReports(client, observer),
        kv_events=KvEvents(on_evicted=chooser.drop_evicted, keys=_peer_keys(settings)),
        sessions=sessions,
        chooser=chooser,
        admission=admission,
        book=AliasBook(aliases, settings.own_address, settings.aliases_file, kept),
    )


def _read_aliases(settings: RouterSettings, kept: Changes, observer: Observer) -> dict[str, AnyAlias]:
    """Return the aliases as they were left, or as the file has them, without those that cannot be any more."""
    aliases = apply_changes(settings.aliases, kept)
    return read_again(aliases, settings.fingerprint, settings.modules, partial(tell_left_out, observer.events))


def _peer_keys(settings: RouterSettings) -> PeerKeys | None:
    return PeerKeys.of_admin_key(settings.admin_key) if settings.admin_key else None


def _tell_moves(observer: Observer) -> Callable[[str, str, str], None]:
    def tell(session: str, before: str, now: str) -> None:
        observer.sessions.count_move(session)
        observer.events.tell("repin", session, f"moved from {before} to {now}")

    return tell


def _follow_states(observer: Observer, chooser: Chooser, admission: Admission) -> Callable[[Worker], None]:
    def follow(worker: Worker) -> None:
        if worker.state == "up":
            observer.events.tell("worker_up", worker.id, f"the {worker.spec.kind} serves")
        else:
            observer.events.tell("worker_down", worker.id, worker.reason)
            # Whatever it held is gone if it died; if it was only slow, it is learned again.
            chooser.index.forget(worker.id)
        # Who waited for it starts if it is up, and hears that it is down otherwise.
        admission.start_waiting()

    return follow
