"""Panels of horizontal bars as SVG, with axis, unit and target marks, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT = 860, 250, 110
_BAR, _STEP, _HEAD, _FOOT = 16, 27, 44, 38
_LEGEND = 34
_STEPS = (1, 2, 2.5, 5, 10)
_MOST_TICKS = 6

_STYLE = """
  svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
  .text { fill: #1f2328; } .quiet { fill: #59636e; font-size: 12px; font-weight: 400; } .title { fill: #1f2328; font-weight: 600; }
  .grid { stroke: #d1d9e0; } .ours { fill: #0969da; } .other { fill: #8c959f; }
  .least { stroke: #cf222e; stroke-width: 2.5; } .reach { stroke: #1a7f37; stroke-width: 2.5; stroke-dasharray: 3 2; }
  .halo { stroke: #ffffff; stroke-width: 6; }
  @media (prefers-color-scheme: dark) {
    .text, .title { fill: #f0f6fc; } .quiet { fill: #9198a1; } .grid { stroke: #3d444d; }
    .ours { fill: #4493f8; } .other { fill: #656c76; } .least { stroke: #f85149; } .reach { stroke: #3fb950; }
    .halo { stroke: #0d1117; }
  }
"""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One figure, as ``text`` beside its bar; ``ours`` tells the whole job from what it is compared with."""

    label: str
    value: float
    text: str
    at_least: float | None = None
    reach: float | None = None
    ours: bool = True


@dataclass(frozen=True)
class Panel:
    """Bars over one axis that begins at zero."""

    title: str
    unit: str
    bars: tuple[Bar, ...]


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The drawing; panels without bars are left out."""
    parts: list[str] = []
    top = _LEGEND
    for panel in panels:
        if panel.bars:
            parts += _panel(panel, top)
            top += _HEAD + _STEP * len(panel.bars) + _FOOT
    spoken = "; ".join(f"{bar.label}: {bar.text}" for panel in panels for bar in panel.bars)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}"'
            ' role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(spoken)}</desc>',
            f"<style>{_STYLE}</style>",
            *_legend(),
            *parts,
            "</svg>",
            "",
        ]
    )


def _legend() -> list[str]:
    return [
        f'<line class="least" x1="{_LEFT}" x2="{_LEFT}" y1="8" y2="24"/>',
        f'<text class="quiet" x="{_LEFT + 8}" y="20">at least (at most, where less is better)</text>',
        f'<line class="reach" x1="{_LEFT + 260}" x2="{_LEFT + 260}" y1="8" y2="24"/>',
        f'<text class="quiet" x="{_LEFT + 268}" y="20">to reach for</text>',
    ]


def _panel(panel: Panel, top: float) -> list[str]:
    drawn = [value for bar in panel.bars for value in (bar.value, bar.at_least, bar.reach) if value is not None]
    ticks = axis(max(drawn))
    bottom = top + _HEAD + _STEP * len(panel.bars)

    def x(value: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * value / ticks[-1], 1)

    parts = [
        f'<text class="title" x="12" y="{top + 26}">{escape(panel.title)}'
        f'<tspan class="quiet" dx="8">{escape(panel.unit)}</tspan></text>'
    ]
    for tick in ticks:
        parts += [
            f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{top + _HEAD - 4}" y2="{bottom}"/>',
            f'<text class="quiet" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:,.6g}</text>',
        ]
    for number, bar in enumerate(panel.bars):
        y = top + _HEAD + _STEP * number
        kind = "ours" if bar.ours else "other"
        parts += [
            f'<text class="text" x="{_LEFT - 10}" y="{y + 13}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{round(x(bar.value) - _LEFT, 1)}" height="{_BAR}" rx="2"/>',
        ]
        marks = [("least", bar.at_least), ("reach", bar.reach)]
        marked = [value for _, value in marks if value is not None]
        parts += [
            f'<line class="{name}" x1="{x(value)}" x2="{x(value)}" y1="{y - 3}" y2="{y + _BAR + 3}"/>'
            for mark, value in marks
            if value is not None
            for name in ("halo", mark)
        ]
        # Behind the bar and every mark that would cross the words.
        place = x(bar.value)
        for mark in sorted(x(value) for value in marked):
            if place - 4 <= mark <= place + 12 + 8.5 * len(bar.text):
                place = mark
        parts.append(f'<text class="text" x="{place + 8}" y="{y + 13}">{escape(bar.text)}</text>')
    return parts


def axis(most: float) -> list[float]:
    """Round ticks from zero to at least ``most``, six steps at most."""
    if most <= 0:
        return [0.0, 1.0]
    power = 1.0
    while power * _MOST_TICKS < most:
        power *= 10
    while power > most:
        power /= 10
    step = next(
        power / 10 * each * scale
        for scale in (1, 10, 100)
        for each in _STEPS
        if power / 10 * each * scale * _MOST_TICKS >= most
    )
    count = 1
    while step * count < most:
        count += 1
    return [round(step * number, 9) for number in range(count + 1)]
