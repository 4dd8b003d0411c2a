"""Two small kinds of charts as SVG text; colours that work on light and dark pages."""

from math import log10
from xml.sax.saxutils import escape

COLOURS = ("#3b7dd8", "#e08a2e", "#4aa564", "#b5549b", "#8a8a8a", "#c0504d", "#2aa3a3", "#9a7b4f")
TEXT = "#777777"
STYLE = f'font-family="sans-serif" font-size="12" fill="{TEXT}"'


def bars(title: str, groups: dict[str, list[float]], series: list[str]) -> str:
    """Horizontal bars, one group per subject.

    Args:
        title: above.
        groups: for each subject one value per series.
        series: their names.
    """
    height, left, width = 14, 120, 420
    step = height * len(series) + 10
    top = 44
    longest = max((value for values in groups.values() for value in values), default=1) or 1
    body = [_text(10, 18, title, bold=True)]
    for number, name in enumerate(series):
        body.append(_box(left + 130 * number, 26, 10, 10, COLOURS[number]))
        body.append(_text(left + 130 * number + 14, 35, name))
    for row, (name, values) in enumerate(groups.items()):
        y = top + row * step
        body.append(_text(left - 6, y + step / 2, name, anchor="end"))
        for number, value in enumerate(values):
            at = y + number * height
            body.append(_box(left, at, width * value / longest, height - 2, COLOURS[number]))
            body.append(_text(left + width * value / longest + 4, at + 10, f"{value:.2f}"))
    return _svg(left + width + 60, top + step * len(groups), body)


def curves(title: str, lines: dict[str, list[tuple[float, float]]], *, logarithmic: bool) -> str:
    """Lines over numbers.

    Args:
        title: above.
        lines: points of each, by name.
        logarithmic: the horizontal axis; zero is shown as 1.
    """
    left, top, width, height = 70, 40, 460, 240

    def across(x: float) -> float:
        return log10(max(x, 1)) if logarithmic else x

    xs = [across(x) for points in lines.values() for x, _ in points] or [0.0]
    highest = max((y for points in lines.values() for _, y in points), default=1) or 1
    low, span = min(xs), (max(xs) - min(xs)) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * (across(x) - low) / span, top + height * (1 - y / highest)

    body = [_text(10, 18, title, bold=True)]
    for part in (0, 0.5, 1):
        y = top + height * (1 - part)
        body.append(
            f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"'
            f' stroke="{TEXT}" stroke-opacity="0.3"/>'
        )
        label = f"{highest * part:,.{2 if highest < 10 else 0}f}"
        body.append(_text(left - 6, y + 4, label, anchor="end"))
    for part in (0, 0.5, 1):
        value = low + span * part
        value = 10**value if logarithmic else value
        body.append(_text(left + width * part, top + height + 16, f"{value:,.0f}", anchor="middle"))
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(x, y) for x, y in points]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        body.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in placed]
        y = top + 6 + 16 * number
        body.append(_box(left + width + 16, y, 10, 10, colour))
        body.append(_text(left + width + 30, y + 9, name))
    return _svg(left + width + 220, top + height + 30, body)


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {STYLE}{weight}>'
        f"{escape(text)}</text>"
    )


def _svg(width: float, height: float, body: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}">'
    )
    return "\n".join([head, *body, "</svg>"]) + "\n"
