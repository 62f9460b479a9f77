"""The network interfaces of this machine."""

from prefillshare.errors import ConfigError


def find_interface(host: str) -> str:
    """Return the name of the interface that has the address `host`.

    Raises: ConfigError when none has it.
    """
    import psutil  # only a worker that others reach over a network needs it

    addresses = {
        entry.address.partition("%")[0]: name for name, entries in psutil.net_if_addrs().items() for entry in entries
    }
    if host not in addresses:
        usable = ", ".join(address for address in addresses if address.count(".") == 3)
        raise ConfigError(f"{host} is no address of this machine: use one of {usable}")
    return addresses[host]
