"""Settings that are secrets are in no log, and told to nobody.

SGLang writes all settings of an engine into its log, and tells them to whoever asks ``/server_info`` with the API key,
the admin key among them: a client could change the deployment. ``patches/server_args``, ``engine/tokenizer_manager``
and ``engine/scheduler`` ask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

SECRETS = ("api_key", "admin_api_key", "ssl_keyfile_password")
"""Fields of SGLang's settings."""
HIDDEN = "***"
_LOGGERS = ("sglang.srt.entrypoints.engine", "sglang.srt.entrypoints.http_server")
"""Which write settings."""


def hide_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with stars in the place of secrets."""
    return {name: HIDDEN if name in SECRETS and value is not None else value for name, value in settings.items()}


def keep_out_of_logs(args: ServerArgs) -> None:
    """Let SGLang write its settings without the secrets."""
    hidden = _Hidden(value for name in SECRETS if (value := getattr(args, name)))
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(hidden)


class _Hidden(logging.Filter):
    """Writes stars for texts that are in a message as Python writes them."""

    def __init__(self, texts: Iterable[str]) -> None:
        super().__init__()
        self._texts = [repr(text) for text in texts]

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the message, and let it pass."""
        message = record.getMessage()
        if any(text in message for text in self._texts):
            for text in self._texts:
                message = message.replace(text, repr(HIDDEN))
            record.msg, record.args = message, None
        return True
