"""How a request to a server fails."""


class CannotConnectError(ConnectionError):
    """No connection to the server could be made."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror or str(cause) or type(cause).__name__)
        self.os_error = cause
        """What the system said."""


class ConnectTimeoutError(TimeoutError):
    """The server did not take a connection in time."""


class BrokenOffError(ConnectionError):
    """The connection ended, or what came over it is not HTTP, before the answer was over."""
