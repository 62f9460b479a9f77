"""A deployment that exists on paper only: its state evolves in steps of one second, the same way each time.

The benchmark plays it, the tests of the dashboard draw it.
"""

import math
import random
from dataclasses import dataclass, field
from typing import Any

from prefillshare.observe.document import AdmissionState, EagerState, PushState

Json = dict[str, Any]

START = 1_760_000_000.0
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MODULES = ("math", "tool", "code", "plan", "search", "review", "write", "judge")
MEDIANS_S = {"ttft": 0.18, "itl": 0.021, "e2e": 1.4, "queue": 0.012}
CAPACITY_TOKENS = 65536
TOKEN_BYTES = 4096


@dataclass(slots=True, kw_only=True)
class PaperDeployment:
    """Counters that grow as those of a deployment under an agent load do."""

    num_modules: int = 3
    """Decode modules."""
    num_workers: int = 1
    """Without the router; 1 is colocated."""
    num_sessions: int = 12
    """Sessions in the feed."""
    num_tenants: int = 0
    """Who calls with keys of their own; 0 is a deployment without tenants."""
    seconds: int = 0
    """Steps made so far."""
    _random: random.Random = field(default_factory=lambda: random.Random(5))
    _modules: dict[str, Json] = field(default_factory=dict)
    _workers: list[Json] = field(default_factory=list)
    _sessions: list[Json] = field(default_factory=list)
    _tenants: list[Json] = field(default_factory=list)
    _events: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in MODULES[: self.num_modules]:
            self._modules[name] = _new_module(name, "lora" if self.num_workers == 1 else "full")
        self._modules["tiny-base"] = {**_new_module("tiny-base", "base"), "is_prefill_module": True}
        self._workers = _new_workers(self.num_workers, list(MODULES[: self.num_modules]))
        self._sessions = [_new_session(number) for number in range(self.num_sessions)]
        self._tenants = [_new_tenant(number) for number in range(self.num_tenants)]

    def step(self) -> None:
        """One second goes by."""
        self.seconds += 1
        busy = 0.6 + 0.4 * math.sin(self.seconds / 23)
        warmth = 1 - math.exp(-self.seconds / 40)
        for number, module in enumerate(self._modules.values()):
            if not module["is_prefill_module"]:
                self._step_module(module, busy * (1.2 - 0.15 * number), warmth)
        for worker in self._workers:
            self._step_worker(worker, busy, warmth)
        for _ in range(max(1, self.num_sessions // 20)):
            self._step_session(self._random.choice(self._sessions))
        for number, tenant in enumerate(self._tenants):
            _step_tenant(tenant, round(busy * 4 / (number + 1)), warmth, self.seconds)
        if self.seconds % 17 == 0:
            self._happen()

    def state(self) -> Json:
        """What GET /deployment/state says now."""
        now = START + self.seconds
        sessions = sorted(self._sessions, key=lambda session: -session["last_seen"])
        tenants = {"items": self._tenants, "unknown_keys": self.seconds // 20, "problem": None}
        return {
            "schema": 1,
            "time": now,
            "started": START - 7380,
            "name": "tiny-agents",
            "topology": "colocated" if self.num_workers == 1 else "disaggregated",
            "prefill_module": "tiny-base",
            "modules": list(self._modules.values()),
            "workers": self._workers,
            "sessions": {"total": self.num_sessions, "items": sessions[:500]},
            "events": self._events[-200:],
            "repins": sum(session["repins"] for session in self._sessions),
            **({"tenants": tenants} if self._tenants else {}),
        }

    def _step_module(self, module: Json, busy: float, warmth: float) -> None:
        calls = round(busy * 5 + self._random.random())
        prompt = calls * self._random.randint(700, 1100)
        cross, own = (round(prompt * warmth * part * self._random.uniform(0.9, 1.0)) for part in (0.58, 0.24))
        module["requests"] += calls
        module["errors"] += self._random.random() < 0.01
        module["running"], module["queued"] = round(3 * busy), round(max(0.0, busy - 0.8) * 4)
        module["prompt_tokens"] += prompt
        module["cross_hit_tokens"] += cross
        module["own_hit_tokens"] += own
        module["generated_tokens"] += calls * self._random.randint(20, 60)
        for name, histogram in module["latency"].items():
            num_values = calls * 30 if name == "itl" else calls
            for _ in range(num_values if name != "itl" else min(num_values, 30)):
                self._count(histogram, MEDIANS_S[name] * (1.6 - 0.6 * warmth) * busy)

    def _count(self, histogram: Json, median_s: float) -> None:
        value = median_s * math.exp(self._random.gauss(0.0, 0.6))
        place = next((index for index, bound in enumerate(BOUNDS) if value <= bound), len(BOUNDS))
        histogram["counts"][place] += 1
        histogram["sum"] += value
        histogram["count"] += 1

    def _step_worker(self, worker: Json, busy: float, warmth: float) -> None:
        worker["running"] = round(3 * busy)
        if (kv := worker["kv"]) is None:
            return
        worker["prompt_tokens"] += round(3000 * busy)
        worker["cached_tokens"] += round(2500 * busy * warmth)
        worker["generated_tokens"] += round(160 * busy) if worker["role"] != "prefill" else 0
        shared = min(0.7, 0.7 * warmth + self._random.uniform(-0.02, 0.02)) * CAPACITY_TOKENS
        kv["shared_tokens"], kv["private_tokens"] = max(0, round(shared)), round(6000 * busy)
        kv["free_tokens"] = CAPACITY_TOKENS - kv["shared_tokens"] - kv["private_tokens"]
        kv["evictable_tokens"] = round(kv["shared_tokens"] * 0.8)
        if (store := worker["store"]) is not None:
            store["store_hit_tokens"] += round(300 * busy)
            store["host_hit_tokens"] += round(90 * busy)
            store["written_pages"] += round(30 * busy)
            store["num_pages"] = store["written_pages"]
            store["used_bytes"] = store["written_pages"] * 16 * TOKEN_BYTES
            store["used_disk_bytes"] = store["used_bytes"] // 4
        if (handoff := worker["handoff"]) is not None:
            handoff["tokens"] += round(500 * busy)
            handoff["bytes"] += round(500 * busy) * TOKEN_BYTES
            handoff["seconds"] += 0.01 * busy
            handoff["calls"] += 2

    def _step_session(self, session: Json) -> None:
        names = list(MODULES[: self.num_modules])
        module = names[session["num_calls"] % len(names)]
        if module not in session["modules"]:
            session["modules"] = [*session["modules"], module]
        before, session["context_tokens"] = session["context_tokens"], session["context_tokens"] + 76
        session["num_calls"] += 1
        session["prompt_tokens"] += session["context_tokens"]
        hit = before if session["divergence"] is None else min(before, session["divergence"]["token"])
        session["cross_hit_tokens"] += round(hit * 0.7)
        session["own_hit_tokens"] += round(hit * 0.25)
        session["last_seen"] = START + self.seconds

    def _happen(self) -> None:
        number = len(self._events)
        kind, subject, message = _HAPPENINGS[number % len(_HAPPENINGS)]
        self._events.append(
            {"id": number, "time": START + self.seconds, "kind": kind, "subject": subject, "message": message}
        )


_HAPPENINGS = (
    ("worker_up", "decode-math-0", "answers"),
    ("repin", "session-003", "moved from prefill-0 to prefill-1: its worker was full"),
    ("refusal", "math", "queue full: 64 calls wait"),
    ("worker_down", "prefill-1", "did not answer 3 health checks"),
    ("restart", "prefill-1", "exit code -9; started again after 1.0 s"),
    ("flush", "engine", "prefix cache emptied by a client"),
)


def _new_module(name: str, kind: str) -> Json:
    counters = (
        "requests errors refused aborted running queued prompt_tokens own_hit_tokens cross_hit_tokens avoidable_tokens "
        "generated_tokens"
    )
    return {
        "name": name,
        "kind": kind,
        "is_prefill_module": False,
        "warning": None,
        **dict.fromkeys(counters.split(), 0),
        "retractions": 0,
        "latency": {latency: _new_histogram() for latency in MEDIANS_S},
        "shared_prefix": _new_histogram(),
    }


def _new_histogram() -> Json:
    return {"le": [*BOUNDS, None], "counts": [0] * (len(BOUNDS) + 1), "sum": 0.0, "count": 0}


def _new_workers(num_workers: int, modules: list[str]) -> list[Json]:
    if num_workers == 1:
        return [_new_worker("engine", "engine", None, 0)]
    num_prefill = max(1, num_workers // 4)
    workers = [_new_worker(f"prefill-{number}", "prefill", None, number) for number in range(num_prefill)]
    for number in range(num_workers - num_prefill):
        module = modules[number % len(modules)]
        workers.append(_new_worker(f"decode-{module}-{number // len(modules)}", "decode", module, num_prefill + number))
    return [*workers, _new_worker("router", "router", None, num_workers)]


def _new_worker(name: str, role: str, module: str | None, number: int) -> Json:
    kv = {"capacity_tokens": CAPACITY_TOKENS, "token_bytes": TOKEN_BYTES}
    kv |= {
        "shared_tokens": 0,
        "private_tokens": 0,
        "free_tokens": CAPACITY_TOKENS,
        "evictable_tokens": 0,
        "pinned_tokens": 0,
    }
    counters = "restarts running queued prompt_tokens cached_tokens generated_tokens retractions"
    return {
        "id": name,
        "role": role,
        "module": module,
        "url": f"http://127.0.0.1:{31000 + number}",
        "pid": 4000 + number,
        "state": "up",
        **dict.fromkeys(counters.split(), 0),
        "kv": None if role == "router" else kv,
        "handoff": _no_handoffs(role == "prefill") if role in ("prefill", "decode") else None,
        "eager": dict.fromkeys(EagerState.__annotations__, 0) if role == "prefill" else None,
        "push": dict.fromkeys(PushState.__annotations__, 0) if role == "decode" else None,
        "store": _new_store() if role in ("engine", "prefill") else None,
        "admission": dict.fromkeys(AdmissionState.__annotations__, 0) if role in ("engine", "prefill") else None,
    }


def _new_store() -> Json:
    counters = (
        "host_hit_tokens store_hit_tokens fetched_pages declined_loads written_pages evicted_pages refused_pages "
        "damaged_pages failures host_used_tokens used_bytes used_disk_bytes num_pages codec_break_even_bytes_per_s "
        "medium_bytes_per_s"
    )
    known = {"host_capacity_tokens": 2 * CAPACITY_TOKENS, "capacity_bytes": 8 << 30, "codec": "none"}
    return {"is_attached": True, "why_off": None, **known, **dict.fromkeys(counters.split(), 0)}


def _no_handoffs(is_prefill: bool) -> Json:
    known: Json = {"memory_bytes": 0, "memory_calls": 0} if is_prefill else {"memory_bytes": None, "memory_calls": None}
    return {"tokens": 0, "bytes": 0, "seconds": 0.0, "calls": 0, **known}


def _new_session(number: int) -> Json:
    parts_early = number % 5 == 3
    divergence = {"token": 34, "fraction": 0.04, "modules": ["math", "tool"]}
    counters = "num_calls running context_tokens prompt_tokens own_hit_tokens cross_hit_tokens repins"
    return {
        "id": f"session-{number:03}",
        "is_explicit": number % 2 == 0,
        "modules": [],
        "first_seen": START,
        "last_seen": START,
        **dict.fromkeys(counters.split(), 0),
        "context_tokens": 100 + 7 * (number % 50),
        "divergence": divergence if parts_early else None,
    }


def _new_tenant(number: int) -> Json:
    counters = dict.fromkeys("calls prompt_tokens cached_tokens generated_tokens running".split(), 0)
    name = ("acme", "northwind", "globex", "a-tenant-with-a-rather-long-name")[number % 4]
    return {
        "name": name if number < 4 else f"{name}-{number // 4}",
        "is_shared": number == 2,
        **counters,
        "kv_tokens": None if number == 2 else 0,
        "refused": dict.fromkeys(("rate", "tokens", "concurrent", "module", "door"), 0),
    }


def _step_tenant(tenant: Json, calls: int, warmth: float, seconds: int) -> None:
    tenant["calls"] += calls
    tenant["running"] = calls
    tenant["prompt_tokens"] += calls * 900
    tenant["cached_tokens"] += round(calls * 900 * warmth * 0.8)
    tenant["generated_tokens"] += calls * 40
    if tenant["kv_tokens"] is not None:
        tenant["kv_tokens"] = round(9000 * warmth) * max(calls, 1)
    if seconds % 9 == 0 and tenant["name"] == "acme":
        tenant["refused"]["rate"] += 3
        tenant["refused"]["tokens"] += seconds % 2
