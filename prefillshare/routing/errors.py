"""Why the router cannot answer a call: a status and one sentence, in OpenAI's error shape."""

from collections.abc import Mapping

from prefillshare.errors import PrefillShareError
from prefillshare.responses.errors import ResponsesError
from prefillshare.tenants.errors import TenantError
from prefillshare.wire.errors import error_object
from prefillshare.wire.text import make_printable


class RoutingError(PrefillShareError):
    """A call that ends with an error answer; subclasses fix the status."""

    status = 500
    kind = "internal_server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.headers = dict(headers or {})


class BadCallError(RoutingError):
    """The body cannot be used."""

    status = 400
    kind = "invalid_request_error"


class UnauthorizedError(RoutingError):
    """The key is missing or wrong."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"


class ForbiddenError(RoutingError):
    """This router allows nobody to do that."""

    status = 403
    kind = "permission_error"


class ResponsesRefusedError(RoutingError):
    """What is asked of `/v1/responses` cannot be had; it has the status of the reason."""

    kind = "invalid_request_error"

    def __init__(self, error: ResponsesError) -> None:
        super().__init__(str(error), param=error.param)
        self.status = error.status
        if error.status == 404:
            self.code = "not_found"


class TenantRefusedError(RoutingError):
    """A tenant may not do that, or not now; it has the status of the reason."""

    def __init__(self, error: TenantError) -> None:
        super().__init__(str(error), param=error.param, headers=error.headers)
        self.status = error.status
        self.kind = error.kind
        self.code = error.code


class NotFoundError(RoutingError):
    """There is no such path or worker."""

    status = 404
    kind = "invalid_request_error"
    code = "not_found"


class GoneError(RoutingError):
    """A worker that was told to leave says that it is there."""

    status = 410
    kind = "invalid_request_error"
    code = "gone"


class UnknownModelError(NotFoundError):
    """There is no such decode module."""

    code = "model_not_found"


class BodyTimeoutError(RoutingError):
    """The body did not arrive in time."""

    status = 408
    kind = "invalid_request_error"


class ConflictError(RoutingError):
    """A worker of that id is already there."""

    status = 409
    kind = "invalid_request_error"


class TooLargeError(RoutingError):
    """The body is over the limit."""

    status = 413
    kind = "invalid_request_error"


class MediaTypeError(RoutingError):
    """The body is declared as something else than JSON."""

    status = 415
    kind = "invalid_request_error"


class QueueFullError(RoutingError):
    """Too many calls wait for this module."""

    status = 429
    kind = "rate_limit_error"
    code = "queue_full"


class WorkerFailedError(RoutingError):
    """A worker failed and no retry helped."""

    status = 502
    kind = "worker_error"
    code = "worker_failed"


class UnavailableError(RoutingError):
    """No worker that could answer is up."""

    status = 503
    kind = "service_unavailable"
    code = "no_worker"


class ShortageError(RoutingError):
    """The router itself, not a worker, has no room for this."""

    status = 503
    kind = "service_unavailable"
    code = "router_full"


class CallTimeoutError(RoutingError):
    """The workers took too long."""

    status = 504
    kind = "timeout"
    code = "timeout"


def error_body(error: RoutingError) -> dict[str, object]:
    """Return OpenAI's error object for `error`."""
    return {"error": error_object(make_printable(str(error)), kind=error.kind, param=error.param, code=error.code)}
