"""Asks a deployment for changes of its modules, for the command line."""

from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from prefillshare.direct import direct_client
from prefillshare.errors import ServerError
from prefillshare.serving.options import auth_header
from prefillshare.serving.run.record import read_admin_key
from prefillshare.serving.silence import nobody_answers

_CONNECT_TIMEOUT_S = 5.0


class ChangeClient:
    """Changes one deployment; use it as a context manager.

    Raises: ServerError from every method when the server cannot be reached or refuses.
    """

    def __init__(self, url: str, *, admin_key: str | None, api_key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        key = admin_key or read_admin_key(self.url) or api_key
        # Loading large weights takes as long as it takes.
        timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        self._http = direct_client(base_url=self.url, headers=auth_header(key), timeout=timeout)
        self._reading = auth_header(api_key or key)

    def __enter__(self) -> "ChangeClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def aliases(self) -> dict[str, Any]:
        """Return the aliases with their meanings."""
        found = self._ask("GET", "/aliases", None, self._reading).get("aliases")
        if not isinstance(found, dict):
            raise ServerError(f"{self.url} tells no aliases: correct --url")
        return found

    def change(self, method: str, kind: str, name: str, body: object = None) -> dict[str, Any]:
        """Ask for a change of the module or alias `name` and return what the deployment says when it is made."""
        return self._ask(method, f"/{kind}/{quote(name)}", body, None)

    def _ask(self, method: str, path: str, body: object, headers: dict[str, str] | None) -> dict[str, Any]:
        try:
            reply = self._http.request(method, path, json=body, headers=headers)
        except httpx.ConnectError:
            raise nobody_answers(self.url) from None
        except httpx.TransportError as error:
            raise ServerError(f"the server at {self.url} does not answer ({error}): look at its log") from None
        if reply.status_code == 401:
            raise ServerError(f"{self.url} wants its admin key: give it with --admin-key or PREFILLSHARE_ADMIN_KEY")
        try:
            told = reply.json()
        except ValueError:
            told = None
        if not reply.is_success or not isinstance(told, dict):
            raise ServerError(_find_reason(told) or f"{self.url} answered {reply.status_code}: correct --url")
        return told


def _find_reason(told: Any) -> str | None:
    error = told.get("error") if isinstance(told, dict) else None
    return str(error["message"]) if isinstance(error, dict) and error.get("message") else None
