"""``HEAD /health``, as load balancers ask: the status of ``GET``, without a body.

Target: none; ``http_routes`` adds the route when the server state is set.
Why: SGLang's route takes ``GET`` only, and answers 405.
Remove when: upstream's route takes ``HEAD``.
"""

from __future__ import annotations

from typing import Any

ROUTE = "/health"


def add_route(app: Any) -> None:
    """Let the route's own handler answer HEAD, too; its server leaves the body out."""
    found = next(route for route in app.router.routes if getattr(route, "path", None) == ROUTE)
    app.head(ROUTE)(found.endpoint)
