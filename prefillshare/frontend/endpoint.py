"""The backend of programs that move between decode modules: SGLang's own, at the address of whoever has the turn."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.lang.choices import ChoicesDecision

from prefillshare import direct
from prefillshare.errors import PrefillShareError
from prefillshare.frontend import turns
from prefillshare.frontend.chat_template import derive

MODULE_KEY = "decode_module"
"""Key of `meta_info` under which an answer says whose it is."""
_NO_TEMPLATE = "default"
_ASK_TIMEOUT_S = 30.0


class UnknownModuleError(PrefillShareError):
    """A program names a module that the deployment does not have, or none."""


class Endpoint(RuntimeEndpoint):
    """A PrefillShare deployment, of either topology, as a backend of SGLang programs.

    `module` answers what names no module itself. Chats are written in the model's own template, unless
    `chat_template_name` names one of SGLang's.
    Effects: where the environment names a proxy, the deployment's host joins the process's no_proxy.
    """

    def __init__(
        self,
        base_url: str,
        *,
        module: str | None = None,
        api_key: str | None = None,
        verify: str | None = None,
        chat_template_name: str | None = None,
    ) -> None:
        """Raises: PrefillShareError when nothing of the kind is at `base_url`; UnknownModuleError."""
        base_url = base_url.rstrip("/")
        told = _ask(base_url, api_key, verify)
        direct.except_from_proxies(base_url)  # SGLang's client would look for one
        super().__init__(base_url, api_key, verify, chat_template_name or _NO_TEMPLATE)
        self.prefill_module: str = told["prefill"]
        self.modules: tuple[str, ...] = tuple(told["decode"])
        self.support_concate_and_append = False  # no SGLang server can append one request's KV to another's
        if chat_template_name is None:
            self.chat_template = derive(told["chat_template"])
        self.module = module
        self._addresses: dict[str, RuntimeEndpoint] = {}
        if module is not None:
            self.check(module)

    def check(self, module: str) -> None:
        """Raises: UnknownModuleError when the deployment has no such module."""
        if module not in (*self.modules, self.prefill_module):
            raise UnknownModuleError(f"module {module!r} does not exist; {self._known()}")

    def generate(self, s: Any, sampling_params: Any) -> tuple[str, dict[str, Any]]:
        """Let the module whose turn it is generate."""
        with _turn_ends_on_error():
            module = self._whose_turn()
            text, meta_info = self._address(module).generate(s, sampling_params)
        return text, {**meta_info, MODULE_KEY: module}

    def generate_stream(self, s: Any, sampling_params: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """The same, piece by piece."""
        with _turn_ends_on_error():
            module = self._whose_turn()
            for text, meta_info in self._address(module).generate_stream(s, sampling_params):
                yield text, {**meta_info, MODULE_KEY: module}

    def select(self, *args: Any, **options: Any) -> ChoicesDecision:
        """Choose by log-probabilities of the prompt, which are the prefill module's whoever has the turn."""
        with _turn_ends_on_error():
            decision = super().select(*args, **options)
        decision.meta_info = {**(decision.meta_info or {}), "scored_by": self.prefill_module}
        return decision

    def _whose_turn(self) -> str:
        module = turns.current() or self.module
        if module is None:
            raise UnknownModuleError(
                "this call names no module: give the endpoint one (module=...), use `with s.module(...)`, or "
                f"frontend.gen(..., module=...); {self._known()}"
            )
        self.check(module)
        return module

    def _address(self, module: str) -> RuntimeEndpoint:
        if module not in self._addresses:
            address = f"{self.base_url}/modules/{module}"
            self._addresses[module] = RuntimeEndpoint(address, self.api_key, self.verify, _NO_TEMPLATE)
        return self._addresses[module]

    def _known(self) -> str:
        return f"this deployment has: {', '.join(self.modules)}"


@contextmanager
def _turn_ends_on_error() -> Iterator[None]:
    try:
        yield
    except BaseException:
        turns.forget()
        raise


def _ask(base_url: str, api_key: str | None, verify: str | None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key is not None else {}
    trusted = ssl.create_default_context(cafile=verify) if verify else True
    try:
        reply = direct.get(f"{base_url}/modules", headers=headers, verify=trusted, timeout=_ASK_TIMEOUT_S)
    except httpx.TransportError as error:
        raise PrefillShareError(
            f"nothing answers at {base_url} ({error}): start it with `{direct.launch_line(base_url)}`"
        ) from None
    if reply.status_code == 401:
        raise PrefillShareError(f"{base_url} needs an API key: give api_key")
    if reply.status_code != 200:
        raise PrefillShareError(
            f"{base_url} has no /modules (status {reply.status_code}): give the address of a PrefillShare deployment"
        )
    try:
        told: dict[str, Any] = reply.json()
        return {name: told[name] for name in ("prefill", "decode", "chat_template")}
    except (ValueError, LookupError, TypeError):
        raise PrefillShareError(
            f"{base_url} answers /modules with what is no list of modules ({reply.text[:100]!r}): give the address of "
            "a PrefillShare deployment"
        ) from None
