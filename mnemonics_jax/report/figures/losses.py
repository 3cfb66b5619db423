"""Loss curves of models and of both levels of exemplar learning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mnemonics_jax.report.figures import style

# Panels: stage, value, horizontal axis, title.
_PANELS = (
    ('train', 'loss', 'epoch', 'Training'),
    ('finetune', 'loss', 'epoch', 'Fine-tuning on exemplars'),
    ('learn', 'outer_loss', 'step', 'Learning: outer, on query images'),
    ('learn', 'inner_loss', 'step', 'Learning: inner, on exemplars'),
    ('adjust', 'outer_loss', 'step', 'Adjusting: outer, on the other half'),
    ('adjust', 'inner_loss', 'step', 'Adjusting: inner, on one half'),
)


def panels(records: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The panels that `learning` draws for these records."""
    return [
        panel
        for panel in _PANELS
        if any(_has(record, *panel[:2]) for record in records)
    ]


def _has(record: dict[str, Any], stage: str, value: str) -> bool:
    """Whether the record is of this stage and has a number for the value."""
    number = isinstance(record.get(value), int | float)
    return record['stage'] == stage and number


def learning(records: Sequence[dict[str, Any]]) -> Figure:
    """Loss curves: a panel for each kind of loss, a line for each phase.

    Args:
        records: lines of `metrics.jsonl`, with at least one panel.
    """
    shown = panels(records)
    stages = {stage for stage, *_ in shown}
    records = [r for r in records if r['stage'] in stages]
    phases = sorted({record['phase'] for record in records})
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    drawn = style.figure(5 if columns == 1 else 8, 2.3 * rows + 0.4)
    axes = drawn.subplots(rows, columns, squeeze=False).ravel()
    colors = style.shades(len(phases))
    lines: list[Line2D] = []
    for panel, ax in zip(shown, axes, strict=False):
        lines = [
            _draw(ax, [r for r in records if r['phase'] == phase], panel, color)
            for phase, color in zip(phases, colors, strict=False)
        ]
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    named = style.thinned(range(len(phases)), 6)
    drawn.legend(
        [lines[i] for i in named],
        [f'phase {phases[i]}' for i in named],
        loc='outside lower center',
        ncols=6,
        **style.LEGEND,
    )
    return drawn


def _draw(
    ax: Axes,
    records: Sequence[dict[str, Any]],
    panel: tuple[str, ...],
    color: np.ndarray,
) -> Line2D:
    """A panel's line of a phase; without points if the stage did not run."""
    stage, value, where, title = panel
    own = [record for record in records if _has(record, stage, value)]
    x = [1 + record.get(where, i) for i, record in enumerate(own)]
    style.tidy(ax, where.replace('step', 'outer step'), value.replace('_', ' '))
    style.title(ax, title)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    marker = 'o' if len(x) == 1 else ''
    (line,) = ax.plot(
        x,
        [record[value] for record in own],
        color=color,
        lw=1.5,
        marker=marker,
        markersize=4,
    )
    return line
