"""Charts as inline SVG: they follow the page's colours and stay sharp at any size."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_ms.report.markup import Markup, join, tag

# at a phone's width, 350 pixels, the texts of 13 units are still 10 pixels high
_WIDTH, _HEIGHT = 460, 270
# the texts beside and below the axes stay within the picture
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 28, 12, 40
# curves that the page's style tells apart
NUM_COLOURS = 6
# of the range of the values, on either side
_MARGIN = 0.1
# values that differ by less look as equal as they are
_LEAST_RANGE = 0.02


def close_range(values: Sequence[float], *, lowest: float, highest: float) -> tuple[float, float]:
    """(low, high) of an axis that shows what moves: the values with a margin, no more.

    Args:
        values: finite numbers.
        lowest, highest: what the axis does not leave; the range without any value. May be
            infinite where there are values.

    Example:

    >>> close_range([0.5, 0.6], lowest=0, highest=1)
    (0.49, 0.61)
    """
    if not values:
        return lowest, highest
    low, high = min(values), max(values)
    least = _LEAST_RANGE * max(1, abs(low), abs(high))
    range_ = max((1 + 2 * _MARGIN) * (high - low), least)
    start = (low + high - range_) / 2
    # at an end of the axis the margin is all on the other side
    start = max(lowest, min(start, highest - range_))
    return round(start, 12), round(min(start + range_, highest), 12)


def line_chart(
    label: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_name: str,
    y_range: tuple[float, float] | None = None,
    levels: Mapping[str, float] | None = None,
    mark: tuple[str, float, float] | None = None,
) -> Markup | None:
    """Curves over a common axis.

    Args:
        label: what the chart shows, for those who do not see it.
        lines: dict from a name to a list of (x, y); points that are not finite are left out.
        x_name: under the axis.
        y_range: (low, high). Defaults to None: what all of it covers, with a margin.
        levels: dict from a name to a y, drawn as a dashed line across. Defaults to None.
        mark: (name, x, y) of a point to put a ring around. Defaults to None.

    Returns:
        `Markup` of a figure with a legend, or None without any point.
    """
    lines = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in lines.items()
    }
    every = [point for points in lines.values() for point in points]
    if not every:
        return None
    levels = {name: y for name, y in (levels or {}).items() if math.isfinite(y)}
    xs, ys = zip(*every)
    if y_range is None:
        ys = [*ys, *levels.values()]
        y_range = close_range(ys, lowest=0 if min(ys) >= 0 else -math.inf, highest=math.inf)
    axes = _Axes(min(xs), max(xs), *y_range)
    drawn, legend = [], []
    for number, (name, y) in enumerate(levels.items()):
        place = f"{axes.y(y):.1f}"
        kind = f"level l{number % 2}"
        drawn.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=place, y2=place, class_=kind))
        legend.append((kind, f"{name}: {y:.3f}"))
    for number, points in enumerate(lines.values()):
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)
        drawn.append(tag("polyline", points=path, class_=f"line c{number % NUM_COLOURS}"))
        drawn += [
            tag(
                "circle",
                cx=f"{axes.x(x):.1f}",
                cy=f"{axes.y(y):.1f}",
                r=2.5,
                class_=f"dot c{number % NUM_COLOURS}",
            )
            # more would run together to a thick line
            for x, y in (points if len(points) <= 40 else points[-1:])
        ]
    legend = [(f"c{number % NUM_COLOURS}", name) for number, name in enumerate(lines)] + legend
    if mark is not None:
        name, x, y = mark
        drawn.append(
            tag("circle", cx=f"{axes.x(x):.1f}", cy=f"{axes.y(y):.1f}", r=8, class_="ring")
        )
        legend.append(("ring", name))
    return _figure(label, join(drawn), axes, x_name, legend)


def histogram_chart(
    label: str,
    edges: Sequence[float] | np.ndarray,
    *,
    densities: Mapping[str, np.ndarray],
    x_name: str,
) -> Markup:
    """Histograms over common bins, as overlapping areas of equal size.

    Args:
        label: what the chart shows.
        edges: (bins + 1,).
        densities: dict from a name to (bins,) shares of its total.
        x_name: under the axis.
    """
    highest = max(max(values) for values in densities.values()) or 1
    axes = _Axes(edges[0], edges[-1], 0, highest)
    drawn = []
    for number, values in enumerate(densities.values()):
        corners = [(edges[0], 0)]
        for low, high, value in zip(edges, edges[1:], values):
            corners += [(low, value), (high, value)]
        corners.append((edges[-1], 0))
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in corners)
        drawn.append(tag("polygon", points=path, class_=f"area h{number}"))
    legend = [(f"h{number}", name) for number, name in enumerate(densities)]
    return _figure(label, join(drawn), axes, x_name, legend, percent=True)


def _figure(label, drawn, axes, x_name, legend, percent=False):
    chart = tag(
        "svg",
        axes.grid(percent),
        drawn,
        tag("text", x_name, x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 6, text_anchor="middle"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=label,
    )
    items = [tag("li", tag("span", class_=f"key {kind}"), name) for kind, name in legend]
    return tag("figure", chart, tag("ul", *items, class_="legend") if len(items) > 1 else None)


class _Axes:
    """From values to places in the drawing, and the lines that show them."""

    def __init__(self, x_low, x_high, y_low, y_high):
        self.x_low, self.x_high = x_low, x_high if x_high > x_low else x_low + 1
        self.y_low, self.y_high = y_low, y_high if y_high > y_low else y_low + 1

    def x(self, value):
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value):
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self, percent):
        parts = []
        values = _ticks(self.y_low, self.y_high)
        for value, text in zip(values, _tick_texts(values)):
            y = round(self.y(value), 1)
            text = text if not percent else f"{100 * value:.3g} %"
            parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", text, x=_LEFT - 6, y=y + 4, text_anchor="end"))
        for value in _ticks(self.x_low, self.x_high):
            x = round(self.x(value), 1)
            parts.append(
                tag("text", f"{value:,.6g}", x=x, y=_HEIGHT - _BOTTOM + 16, text_anchor="middle")
            )
        return join(parts)


def _ticks(low, high):
    """About five round numbers between the two."""
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # a number times the step, rounded: 0.30000000000000004 is 0.3
    return [round(number * step, 12) for number in range(first, last + 1)]


def _tick_texts(values):
    """The numbers with as many digits as tell them apart."""
    for digits in range(7):
        texts = [f"{value:,.{digits}f}" for value in values]
        if all(abs(float(t.replace(",", "")) - v) < 1e-9 for t, v in zip(texts, values)):
            break
    # what does not fit beside the axis
    return texts if max(map(len, texts)) <= 6 else [f"{value:.3g}" for value in values]
