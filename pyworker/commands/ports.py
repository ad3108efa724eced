"""Ports that options default to."""

from pyworker.settings import SettingsError, setting


def default_port(name: str, default: int) -> int:
    """A port as the environment has it; nonsense there is told by the command, not by its help."""
    try:
        return setting(name, default)
    except SettingsError:
        return default
