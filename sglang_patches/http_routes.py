"""What of the engine's HTTP server is ours: models' cards, what the deployment tells of itself, the form of errors.

Target: ``sglang.srt.entrypoints.http_server.set_global_state``
Why: the list of models names the decode modules, but asking for one of them by name says that it does not exist; and
    SGLang's /metrics knows nothing of decode modules.
How: when the server state is set, before any connection is taken, the routes are put in place
    (:mod:`sglang_patches.model_cards`, :mod:`sglang_patches.module_addresses`, :mod:`sglang_patches.monitoring`), and
    FastAPI's own spans switched off (:mod:`sglang_patches.traces`); :mod:`sglang_patches.error_shape` goes around all
    of them, and :mod:`sglang_patches.http_connections` ends idle connections.
Upstream: sglang/srt/entrypoints/http_server.py:207,1855 at 0.5.17.
Remove when: upstream's route knows adapters, and a plugin can add routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches import (
    error_shape,
    grammar_checks,
    http_connections,
    model_cards,
    module_addresses,
    monitoring,
    observed_requests,
    request_bodies,
    traces,
)


def wrap_set_global_state(original: Callable[..., None]) -> Callable[..., None]:
    def set_global_state(global_state: Any) -> None:
        from sglang.srt.entrypoints.http_server import app

        original(global_state)
        error_shape.wrap_application(app)
        http_connections.watch_connections()
        model_cards.replace_route(app)
        module_addresses.add_routes(app)
        monitoring.add_routes(app)
        traces.switch_framework_off(app)
        app.add_middleware(request_bodies.CheckBodies)
        observed_requests.observer_of(global_state.tokenizer_manager)  # counting begins now
        grammar_checks.start(global_state.tokenizer_manager)

    return set_global_state
