"""`pyworker status`: what a running worker says of itself."""

import argparse
import json
import urllib.error
import urllib.request
from typing import Any

from rich.console import Console

from pyworker.commands.files import UserError
from pyworker.commands.ports import default_port
from pyworker.console import terminal
from pyworker.settings import WORKER_PORT


def add(commands: Any) -> None:
    status = commands.add_parser("status", help="what a running worker is doing, and why it is not ready")
    status.add_argument("--json", action="store_true", help="for machines")
    status.add_argument(
        "--admin-port",
        type=int,
        default=default_port("ADMIN_PORT", default_port("WORKER_PORT", WORKER_PORT) + 2),
    )
    status.set_defaults(command=_status)


def _status(options: argparse.Namespace) -> int:
    url = f"http://127.0.0.1:{options.admin_port}/pyworker/status"
    try:
        with _directly().open(url, timeout=5) as answer:
            picture: dict[str, Any] = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UserError(
            f"no worker answers on admin port {options.admin_port} ({error}); --admin-port names another"
        ) from error
    if options.json:
        print(json.dumps(picture, indent=2))
    else:
        terminal.show(picture, Console())
    return 0 if picture["state"] == "ready" else 1


def _directly() -> urllib.request.OpenerDirector:
    """What asks this machine itself, whatever proxy the environment names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
