"""What of the engine's HTTP server is ours is put in place before any connection is taken.

Target: ``sglang.srt.entrypoints.http_server.set_global_state``
Why: the list of models names the decode modules, but asking for one of them by name says that it does not exist; and
    SGLang's /metrics knows nothing of decode modules.
How: when the server state is set, the routes are put in place (``http/model_cards``, ``http/module_addresses``,
    ``http/monitoring``, ``http/health``), responses are remembered by ``http/responses``, and FastAPI's own spans
    switched off (``observed/traces``); ``http/keys`` makes one key of those that come, ``http/tenants`` lets in who may
    call, ``http/errors`` goes around all of them, and ``http/connections`` ends idle connections.
Remove when: upstream's route knows adapters, and a plugin can add routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sglang_patches.declarations import wraps_upstream
from sglang_patches.http import (
    connections,
    continuations,
    errors,
    health,
    keys,
    model_cards,
    module_addresses,
    module_changes,
    monitoring,
    tenants,
)
from sglang_patches.http.bodies import CheckBodies
from sglang_patches.http.responses import RememberResponses, read_limits
from sglang_patches.observed import traces

if TYPE_CHECKING:
    from sglang.srt.entrypoints.http_server import _GlobalState

SetState = Callable[["_GlobalState"], None]


@wraps_upstream(
    "entrypoints.http_server:set_global_state",
    "1484c09ce798173a",
    "/v1/models/NAME would deny decode modules, /metrics would not know them, errors would have five forms",
)
def wrap_set_global_state(original: SetState) -> SetState:
    def set_global_state(global_state: _GlobalState) -> None:
        from sglang.srt.entrypoints.http_server import app

        original(global_state)
        manager = global_state.tokenizer_manager
        keys.wrap_application(app)
        if (roster := tenants.read_roster()) is not None:
            manager.roster = roster
            tenants.wrap_application(app, roster, manager.server_args)
        errors.wrap_application(app)
        connections.watch_connections()
        model_cards.replace_route(app)
        module_addresses.add_routes(app)
        module_changes.add_routes(app)
        monitoring.add_routes(app)
        health.add_route(app)
        answers = manager.ended_answers
        continuations.add_routes(app, None if answers is None else answers.kept)
        traces.switch_framework_off(app)
        if (limits := read_limits()) is not None:
            app.add_middleware(RememberResponses, limits=limits, abort=manager.abort_request)
        app.add_middleware(CheckBodies)
        manager.get_ready(global_state.scheduler_info["max_total_num_tokens"])

    return set_global_state
