"""The prefill leg on its way: what the router learns from it, whoever waits for it."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from prefillshare.routing.admission import Admission
from prefillshare.routing.call import Call
from prefillshare.routing.choice import Chooser, Pair
from prefillshare.routing.client import Answer, LegFailedError, WorkerClient
from prefillshare.routing.health import Health
from prefillshare.routing.legs import Leg


class PrefillLeg:
    """One request to a prefill worker; gives the worker back when it ends."""

    def __init__(
        self,
        call: Call,
        pair: Pair,
        leg: Leg,
        *,
        client: WorkerClient,
        chooser: Chooser,
        admission: Admission,
        health: Health,
    ) -> None:
        self.leg = leg
        self._call = call
        self._pair = pair
        self._client = client
        self._chooser = chooser
        self._admission = admission
        self._health = health

    async def run(self, headers: Mapping[str, str]) -> Answer:
        """Send the leg and return the worker's answer.

        Raises: LegFailedError, of which the health checks have heard.
        """
        worker, expected = self._pair.prefill, self._pair.expected_tokens
        started = worker.speed.started(expected)
        computed = None
        try:
            answer = await self._client.send(self.leg, headers, is_stream=False)
            self._health.succeeded(worker)
            if answer.status == 200:
                prompt_tokens, computed = _tokens(answer.content, expected)
                self._chooser.learn(self._call, self._pair, prompt_tokens)
            return answer
        except LegFailedError as error:
            self._health.failed(error)
            raise
        except asyncio.CancelledError:
            worker.breaker.undecided()
            raise
        finally:
            worker.speed.finished(expected, computed, started)
            self._admission.release(worker)


def _tokens(content: bytes, expected: float) -> tuple[int | None, int | None]:
    """Return prompt tokens and computed tokens by the prefill worker's report.

    A report without cached tokens leaves the index's estimate as the best guess.
    """
    try:
        report: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None, None
    reports = report if isinstance(report, list) else [report]
    usages = [_usage(item) for item in reports]
    prompt_tokens = sum(prompt for prompt, _ in usages) or None
    if prompt_tokens is None or any(cached is None for _, cached in usages):
        return prompt_tokens, round(expected)
    return prompt_tokens, prompt_tokens - sum(cached or 0 for _, cached in usages)


def _usage(report: Any) -> tuple[int, int | None]:
    if not isinstance(report, Mapping):
        return 0, None
    usage = report.get("usage") or report.get("meta_info") or {}
    details = usage.get("prompt_tokens_details") or {}
    return usage.get("prompt_tokens") or 0, details.get("cached_tokens", usage.get("cached_tokens"))
