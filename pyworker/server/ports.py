"""Whether a port is free, and if not, who holds it."""

import json
import socket
import urllib.request

import psutil

from pyworker.core.redact import excerpt


class PortTaken(OSError):
    """A port is held by another process; the message names both. ``admin_port`` is where a worker would say it is well."""

    def __init__(self, message: str, *, admin_port: int = 0) -> None:
        super().__init__(message)
        self._admin_port = admin_port

    def holder_is_healthy(self) -> bool:
        """Whether a live worker answers where the holder's admin port would be."""
        try:
            directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with directly.open(f"http://127.0.0.1:{self._admin_port}/healthz", timeout=2) as answer:
                return bool(json.load(answer).get("ok"))
        except (OSError, ValueError):
            return False


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
    """`` by pid 12 (name: command line), started by pid 7 (name)`` where the process can be seen, else nothing."""
    try:
        for connection in psutil.net_connections("tcp"):
            at = connection.laddr[1] if connection.laddr else 0
            if connection.status == psutil.CONN_LISTEN and at == port and connection.pid:
                return f" by {_named(psutil.Process(connection.pid))}"
    except (psutil.Error, OSError):
        pass
    return ""


def _named(process: psutil.Process) -> str:
    words = excerpt(" ".join(process.cmdline()[1:]), most=80)
    parent = process.parent()
    whose = f", started by pid {parent.pid} ({parent.name()})" if parent is not None else ""
    return f"pid {process.pid} ({process.name()}{': ' if words else ''}{words}){whose}"
