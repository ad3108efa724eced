"""`pyworker bench`: perf of a model server, measured by hand."""

import argparse
from typing import Any

from pyworker import bench
from pyworker.commands.files import UserError, names_of
from pyworker.config import WorkerConfig
from pyworker.official.finder import served
from pyworker.worker import Worker


def add(commands: Any) -> None:
    measure = commands.add_parser("bench", help="measure perf of a model server by hand")
    bench.add_options(measure)
    measure.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> int:
    """Measure what the user names, which is not served meanwhile."""
    try:
        with served():
            return bench.bench(_config(options.what), options)
    except bench.BenchError as error:
        raise UserError(str(error)) from error


def _config(what: str) -> WorkerConfig:
    Worker.collected = []
    try:
        names = names_of(what)
        found = [*Worker.collected, names.get("config"), getattr(names.get("worker"), "config", None)]
    finally:
        Worker.collected = None
    config = next((one for one in found if isinstance(one, WorkerConfig)), None)
    if config is None:
        raise UserError(f"{what} starts no worker and defines no `config = WorkerConfig(...)`")
    return config
