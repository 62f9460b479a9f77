"""When a worker should do something else, decided from what is measured. Pure: no clock, no I/O, no router.

`facts` says what is looked at, `pool` what a window of it comes to for one kind of worker, `policy` decides.
"""

from prefillshare.roles.facts import Kind, Look, PoolLook, WorkerLook
from prefillshare.roles.policy import Move, Policy

__all__ = ["Kind", "Look", "Move", "Policy", "PoolLook", "WorkerLook"]
