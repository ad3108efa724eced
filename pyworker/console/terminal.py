"""`pyworker status` on a terminal: one screen."""

from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

MOST_INDEXES: Final = 5
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
    if picture["why"] and state != "draining":
        console.print(evidence(picture["why_not_ready"]))
    if picture["in_service"]["warning"]:
        console.print(Text(f"  {picture['in_service']['warning']}", style="yellow"))
    for warning in picture["warnings"]:
        console.print(Text(f"  {warning}", style="bold red"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in rows(picture):
        table.add_row(name, Text(value))
    console.print(table)
    if (told := report(picture)) is not None:
        console.print()
        console.print(told)


def evidence(why: dict[str, Any]) -> Table:
    """Each signal: is it as it should be, what is it, how old is that, and what would turn it green."""
    table = Table("", "signal", "now", "age", "turns green with", box=None, padding=(0, 2, 0, 0))
    for signal in why["signals"]:
        mark = Text("ok", style="green") if signal["good"] else Text("--", style="red")
        age = "" if signal["age"] is None else f"{signal['age']:.1f} s"
        wants = "" if signal["good"] else signal["wants"]
        table.add_row(mark, Text(signal["name"]), Text(signal["value"]), age, Text(wants))
    if why["likely_cause"]:
        table.add_row("", "likely cause", Text(why["likely_cause"], style="yellow"), "", "")
    return table


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
        ("benchmark", _benchmark(picture["benchmark"])),
        ("in service", _in_service(picture["in_service"])),
        ("stages", _stages(picture["progress"])),
        ("load time", f"{loadtime:.1f} s" if loadtime is not None else "not ready yet"),
        (
            "in flight",
            f"{int(requests['in_flight']['count'])} requests, load {requests['in_flight']['load']:.10g}",
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
        ("public URL", picture["public_url"]),
        ("model server", picture["model_server"]),
        ("routes", ", ".join(picture["routes"])),
        ("model log", str(picture["model_log"]["last_line"] or "")),
    ]


def _benchmark(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return (
        f"median {found['median']:.1f}, best {found['best']:.1f}, spread {100 * found['spread']:.0f} %, "
        f"{found['concurrency']} at once, p50 {found['p50']:.2f} s, p95 {found['p95']:.2f} s; {found['source']}"
    )


def _in_service(seen: dict[str, Any]) -> str:
    if seen["promised"] is None:
        return ""
    return f"{seen['served']:.1f} load/s served, {seen['promised']:.1f} promised for what was in flight"


def _stages(progress: dict[str, Any]) -> str:
    """Each stage and when it began; how far the present one is."""
    begun = " > ".join(f"{one['stage']} {one['at']:.1f} s" for one in progress["stages"])
    return f"{begun}; {progress['words']}" if progress["percent"] is not None else begun


def report(picture: dict[str, Any]) -> Table | None:
    """The last acknowledged report, field by field, and what each was computed from; below it what is pending."""
    last, pending = picture["last_report"], picture["pending"]
    if last is None:
        return None
    age = last["seconds_since_acknowledged"]
    title = (
        f"last report, acknowledged {age:.1f} s ago by {last['address']} after {last['answered_after']:.3f} s"
    )
    table = Table(
        "field", "value", "of what", box=None, padding=(0, 2, 0, 0), title=title, title_justify="left"
    )
    for name, field in last["fields"].items():
        table.add_row(Text(name), Text(_value(field["value"])), Text(field["formula"] or field["means"]))
    waits = "  ".join(
        f"{name} {pending[name]:.10g}" for name in ("new_load", "cur_perf", "rej_load", "ended_requests")
    )
    table.add_row("", "", "")
    table.add_row("pending", "", Text(waits + _under_way(pending)))
    return table


def _under_way(pending: dict[str, Any]) -> str:
    since, failing = pending["report_under_way_for"], pending["failing_for"]
    under_way = "" if since is None else f"; a report is under way for {since:.1f} s"
    return under_way + ("" if failing is None else f"; the engine has taken none for {failing:.0f} s")


def _value(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:MOST_INDEXES]))
        return f"{shown}, … ({len(value)})" if len(value) > MOST_INDEXES else shown
    return f"{value:.10g}" if isinstance(value, float) else str(value)
