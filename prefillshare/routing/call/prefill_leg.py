"""The prefill leg on its way: what the router learns from it, whoever waits for it."""

import asyncio
from collections.abc import Mapping

from prefillshare.observe.observer import Observed
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.legs import Leg
from prefillshare.routing.call.prefill_report import read_report
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.choice import Chooser, Pair
from prefillshare.routing.errors import ShortageError
from prefillshare.routing.workers.client import Answer, LegFailedError, WorkerClient
from prefillshare.routing.workers.health import Health


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
        observed: Observed,
    ) -> None:
        self.leg = leg
        self._call = call
        self._pair = pair
        self._client = client
        self._chooser = chooser
        self._admission = admission
        self._health = health
        self._observed = observed

    async def run(self, headers: Mapping[str, str]) -> Answer:
        """Send the leg and return the worker's answer.

        Raises: LegFailedError, of which the health checks have heard; ShortageError.
        """
        worker, expected = self._pair.prefill, self._pair.expected_tokens
        started = worker.speed.started(expected)
        computed = None
        try:
            answer = await self._client.send(self.leg, headers, is_stream=False)
            self._health.succeeded(worker)
            if answer.status == 200:
                report = read_report(answer.content)
                computed = report.computed_tokens
                if computed is None:  # the index's estimate is the best guess
                    computed = round(expected)
                self._chooser.learn(self._call, self._pair, report.prompt_tokens or None)
                self._observed.prefilled(
                    tokens=report.prompt_tokens, own=report.own_hit_tokens, cross=report.cross_hit_tokens
                )
            return answer
        except LegFailedError as error:
            self._health.failed(error)
            raise
        except (asyncio.CancelledError, ShortageError):
            worker.breaker.undecided()
            raise
        finally:
            worker.speed.finished(expected, computed, started)
            self._admission.release(worker)
