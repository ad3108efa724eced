"""`pyworker engine`: a Serverless engine on this machine."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from pyworker.commands.files import UserError
from pyworker.local_engine.serve import EngineOptions, serve
from pyworker.logs import set_up_logging


def add(commands: Any) -> None:
    engine = commands.add_parser("engine", help="a Serverless engine on this machine, for trying workers")
    engine.add_argument("--host", default=EngineOptions().host)
    engine.add_argument("--port", type=int, default=EngineOptions().port)
    engine.add_argument(
        "--api-key", default=EngineOptions().api_key, help="what clients show (default: %(default)s)"
    )
    engine.add_argument(
        "--endpoint", default=EngineOptions().endpoint, help="its one endpoint (default: %(default)s)"
    )
    engine.add_argument(
        "--data-dir", type=Path, help="folder of its key, kept for the next start (default: none)"
    )
    engine.set_defaults(command=_engine)


def _engine(options: argparse.Namespace) -> int:
    set_up_logging("INFO", "text")
    try:
        engine = EngineOptions(
            host=options.host,
            port=options.port,
            api_key=options.api_key,
            endpoint=options.endpoint,
            data_dir=options.data_dir,
        )
        asyncio.run(serve(engine))
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
    return 0
