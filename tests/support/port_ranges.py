"""Ranges of ports for tests that name some."""

from prefillshare.errors import LaunchError
from prefillshare.serving.machine.ports import free_port, release

_FIRST = range(20000, 30000)


def neighbouring_ports(number: int) -> range:
    """So many ports in a row that nobody has: of fixed ones, the other lane may have been given one."""
    while True:
        first = free_port(among=_FIRST)
        ports, held = range(first, first + number), [first]
        try:
            held += [free_port(among=[port]) for port in ports[1:]]
        except LaunchError:  # somebody has one of them
            continue
        finally:
            release(held)
        return ports
