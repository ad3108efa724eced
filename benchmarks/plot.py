"""How cost grows with the work, as one SVG file that needs nothing else: flat lines are what is wanted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 760
PANEL: Final = 300
LEFT, RIGHT, TOP, BOTTOM = 80, 170, 50, 50

_COLOURS: Final = ("#1666c5", "#c2571a", "#2a8a3a", "#7a3fb0")
_STYLE: Final = """
  svg { background: #fff; font: 13px system-ui, sans-serif; fill: #222 } .axis { stroke: #ccc }
  .title { font-weight: 600; font-size: 15px } polyline { fill: none; stroke-width: 2.2 }
  @media (prefers-color-scheme: dark) { svg { background: #16181c; fill: #ddd } .axis { stroke: #444 } }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: lines by their names, each of (amount of work, cost) points; amounts as ``labels`` name them."""

    title: str
    lines: dict[str, list[tuple[float, float]]]
    labels: dict[float, str]


def plot(panels: Sequence[Panel]) -> str:
    """SVG text: the panels one below the other, both axes logarithmic."""
    height = len(panels) * PANEL
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" width="{WIDTH}">',
        f"<style>{_STYLE}</style>",
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, number * PANEL)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, top: float) -> list[str]:
    amounts = sorted(panel.labels)
    costs = [cost for line in panel.lines.values() for _, cost in line if cost > 0]
    low, high = 10 ** math.floor(math.log10(min(costs))), 10 ** math.ceil(math.log10(max(costs)))

    def x(amount: float) -> float:
        share = math.log(amount / amounts[0]) / (math.log(amounts[-1] / amounts[0]) or 1.0)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(cost: float) -> float:
        share = math.log(cost / low) / (math.log(high / low) or 1.0)
        return top + PANEL - BOTTOM - (PANEL - TOP - BOTTOM) * share

    parts = [f'<text class="title" x="{LEFT}" y="{top + 28}">{escape(panel.title)}</text>']
    tick = low
    while tick <= high * 1.001:
        parts.append(
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g} µs", "end"))
        tick *= 10
    parts += [_text(x(one), top + PANEL - BOTTOM + 20, panel.labels[one], "middle") for one in amounts]
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(x(amount), y(cost)) for amount, cost in line if cost > 0]
        points = " ".join(f"{at:.1f},{height:.1f}" for at, height in places)
        parts.append(f'<polyline stroke="{colour}" points="{points}"/>')
        parts += [f'<circle fill="{colour}" cx="{at:.1f}" cy="{h:.1f}" r="3.5"/>' for at, h in places]
        place = top + TOP + 18 * number
        parts.append(
            f'<rect fill="{colour}" x="{WIDTH - RIGHT + 14}" y="{place - 9}" width="12" height="4"/>'
        )
        parts.append(_text(WIDTH - RIGHT + 32, place - 3, name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
