"""`pyworker status` on a terminal: one screen."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLOURS = {"ready": "green", "errored": "red", "draining": "yellow"}


def show(picture: dict[str, Any], console: Console) -> None:
    """Print what `console.status.status` gives."""
    state = picture["state"]
    console.print(
        Text(state.upper(), style=f"bold {_COLOURS.get(state, 'cyan')}"),
        f"for {picture['seconds_in_state']:.0f} s",
    )
    if picture["why"]:
        console.print(f"  {picture['why']}", markup=False)
    if picture["unsecured"]:
        console.print("  UNSECURED: requests are not checked for a signature", style="bold red")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in rows(picture):
        table.add_row(name, Text(value))
    console.print(table)


def rows(picture: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of each line below the headline."""
    loadtime = picture["loadtime"]
    requests = picture["requests"]
    lanes = picture["lanes"]
    reports = picture["engine"]["worker_status"]
    last = reports["seconds_since_acknowledged"]
    counts = " ".join(
        f"{name}={int(requests[name]['count'])}" for name in ("served", "failed", "cancelled", "rejected")
    )
    return [
        ("perf", f"{picture['perf']:.1f} load/s" if picture["perf"] else "not measured yet"),
        ("load time", f"{loadtime:.1f} s" if loadtime is not None else "not ready yet"),
        (
            "in flight",
            f"{int(requests['in_flight']['count'])} requests, load {requests['in_flight']['load']:g}",
        ),
        ("ended", counts),
        ("queue", f"{lanes['serial']['waiting']} waiting"),
        (
            "engine",
            f"last report acknowledged {last:.1f} s ago"
            if last is not None
            else "no report acknowledged yet",
        ),
        ("", reports["last_error"]),
        ("last report", _told(picture["last_report"])),
        ("public URL", picture["public_url"]),
        ("model server", picture["model_server"]),
        ("routes", ", ".join(picture["routes"])),
        ("model log", str(picture["model_log"]["last_line"] or "")),
    ]


def _told(report: dict[str, Any] | None) -> str:
    """The figures of the last acknowledged report; what they mean is in `pyworker status --json`."""
    if report is None:
        return ""
    names = ("new_load", "cur_perf", "rej_load", "cur_load", "max_perf", "num_requests_recieved")
    return "  ".join(f"{name}={report['fields'][name]['value']:g}" for name in names)
