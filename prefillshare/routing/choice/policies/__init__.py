"""How the prefill worker of a call is chosen: one contract, one file per policy."""

from prefillshare.config.router import Router
from prefillshare.routing.choice.policies.base import Candidate, Wanted
from prefillshare.routing.choice.policies.least_loaded import LeastLoaded
from prefillshare.routing.choice.policies.policy import PrefillPolicy
from prefillshare.routing.choice.policies.prefix_aware import PrefixAware
from prefillshare.routing.choice.policies.round_robin import RoundRobin
from prefillshare.routing.choice.policies.session import SessionPinned
from prefillshare.routing.choice.policies.whole_calls import WholeCalls
from prefillshare.routing.choice.sessions import Sessions

__all__ = ["Candidate", "PrefillPolicy", "Wanted", "WholeCalls", "make_policy"]


def make_policy(settings: Router, sessions: Sessions) -> PrefillPolicy:
    """Return the policy that `settings` names; those that pin sessions keep the pins in `sessions`."""
    match settings.policy:
        case "prefix_aware":
            return PrefixAware(sessions, margin_s=settings.repin_margin_s)
        case "session":
            return SessionPinned(sessions, margin_s=settings.repin_margin_s)
        case "round_robin":
            return RoundRobin()
        case "least_loaded":
            return LeastLoaded()
