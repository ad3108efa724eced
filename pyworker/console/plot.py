"""The curve of a benchmark as one SVG file that needs nothing else: throughput and latency over requests at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log2
from typing import Final

from pyworker.core.sweep import Point

WIDTH: Final = 720
HEIGHT: Final = 420
LEFT, RIGHT, TOP, BOTTOM = 80, 80, 60, 60
TICKS: Final = 4

_STYLE: Final = """
  svg { background: #fff; font: 13px system-ui, sans-serif; fill: #222 }
  .axis { stroke: #bbb } .perf { stroke: #1666c5; fill: none; stroke-width: 2.5 } .perf-dot { fill: #1666c5 }
  .wait { stroke: #c2571a; fill: none; stroke-width: 2; stroke-dasharray: 5 4 } .wait-dot { fill: #c2571a }
  .knee { stroke: #2a8a3a; stroke-width: 1.5; stroke-dasharray: 2 3 } .title { font-size: 16px; font-weight: 600 }
  @media (prefers-color-scheme: dark) { svg { background: #16181c; fill: #ddd } .axis { stroke: #555 } }
"""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Turns a value into a place on an axis whose end has the value ``most``."""

    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "_Scale":
        """A round number above the largest value, so that ticks are round, too."""
        most = max(values) or 1.0
        unit = 10.0 ** (len(f"{most:.0f}") - 1) if most >= 1 else 10.0 ** -len(f"{1 / most:.0f}")
        steps = next(step for step in (1, 2, 4, 6, 8, 10, 20) if step * unit >= most)
        return cls(steps * unit)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.most


def plot(curve: Sequence[Point], *, knee: int, title: str) -> str:
    """SVG text. ``curve`` must not be empty; ``knee`` is the concurrency to mark."""
    perf, wait = _Scale.of([one.perf for one in curve]), _Scale.of([one.p95 for one in curve])
    widest = log2(max(2, *(one.concurrency for one in curve)))

    def x(concurrency: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * log2(concurrency) / widest

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" width="{WIDTH}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        f'<text x="{LEFT}" y="46">load/s (solid) and seconds of a request, p95 (dashed), over requests at once</text>',
        *_frame(perf, wait),
        *(_label(x(one.concurrency), HEIGHT - BOTTOM + 20, str(one.concurrency), "middle") for one in curve),
        f'<line class="knee" x1="{x(knee):.1f}" x2="{x(knee):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
        _label(x(knee), HEIGHT - 18, f"knee: {knee} at once", "middle"),
        *_line("wait", [(x(one.concurrency), wait.y(one.p95)) for one in curve]),
        *_line("perf", [(x(one.concurrency), perf.y(one.perf)) for one in curve]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _frame(perf: _Scale, wait: _Scale) -> list[str]:
    """Both axes with their figures."""
    parts = []
    for tick in range(TICKS + 1):
        share = tick / TICKS
        y = perf.y(perf.most * share)
        parts += [
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>',
            _label(LEFT - 10, y + 4, f"{perf.most * share:g}", "end"),
            _label(WIDTH - RIGHT + 10, y + 4, f"{wait.most * share:.3g} s", "start"),
        ]
    return parts


def _line(name: str, places: Sequence[tuple[float, float]]) -> list[str]:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f'<circle class="{name}-dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    return [f'<polyline class="{name}" points="{line}"/>', *dots]


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
