"""Rows as text for people and as plain values for machines."""

from collections.abc import Sequence
from typing import Any

from benchmarks.goals import Row, number


def table(rows: Sequence[Row], peers: Sequence[str]) -> str:
    """An aligned table: a line a figure, further lines for further goals."""
    lines = [["case", "figure", *peers, "goal", "verdict"]]
    for row in rows:
        medians, spreads = row.medians, row.spreads
        cells = [
            f"{number(medians[peer])} ±{spreads[peer]:.0%}" if peer in medians else "-" for peer in peers
        ]
        verdicts = row.verdicts()
        goals = [
            (goal.text(row.unit), verdict.text) for goal, verdict in zip(row.goals, verdicts, strict=True)
        ]
        first, *further = goals or [("", "")]
        lines.append([row.case, f"{row.figure}, {row.unit}", *cells, *first])
        lines += [["", "", *("" for _ in peers), *goal] for goal in further]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def plain(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    return {
        "case": row.case,
        "figure": row.figure,
        "unit": row.unit,
        "median": row.medians,
        "spread": row.spreads,
        "samples": {peer: list(found) for peer, found in row.samples.items()},
        "goals": [
            {"goal": goal.text(row.unit), "verdict": verdict.kind.value, "text": verdict.text}
            for goal, verdict in zip(row.goals, row.verdicts(), strict=True)
        ],
    }
