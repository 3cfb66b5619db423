"""Lines over phases: accuracy, and the drift of exemplars."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnemonics_jax.report.figures import style


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        name: name in the legend.
        x: horizontal positions of the points.
        y: vertical positions of the points; NaN for a missing point.
        strong: whether it is drawn thicker than others.
        style: index of its colour and marker.
        spread: half the height of a band around the line at each point; None
            for no band.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    strong: bool
    style: int
    spread: Sequence[float] | None = None


class Published(NamedTuple):
    """Curves of the paper.

    Attributes:
        seen: number of classes seen after each phase.
        curves: accuracy in percent, by method.
    """

    seen: Sequence[int]
    curves: Mapping[str, Sequence[float]]


def accuracy(
    panels: Mapping[str, Sequence[Line]],
    published: Published | None,
    main: str,
) -> Figure:
    """Accuracy over classes seen, a panel for each title.

    Args:
        panels: lines in percent, by title; a single panel has no title.
        published: curves to draw behind the lines, if any.
        main: title of the panel with these curves.
    """
    drawn, axes = style.panels(len(panels), 3.3)
    if published is not None:
        # Names stand beside its curves.
        drawn.set_size_inches(drawn.get_figwidth() + 1, drawn.get_figheight())
    for ax, (name, lines) in zip(axes, panels.items(), strict=False):
        style.tidy(ax, 'classes seen', 'accuracy (%)')
        if len(panels) > 1:
            style.title(ax, name)
        for line in lines:
            _draw(ax, line)
        seen = max((line.x for line in lines), key=len)
        ax.set_xticks(style.thinned(list(seen), 8))
        if name == main and published is not None:
            _draw_published(ax, published)
    if len(panels) == 1:
        axes[0].legend(loc='lower left', **style.LEGEND)
    else:
        style.legend_below(drawn, axes)
    axes[0].set_ylim(*_percent_limits(axes, 0.22 if len(panels) == 1 else 0))
    return drawn


def _draw(ax: Axes, line: Line) -> None:
    if line.spread is not None:
        middle, half = np.asarray(line.y), np.asarray(line.spread)
        ax.fill_between(
            line.x,
            middle - half,
            middle + half,
            color=style.color(line.style),
            alpha=0.18,
            linewidth=0,
            zorder=2,
        )
    ax.plot(
        line.x,
        line.y,
        color=style.color(line.style),
        marker=style.marker(line.style),
        markersize=6 if line.strong else 4.5,
        linewidth=2.4 if line.strong else 1.3,
        linestyle='-' if line.style < len(style.COLORS) else '--',
        zorder=4 if line.strong else 3,
        clip_on=False,
        label=style.plain(line.name),
    )


def _draw_published(ax: Axes, published: Published) -> None:
    """Grey lines, with their names at the right ends, which do not overlap."""
    seen, curves = published
    low = min(min(y) for y in curves.values())
    high = max(max(y) for y in curves.values())
    places = apart([y[-1] for y in curves.values()], (high - low) / 14)
    for (name, y), place in zip(curves.items(), places, strict=True):
        ax.plot(seen, y, color='#a9adb3', linewidth=1.1, zorder=2)
        ax.annotate(
            style.plain(name),
            (seen[-1], place),
            xytext=(5, 0),
            textcoords='offset points',
            fontsize=8,
            color='#6d7278',
            va='center',
            annotation_clip=False,
        )
    ax.plot([], [], color='#a9adb3', lw=1.1, label='paper, digitised')


def apart(values: Sequence[float], least: float) -> list[float]:
    """Positions near the values, in their order, at least `least` apart."""
    order = np.argsort(values)
    places = np.asarray(values, float)[order]
    for _ in range(100):
        gaps = np.diff(places)
        if not np.any(gaps < least - 1e-9):
            break
        for i in np.flatnonzero(gaps < least - 1e-9):
            push = (least - (places[i + 1] - places[i])) / 2
            places[i] -= push
            places[i + 1] += push
    found = np.empty_like(places)
    found[order] = places
    return found.tolist()


def _percent_limits(axes: Sequence[Axes], room: float) -> tuple[float, float]:
    """Limits that show at least ten points and nothing beyond 0..100.

    Args:
        axes: axes that share the limits.
        room: room for a legend below the lines, as a share of the height.
    """
    lines = [line for ax in axes for line in ax.get_lines()]
    bands = [band for ax in axes for band in ax.collections]
    values = np.concatenate(
        [np.asarray(x.get_ydata(), float) for x in lines]
        + [
            np.asarray(path.vertices)[:, 1]
            for b in bands
            for path in b.get_paths()
        ]
    )
    values = values[np.isfinite(values)]
    if not values.size:
        return 0, 100
    margin = max(1, 0.08 * np.ptp(values))
    high = min(100, values.max() + margin)
    low = min(values.min() - margin, high - 10)
    return max(0, low - room * (high - low)), high


def drift(panels: Mapping[str, Mapping[int, tuple[Any, ...]]]) -> Figure:
    """Distance from the images as selected, a line for each phase of arrival.

    Args:
        panels: by run and phase of arrival, phases and the mean change of a
            pixel after each, in grey levels.
    """
    drawn, axes = style.panels(len(panels), 2.9)
    for ax, (name, lines) in zip(axes, panels.items(), strict=False):
        style.tidy(ax, 'after phase', 'drift (grey levels)')
        if len(panels) > 1:
            style.title(ax, name)
        named = style.thinned(sorted(lines), 5)
        for (phase, (x, y)), shade in zip(
            sorted(lines.items()), style.shades(len(lines)), strict=False
        ):
            words = f'classes of phase {phase}' if phase in named else None
            ax.plot(x, y, color=shade, marker='o', markersize=4, label=words)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.legend(**style.LEGEND)
    # Last, because the panels share it: set earlier, it would fit one panel.
    axes[0].set_ylim(bottom=0)
    return drawn
