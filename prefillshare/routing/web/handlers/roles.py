"""`/router/roles`: how the load stands and which worker is to move; supervisors say what becomes of a move."""

from dataclasses import asdict

import orjson
from aiohttp import web

from prefillshare.errors import ConfigError
from prefillshare.roles.report import read_report
from prefillshare.routing.errors import BadCallError, NotFoundError
from prefillshare.routing.roles.conductor import Conductor
from prefillshare.routing.web.bodies import read_body
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import json_reply


async def show(request: web.Request) -> web.Response:
    """Every pool with its limits and its load, and the move on its way."""
    conductor = _find_conductor(request)
    return json_reply(
        {
            "dry_run": conductor.roles.dry_run,
            "is_deciding": conductor.is_deciding(),
            "pools": conductor.figures(),
            "order": conductor.order.as_dict() if conductor.order is not None else None,
            "moves": asdict(conductor.counts),
        }
    )


async def hear(request: web.Request) -> web.Response:
    """Hear what became of a move."""
    conductor = _find_conductor(request)
    try:
        report = read_report(orjson.loads(await read_body(request, request.app[GATEWAY].parts.settings.router)))
    except orjson.JSONDecodeError as error:
        raise BadCallError(f"the body is not JSON ({error}): send the report of a move as a JSON object") from None
    except ConfigError as error:
        raise BadCallError(str(error)) from None
    await conductor.hear(report)
    return json_reply({"moves": asdict(conductor.counts)})


def _find_conductor(request: web.Request) -> Conductor:
    conductor = request.app[GATEWAY].conductor
    if conductor is None:
        raise NotFoundError("roles do not follow the load here: write follow_load = true under [roles]")
    return conductor
