"""Why a tenant's call is not answered."""

import math

from prefillshare.errors import PrefillShareError
from prefillshare.observe.tenants import RefusalReason


class TenantError(PrefillShareError):
    """A call is refused; `kind` and `code` are those of OpenAI's error object."""

    status = 403
    kind = "permission_error"
    code: str | None = None

    def __init__(
        self, message: str, *, reason: RefusalReason, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.param = param
        self.retry_after_s = None if retry_after_s is None else max(math.ceil(retry_after_s), 1)
        """Whole seconds after which the call may be repeated."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


class OverLimitError(TenantError):
    """More than the tenant may: the same call can be answered later."""

    status = 429
    kind = "requests"
    code = "rate_limit_exceeded"


class OverTokensError(OverLimitError):
    """More tokens than the tenant may."""

    kind = "tokens"


class ForbiddenModuleError(TenantError):
    """A module that is not the tenant's, whether or not it exists."""

    kind = "invalid_request_error"
    code = "model_not_found"
