"""Why a call of `/v1/responses` cannot be answered."""

from prefillshare.errors import PrefillShareError


class ResponsesError(PrefillShareError):
    """A call is refused with `status`; `param` names the member that is at fault."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
