"""`pyworker up`: model server and worker side by side."""

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from pyworker.commands.ports import default_port
from pyworker.instance.local import LocalOptions
from pyworker.instance.local import run as run_local
from pyworker.instance.unattended import run as run_unattended
from pyworker.settings import LOCAL_WORKSPACE, WORKER_PORT, setting


def add(commands: Any) -> None:
    up = commands.add_parser(
        "up", help="start model server and worker side by side (locally: the engine too)"
    )
    up.add_argument("--once", action="store_true", help="local mode: exit after the first answer")
    up.add_argument(
        "--worker-port",
        type=int,
        default=default_port("WORKER_PORT", WORKER_PORT),
        help="default: %(default)s",
    )
    up.add_argument("--engine-port", type=int, default=8080, help="default: %(default)s")
    up.add_argument("--model-port", type=int, default=18000, help="default: %(default)s")
    up.set_defaults(command=_up)


def _up(options: argparse.Namespace) -> int:
    if setting("CONTAINER_ID", ""):
        return asyncio.run(run_unattended())
    setting("WORKER_PORT", WORKER_PORT)  # raises for what is no port
    local = LocalOptions(
        folder=Path(setting("WORKSPACE_DIR", LOCAL_WORKSPACE)),
        worker_port=options.worker_port,
        engine_port=options.engine_port,
        model_port=options.model_port,
        once=options.once,
    )
    return asyncio.run(run_local(local, dict(os.environ), Console()))  # noqa: TID251 - what the started processes inherit
