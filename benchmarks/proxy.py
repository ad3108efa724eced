"""The command: measures the proxy beside its peers, prints a table, writes JSON.

python -m benchmarks.proxy [--rounds N] [--only CASE,…] [--peers a,b] [--seconds S] [--quick] [--json FILE] [--plot FILE]
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bench import QUICK, Bench, Effort, bench
from benchmarks.cases import CASES, panels_of
from benchmarks.children import Broken
from benchmarks.goals import Row
from benchmarks.peers import STARTS, versions
from benchmarks.plot import plot
from benchmarks.table import plain, table

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 1 when something could not be measured. A goal that is missed is a finding, no failure."""
    options = _options(arguments)
    found = versions()
    wanted = [name for name in options.peers if not found[name].startswith("left out")]
    for name in options.peers:
        _tell(f"peer {name}: {found[name]}")
    began, rows = time.monotonic(), []
    try:
        with bench(_effort(options), wanted, _tell) as running:
            for name in options.only:
                rows += _measured(running, name)
            failures = running.failures
    except KeyboardInterrupt:
        _tell("interrupted: everything started is gone")
        return INTERRUPTED
    shown = [name for name in options.peers if any(name in row.medians for row in rows)]
    print(table(rows, shown))
    for failure in failures:
        print(f"failed: {failure.case}: {failure.peer}: {failure.why}")
    if options.plot and (panels := panels_of(rows)):
        options.plot.write_text(plot(panels))
    if options.json:
        report = _report(options, found, rows, time.monotonic() - began)
        report["failures"] = [dataclasses.asdict(failure) for failure in failures]
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failures else 0


def _measured(running: Bench, name: str) -> list[Row]:
    began = time.monotonic()
    running.case = name
    try:
        rows = CASES[name](running)
    except Broken as error:
        running.failed("all", str(error))
        rows = []
    _tell(f"{name}: {time.monotonic() - began:.0f} s")
    return rows


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(
    options: argparse.Namespace, found: dict[str, str], rows: Sequence[Row], took: float
) -> dict[str, Any]:
    return {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "took": round(took, 1),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_average": os.getloadavg(),
        },
        "effort": dataclasses.asdict(_effort(options)),
        "peers": {name: found[name] for name in options.peers},
        "rows": [plain(row) for row in rows],
    }


def _effort(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else Effort()
    if options.rounds:
        effort = dataclasses.replace(effort, rounds=options.rounds, stream_rounds=options.rounds)
    if options.seconds:
        effort = dataclasses.replace(effort, seconds=options.seconds)
    return effort


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.proxy",
        description="The data plane beside its peers, in one run on this machine.",
    )
    parser.add_argument(
        "--only", type=_names_of(CASES), default=list(CASES), metavar="CASE,…", help=", ".join(CASES)
    )
    parser.add_argument(
        "--peers", type=_names_of(STARTS), default=list(STARTS), metavar="PEER,…", help=", ".join(STARTS)
    )
    parser.add_argument("--rounds", type=_positive(int), help="rounds over all peers (default: 5; streams 3)")
    parser.add_argument("--seconds", type=_positive(float), help="length of a timed round (default: 1.2)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, smaller sweeps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the case growth there, as SVG")
    return parser.parse_args(arguments)


def _names_of(known: Any) -> Any:
    def names(text: str) -> list[str]:
        wrong = [name for name in text.split(",") if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)!r}: there are {', '.join(known)}")
        return text.split(",")

    return names


def _positive(kind: Any) -> Any:
    def value(text: str) -> Any:
        try:
            found = kind(text)
        except ValueError:
            found = 0
        if not 0 < found < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r}: must be more than 0")
        return found

    return value


if __name__ == "__main__":
    sys.exit(main())
