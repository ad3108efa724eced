"""`pyworker bench`: measures a model server by hand, as a worker would at its start."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pyworker.config import WorkerConfig
from pyworker.console.plot import plot
from pyworker.core.benchmark import Result, Run
from pyworker.core.sweep import Point
from pyworker.handler import Benchmark, Handler, handlers_of
from pyworker.model.benchmark import BenchmarkRunner, NoPerf
from pyworker.model.measure import Measure
from pyworker.model.proof import Proof
from pyworker.model.whereabouts import model_server_of
from pyworker.settings import Settings


class BenchError(Exception):
    """There is nothing to measure; one line that says why."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What `bench` found. The curve has one point where no concurrency was searched for."""

    route: str
    result: Result
    curve: tuple[Point, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("what", metavar="MODULE_OR_FILE", help="as for `pyworker run`")
    parser.add_argument("--auto", action="store_true", help="find how many requests at once suit the server")
    parser.add_argument("--runs", type=_count, help="default: the handler's")
    parser.add_argument("--concurrency", type=_count, help="requests at once; default: the handler's")
    parser.add_argument(
        "--plot", type=Path, default=Path("bench.svg"), help="where the curve goes (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def bench(config: WorkerConfig, options: argparse.Namespace) -> int:
    """Measure, print a table or JSON, write the plot. Raises `BenchError`."""
    measured = asyncio.run(_measured(config, options, Console(stderr=True)))
    knee = measured.result.concurrency
    title = f"{measured.route}: {measured.result.perf:.1f} load/s with {knee} at once"
    try:
        options.plot.write_text(plot(measured.curve, knee=knee, title=title))
    except OSError as error:
        raise BenchError(f"the plot cannot be written to {options.plot}: {error.strerror}") from error
    if options.json:
        found = {
            "route": measured.route,
            **asdict(measured.result),
            "curve": [asdict(one) for one in measured.curve],
        }
        Console(soft_wrap=True).print_json(json.dumps(found))
    else:
        _show(measured, options.plot, Console())
    return 0


async def _measured(config: WorkerConfig, options: argparse.Namespace, console: Console) -> Measured:
    settings = Settings.from_env()
    handlers = handlers_of(config, perf_is_known=False)
    carrier = next(one for one in handlers if one.benchmark is not None)
    model = model_server_of(config, handlers)
    measure = Measure(carrier, model)
    proof = Proof(measure)
    proved = await proof.once()
    if not proved.ok:
        raise BenchError(f"the model server does not answer a benchmark request: {proved.why}")
    asked = _asked(carrier, options)
    try:
        with _Bar(console, asked) as bar:
            runner = BenchmarkRunner(
                measure,
                asked,
                parallel=not carrier.one_at_a_time,
                budget=settings.benchmark_budget,
                on_run=bar.ran,
            )
            result = (await runner.perf(proof.kind)).by(settings.benchmark_statistic)
    except NoPerf as error:
        raise BenchError(f"benchmark: {error}") from error
    finally:
        if model is not None:
            model.close()
    alone = Point(result.concurrency, result.median, result.p50, result.p95)
    return Measured(carrier.route, result, runner.curve or (alone,))


def _asked(carrier: Handler, options: argparse.Namespace) -> Benchmark:
    """The handler's benchmark with what the command line changes."""
    assert carrier.benchmark is not None
    changes: dict[str, Any] = {"auto": options.auto or (carrier.benchmark.auto and not options.concurrency)}
    if options.runs:
        changes["runs"] = options.runs
    if options.concurrency:
        changes["concurrency"] = options.concurrency
    return replace(carrier.benchmark, **changes)


class _Bar:
    """A bar of runs; those of a search for the concurrency are not known beforehand."""

    def __init__(self, console: Console, asked: Benchmark) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._total = None if asked.auto else asked.runs + (asked.do_warmup and asked.concurrency > 1)
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("measuring", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def ran(self, run: Run) -> None:
        """A run has ended."""
        self._progress.update(
            self._task, advance=1, description=f"{run.concurrency} at once: {run.perf:.1f} load/s"
        )


def _show(measured: Measured, path: Path, console: Console) -> None:
    result = measured.result
    if len(measured.curve) > 1:
        console.print(_curve(measured.curve, result.concurrency))
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("route", measured.route),
        ("perf", f"{result.perf:.1f} load/s (median {result.median:.1f}, best {result.best:.1f})"),
        ("spread", f"{100 * result.spread:.0f} % over {len(result.runs)} runs"),
        ("at once", f"{result.concurrency} requests"),
        ("latency", f"p50 {result.p50:.3f} s, p95 {result.p95:.3f} s"),
        ("failures", f"{len(result.failures)}: {result.failures[0]}" if result.failures else "none"),
        ("plot", str(path)),
    ):
        table.add_row(name, value)
    console.print(table, markup=False)


def _curve(curve: Sequence[Point], knee: int) -> Table:
    table = Table("at once", "load/s", "p50", "p95", "", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for one in curve:
        mark = "<- knee" if one.concurrency == knee else ""
        table.add_row(str(one.concurrency), f"{one.perf:.1f}", f"{one.p50:.3f} s", f"{one.p95:.3f} s", mark)
    return table
