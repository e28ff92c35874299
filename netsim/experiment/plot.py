"""Plots as SVG that takes its colours from the page's style sheet. Pure.

Of a numeric key of the matrix: lines, with a series for each combination of the other keys. Otherwise: bars, one for
each combination. Own code and not a library: those without numpy draw in fixed colours, and it is a page of code.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netsim.experiment.markup import Markup, element, join
from netsim.experiment.result import CombinationResult
from netsim.experiment.spec import Values, label_of

WIDTH, HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 16, 46
_LOG_FROM = 20.0  # the largest value is so many times the smallest: a logarithmic axis
_SERIES = 8  # colours in the style sheet
_BAR = 26


@dataclass(frozen=True, slots=True)
class Series:
    """A name and its points, by x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure of a step in all combinations. ``axis`` "": bars, whose series have one point each."""

    step: str
    figure: str
    axis: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    first: float
    last: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, here = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.first + (self.last - self.first) * ((here - low) / (high - low) if high > low else 0.5)

    def ticks(self) -> list[float]:
        """Round values, about five."""
        if self.log:
            return list_log_ticks(self.low, self.high)
        step = choose_step((self.high - self.low) / 5)
        return [at * step for at in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]


def list_log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; with 2 and 5 between them where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if high / low > 1000 else (1, 2, 5)
    return [f * 10.0**e for e in exponents for f in factors if low * 0.999 <= f * 10.0**e <= high * 1.001]


def choose_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next((factor * power for factor in (1, 2, 5, 10) if factor * power >= rough), 10 * power)


def find_axis(combinations: Sequence[CombinationResult]) -> str:
    """The key of the matrix whose values are numbers, two different ones at least; "" where there is none."""
    keys = combinations[0].values if combinations else {}
    for key in keys:
        values = {one.values[key] for one in combinations}
        if len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            return key
    return ""


def list_plots(combinations: Sequence[CombinationResult], figures: Mapping[str, Sequence[str]]) -> list[Plot]:
    """Plots of every step's figures. ``figures``: kind of step -> the facts that are drawn."""
    axis = find_axis(combinations)
    found: dict[tuple[str, str], list[tuple[Values, float]]] = {}
    for combination in combinations:
        for step in combination.steps:
            for figure in figures.get(step.kind, ()):
                value = step.facts.get(figure)
                if isinstance(value, int | float):
                    found.setdefault((step.name, figure), []).append((combination.values, float(value)))
    return [
        Plot(step, figure, axis, _make_series(points, axis))
        for (step, figure), points in found.items()
        if any(value for _, value in points) and len(points) > 1
    ]


def _make_series(points: Sequence[tuple[Values, float]], axis: str) -> tuple[Series, ...]:
    series: dict[str, list[tuple[float, float]]] = {}
    for values, value in points:
        name = label_of({key: item for key, item in values.items() if key != axis})
        series.setdefault(name, []).append((float(values[axis]) if axis else 0.0, value))
    return tuple(Series(name, tuple(sorted(found))) for name, found in series.items())


def render_plot(plot: Plot) -> Markup:
    """One figure with its title and legend."""
    drawing = _draw_lines(plot) if plot.axis else _draw_bars(plot)
    legend = None
    if plot.axis:
        items = [
            element("span", element("i", class_=f"key s{n % _SERIES}"), one.name, class_="legend")
            for n, one in enumerate(plot.series)
        ]
        legend = element("div", *items)
    title = f"{plot.step}: {spell_figure(plot.figure)}"
    return element("figure", element("figcaption", title), drawing, legend, class_="plot")


def _draw_lines(plot: Plot) -> Markup:
    xs = [x for one in plot.series for x, _ in one.points]
    ys = [y for one in plot.series for _, y in one.points]
    x_scale = _fit(xs, _LEFT, WIDTH - _RIGHT, at_zero=False)
    y_scale = _fit(ys, HEIGHT - _BOTTOM, _TOP, at_zero=True)
    parts: list[Markup] = []
    for tick in y_scale.ticks():
        y = y_scale(tick)
        parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(element("text", spell_number(tick), x=_LEFT - 6, y=y + 4, text_anchor="end"))
    for x in sorted(set(xs)):
        parts.append(
            element("line", x1=x_scale(x), x2=x_scale(x), y1=HEIGHT - _BOTTOM, y2=HEIGHT - _BOTTOM + 4, class_="axis")
        )
        parts.append(element("text", f"{x:,.6g}", x=x_scale(x), y=HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    bottom = HEIGHT - _BOTTOM
    parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    parts.append(element("text", plot.axis, x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 8, text_anchor="middle"))
    for number, one in enumerate(plot.series):
        places = [(x_scale(x), y_scale(y)) for x, y in one.points if not y_scale.log or y > 0]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        style = f"s{number % _SERIES}"
        parts.append(element("polyline", points=line, class_=f"line {style}"))
        for (x, y), (at, value) in zip(places, [p for p in one.points if not y_scale.log or p[1] > 0], strict=True):
            words = f"{one.name}, {plot.axis} {at:,.6g}: {spell_number(value)} {unit_of(plot.figure)}".rstrip()
            parts.append(element("circle", element("title", words), cx=x, cy=y, r=4.0, class_=f"dot {style}"))
    return _svg(HEIGHT, plot, parts)


def _draw_bars(plot: Plot) -> Markup:
    height = _TOP + len(plot.series) * 2 * _BAR + 8
    values = [one.points[0][1] for one in plot.series]
    most = max(values) or 1.0
    parts: list[Markup] = []
    for number, (one, value) in enumerate(zip(plot.series, values, strict=True)):
        y = _TOP + number * 2 * _BAR
        width = max(1.0, (WIDTH - 110) * value / most)
        parts.append(element("text", one.name, x=4, y=y + 12))
        parts.append(
            element("rect", x=4, y=y + 18, width=width, height=_BAR - 6, rx=3, class_=f"bar s{number % _SERIES}")
        )
        words = f"{spell_number(value)} {unit_of(plot.figure)}".rstrip()
        parts.append(element("text", words, x=width + 10, y=y + 33, class_="value"))
    return _svg(height, plot, parts)


def _svg(height: int, plot: Plot, parts: Sequence[Markup]) -> Markup:
    label = f"{plot.step}: {spell_figure(plot.figure)}"
    return element("svg", join(*parts), viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label)


def _fit(values: Sequence[float], first: float, last: float, *, at_zero: bool) -> Scale:
    positive = [value for value in values if value > 0]
    low, high = min(values), max(values)
    if positive and low > 0 and high / low >= _LOG_FROM:
        return Scale(low / 1.3, high * 1.3, first, last, log=True)
    if at_zero:
        return Scale(0.0, high * 1.08 or 1.0, first, last, log=False)
    margin = (high - low) * 0.04 or 1.0
    return Scale(low - margin, high + margin, first, last, log=False)


def spell_number(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2e}"


def unit_of(figure: str) -> str:
    """Of a fact's name: ``p50Ms`` is in ms."""
    return {"rate": "/s"}.get(figure, "ms" if figure.endswith(("Ms", "ms")) else "")


def spell_figure(figure: str) -> str:
    """A fact's name in words."""
    words = {
        "p50Ms": "half are faster than, ms",
        "p90Ms": "90 of 100 are faster than, ms",
        "p99Ms": "99 of 100 are faster than, ms",
        "maxMs": "the slowest, ms",
        "ms": "time, ms",
        "rate": "connections a second",
        "errors": "connections that failed",
    }
    return words.get(figure, figure)
