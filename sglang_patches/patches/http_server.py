"""What of the engine's HTTP server is ours: models' cards, what the deployment tells of itself, the form of errors.

Target: ``sglang.srt.entrypoints.http_server.set_global_state``
Why: the list of models names the decode modules, but asking for one of them by name says that it does not exist; and
    SGLang's /metrics knows nothing of decode modules.
How: when the server state is set, before any connection is taken, the routes are put in place (``http/model_cards``,
    ``http/module_addresses``, ``http/monitoring``), and FastAPI's own spans switched off (``observed/traces``);
    ``http/errors`` goes around all of them, and ``http/connections`` ends idle connections.
Upstream: sglang/srt/entrypoints/http_server.py:207,1855 at 0.5.17.
Remove when: upstream's route knows adapters, and a plugin can add routes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.answers import trials as grammar_checks
from sglang_patches.http import bodies as request_bodies
from sglang_patches.http import connections as http_connections
from sglang_patches.http import errors as error_shape
from sglang_patches.http import model_cards, module_addresses, monitoring
from sglang_patches.observed import requests as observed_requests
from sglang_patches.observed import traces


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
