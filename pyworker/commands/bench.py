"""`pyworker bench`: perf of a model server, measured by hand."""

import argparse
from typing import Any

from pyworker import bench
from pyworker.commands.files import UserError, names_of
from pyworker.config import WorkerConfig
from pyworker.worker import Worker


def add(commands: Any) -> None:
    measure = commands.add_parser("bench", help="measure perf of a model server by hand")
    bench.add_options(measure)
    measure.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> int:
    """Measure what the user names, which is not served meanwhile."""
    Worker.collected = []
    try:
        names = names_of(options.what)
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
