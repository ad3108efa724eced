"""Whether a port is free, and if not, who holds it."""

import socket

import psutil


class PortTaken(OSError):
    """A port is held by another process; the message names both."""


def require_free(port: int, purpose: str, option: str) -> None:
    """Raises `PortTaken`, which tells how to choose another (``option``)."""
    for host in ("127.0.0.1", "0.0.0.0"):  # noqa: S104 - asked for, not listened on
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError as error:
                raise PortTaken(
                    f"port {port} ({purpose}) is taken{holder(port)}: stop it, or use {option}"
                ) from error


def holder(port: int) -> str:
    """`` by pid 12 (name)`` where the process can be seen, else nothing."""
    try:
        for connection in psutil.net_connections("tcp"):
            at = connection.laddr[1] if connection.laddr else 0
            if connection.status == psutil.CONN_LISTEN and at == port and connection.pid:
                return f" by pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    except (psutil.Error, OSError):
        pass
    return ""
