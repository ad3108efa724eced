"""The command line: up, run, bench, engine, status."""

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import runpy
import signal
import sys
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from pyworker import bench
from pyworker.config import ConfigError, WorkerConfig
from pyworker.console import terminal
from pyworker.core.redact import excerpt
from pyworker.engine.beacon import MAX_REASON, beacon, known
from pyworker.instance.local import WORKER_PORT, LocalOptions
from pyworker.instance.local import run as run_local
from pyworker.instance.parent import end_with
from pyworker.instance.unattended import run as run_unattended
from pyworker.local_engine.serve import EngineOptions, serve
from pyworker.logs import set_up_logging
from pyworker.server.ports import PortTaken
from pyworker.settings import DEFAULT_ENGINE, LOCAL_WORKSPACE, SettingsError, setting
from pyworker.worker import Worker

USAGE_ERROR: Final = 2
"""Exit status of a wrong call or a wrong configuration."""


class UserError(Exception):
    """What the user asked for cannot be done; one line that says why."""


TOLD: Final = (UserError, ConfigError, SettingsError, PortTaken)
"""Errors whose words are for the user: no traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    options = _parser().parse_args(arguments)
    if options.parent:
        end_with(options.parent)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (UserError, ConfigError, PortTaken) as error:
        print(f"pyworker: {error}", file=sys.stderr)
    except SettingsError as error:
        for problem in error.problems:
            print(f"pyworker: {problem}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return USAGE_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pyworker", description="The worker side of serverless GPU inference.")
    parser.add_argument("--parent", type=int, metavar="PID", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_up(commands)
    run = commands.add_parser("run", help="run a worker: a module (handlers.llama) or a file (worker.py)")
    run.add_argument("what", metavar="MODULE_OR_FILE")
    run.set_defaults(command=_run)
    measure = commands.add_parser("bench", help="measure perf of a model server by hand")
    bench.add_options(measure)
    measure.set_defaults(command=_bench)
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
    status = commands.add_parser("status", help="what a running worker is doing, and why it is not ready")
    status.add_argument("--json", action="store_true", help="for machines")
    status.add_argument(
        "--admin-port",
        type=int,
        default=_default_port("ADMIN_PORT", _default_port("WORKER_PORT", WORKER_PORT) + 2),
    )
    status.set_defaults(command=_status)
    return parser


def _add_up(commands: Any) -> None:
    up = commands.add_parser(
        "up", help="start model server and worker side by side (locally: the engine too)"
    )
    up.add_argument("--once", action="store_true", help="local mode: exit after the first answer")
    up.add_argument(
        "--worker-port",
        type=int,
        default=_default_port("WORKER_PORT", WORKER_PORT),
        help="default: %(default)s",
    )
    up.add_argument("--engine-port", type=int, default=8080, help="default: %(default)s")
    up.add_argument("--model-port", type=int, default=18000, help="default: %(default)s")
    up.set_defaults(command=_up)


def _default_port(name: str, default: int) -> int:
    """A port as the environment has it; nonsense there is told by the command, not by its help."""
    try:
        return setting(name, default)
    except SettingsError:
        return default


def _directly() -> urllib.request.OpenerDirector:
    """What asks this machine itself, whatever proxy the environment names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


# The commands...


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


def _run(options: argparse.Namespace) -> int:
    """Run what the user names. On an instance a worker that cannot start stays to tell the engine why."""
    try:
        return _run_worker(options.what)
    except (Exception, SystemExit) as error:
        left = isinstance(error, SystemExit) and not error.code
        if left or options.parent or Worker.listened or not setting("CONTAINER_ID", ""):
            raise
        return _stay_to_tell(error)


def _stay_to_tell(error: BaseException) -> int:
    """Say why this worker cannot start, and go on saying it to the engine until told to stop."""
    if isinstance(error, PortTaken) and error.holder_is_healthy():
        print(f"pyworker: {error}: a healthy worker, so this one leaves", file=sys.stderr)
        return 0
    set_up_logging("INFO", "text")
    reason = str(error) if isinstance(error, TOLD) else f"{type(error).__name__}: {error}"
    reason = excerpt(reason, most=MAX_REASON)
    print(f"pyworker: this worker cannot start: {reason} (telling the engine until stopped)", file=sys.stderr)
    if not isinstance(error, (*TOLD, SystemExit)):
        for line in "".join(traceback.format_exception(error)).splitlines():
            indented = line[: len(line) - len(line.lstrip())]
            print(indented + excerpt(line, most=MAX_REASON), file=sys.stderr)
    addresses, number, token, url = known(os.environ, DEFAULT_ENGINE)  # noqa: TID251 - it may be what is wrong
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(
            _until_stopped(beacon(addresses, container_id=number, master_token=token, url=url, reason=reason))
        )
    return 1


async def _until_stopped(telling: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await telling


def _run_worker(what: str) -> int:
    """A file that starts its worker itself has done so when it returns."""
    started = _StartedWorkers()
    names = _names_of(what)
    if started.any():
        return 0
    found = names.get("worker") or names.get("config")
    if isinstance(found, WorkerConfig):
        found = Worker(found)
    if not isinstance(found, Worker):
        raise UserError(f"{what} starts no worker and defines no `config = WorkerConfig(...)`")
    found.run()
    return 0


def _bench(options: argparse.Namespace) -> int:
    """Measure what the user names, which is not served meanwhile."""
    Worker.collected = []
    try:
        names = _names_of(options.what)
        found = [*Worker.collected, names.get("config"), getattr(names.get("worker"), "config", None)]
    finally:
        Worker.collected = None
    config = next((one for one in found if isinstance(one, WorkerConfig)), None)
    if config is None:
        raise UserError(f"{options.what} starts no worker and defines no `config = WorkerConfig(...)`")
    try:
        return bench.bench(config, options)
    except bench.BenchError as error:
        raise UserError(str(error)) from error


class _StartedWorkers:
    """Notices whether a worker was run since this was made."""

    def __init__(self) -> None:
        self._before = Worker.runs

    def any(self) -> bool:
        return Worker.runs > self._before


def _names_of(what: str) -> dict[str, Any]:
    path = Path(what)
    if path.suffix == ".py" or path.is_file():
        if not path.is_file():
            raise UserError(f"there is no file {what}")
        sys.path.insert(0, str(path.resolve().parent))
        return runpy.run_path(what, run_name="__main__")
    sys.path.insert(0, str(Path.cwd()))
    try:
        known = importlib.util.find_spec(what) is not None
    except ModuleNotFoundError:
        known = False
    if not known:
        raise UserError(
            f"there is no module {what} (and no file of that name); shipped ones are named handlers.NAME"
        )
    return runpy.run_module(what, run_name="__main__", alter_sys=True)


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
