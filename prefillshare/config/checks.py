"""Checks that several tables need."""

from prefillshare.errors import ConfigError


def check_positive(name: str, value: int) -> None:
    """Raise ConfigError for a count below 1."""
    if value < 1:
        raise ConfigError(f"{name} is {value}: it must be at least 1")


def check_optional_positive(name: str, value: int | None) -> None:
    """Raise ConfigError for a count below 1, where there is one."""
    if value is not None:
        check_positive(name, value)
