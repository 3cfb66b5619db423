"""Figures of a run, each a function from results to a Matplotlib figure.

Figures are made through Matplotlib's objects and never through pyplot, so that
drawing needs no display and leaves no global state behind.
"""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

CLASSIFIERS = {
    'cnn': 'CNN',
    'nme': 'NME',
    'finetuned': 'fine-tuned',
    'oracle': 'oracle',
}

# Okabe and Ito's colours, which colour-blind readers tell apart.
_STYLES = {
    'cnn': ('#0072B2', 'o'),
    'nme': ('#D55E00', 's'),
    'finetuned': ('#009E73', '^'),
    'oracle': ('#666666', 'x'),
}
_INK = '#333333'
_LEGEND = {'frameon': False, 'fontsize': 9, 'labelcolor': _INK}
_DPI = 200

# Stages with a loss: the title, and what is drawn over what.
_STAGES = {
    'train': ('Training', 'loss', 'epoch'),
    'learn': ('Learning new exemplars', 'outer_loss', 'step'),
    'adjust': ('Adjusting old exemplars', 'outer_loss', 'step'),
    'finetune': ('Fine-tuning on exemplars', 'loss', 'epoch'),
}

MAX_CLASSES = 50
MAX_PER_CLASS = 10
_CLASSES_IN_COLUMN = 25
_TILE = 64  # Pixels of the figure that an exemplar takes, about.
_EXEMPLAR_DPI = 150


def percent(fraction: float) -> str:
    """A fraction in percent with a decimal; 'n/a' for NaN."""
    return 'n/a' if math.isnan(fraction) else f'{100 * fraction:.1f}'


def names_in_order(results: dict[str, Any]) -> list[str]:
    """Names of the classes seen, in the order in which they came."""
    num_seen = results['phases'][-1]['num_seen']
    names = results['class_names']
    return [str(names[k]) for k in results['class_order'][:num_seen]]


def accuracy(results: dict[str, Any]) -> Figure:
    """Accuracy over classes seen, a line for each classifier."""
    figure = Figure(figsize=(5.4, 3.3), dpi=_DPI, layout='constrained')
    ax = figure.subplots()
    phases = results['phases']
    seen = [phase['num_seen'] for phase in phases]
    averages = results['average_incremental_accuracy']
    for name in phases[0]['accuracy']:
        judged = name == results['predictor']
        ax.plot(
            seen,
            [100 * phase['accuracy'][name] for phase in phases],
            color=_STYLES[name][0],
            marker=_STYLES[name][1],
            markersize=6 if judged else 4.5,
            linewidth=2.4 if judged else 1.3,
            zorder=3 if judged else 2,
            clip_on=False,
            label=f'{CLASSIFIERS[name]}, average {percent(averages[name])} %',
        )
    _tidy(ax, 'classes seen', 'accuracy on classes seen (%)')
    ax.set_xticks(_thinned(seen, 12))
    ax.set_ylim(*_percent_limits(ax))
    ax.legend(**_LEGEND)
    return figure


def confusion(results: dict[str, Any]) -> Figure:
    """Confusion matrix of the judged classifier after the last phase."""
    counts = np.asarray(
        results['phases'][-1]['confusion'][results['predictor']], float
    )
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = names_in_order(results)
    figure = Figure(figsize=(5.4, 4.6), dpi=_DPI, layout='constrained')
    ax = figure.subplots()
    # The square root makes rare confusions visible beside the diagonal.
    norm = PowerNorm(0.5, 0, 100)
    shown = ax.imshow(share, cmap='Blues', norm=norm, interpolation='nearest')
    _tidy(ax, 'predicted class', 'true class', grid=False)
    if len(names) <= 25:
        labels = [_label(name) for name in names]
        ax.set_xticks(range(len(names)), labels)
        ax.set_yticks(range(len(names)), labels)
        if max(map(len, labels)) > 2:
            ax.tick_params(axis='x', rotation=90)
    for bound in phase_lines(results):
        for line in (ax.axhline, ax.axvline):
            line(bound - 0.5, color='#999999', linewidth=0.7)
    if len(names) <= 12:
        _write_numbers(ax, share, norm)
    bar = figure.colorbar(shown, ax=ax, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label('share of the true class (%)', fontsize=10, color=_INK)
    bar.ax.tick_params(labelsize=9, colors=_INK)
    bar.outline.set_visible(False)
    return figure


def phase_lines(results: dict[str, Any]) -> list[int]:
    """Where `confusion` parts classes: all phases, or the first from the rest.

    With many phases the lines would hide what they part.
    """
    bounds = [phase['num_seen'] for phase in results['phases'][:-1]]
    return bounds if len(bounds) <= 10 else bounds[:1]


def exemplars(
    results: dict[str, Any], images: np.ndarray, mask: np.ndarray
) -> Figure:
    """Grid of the stored exemplars, a row for each class, best first.

    With many classes, those shown are evenly spaced in the order of arrival.
    The layout is in whole pixels, so that each pixel of an exemplar is a square
    of equal size.

    Args:
        results: content of `results.json`.
        images: uint8 or float in [0, 1], [n, m, H, W, C].
        mask: bool[n, m].
    """
    rows = np.arange(len(images))
    if len(rows) > MAX_CLASSES:
        rows = np.linspace(0, len(rows) - 1, MAX_CLASSES).round().astype(int)
    names = names_in_order(results)
    labels = [_label(names[row]) for row in rows]
    num_columns = math.ceil(len(rows) / _CLASSES_IN_COLUMN)
    num_rows = math.ceil(len(rows) / num_columns)
    pieces = [slice(i, i + num_rows) for i in range(0, len(rows), num_rows)]
    slots = min(MAX_PER_CLASS, mask.sum(1).max())
    mosaics = [
        mosaic(images[rows[piece], :slots], mask[rows[piece], :slots])
        for piece in pieces
    ]
    margin = 10
    indent = 20 + 12 * max(map(len, labels))  # Pixels of the longest label.
    height, width = mosaics[0].shape[:2]
    step = indent + width + margin
    size = np.array([step * len(pieces), height + 2 * margin])
    figure = Figure(figsize=size / _EXEMPLAR_DPI, dpi=_EXEMPLAR_DPI)
    for i, (piece, shown) in enumerate(zip(pieces, mosaics, strict=True)):
        low = margin + height - shown.shape[0]
        box = np.array([indent + i * step, low, width, shown.shape[0]])
        ax = figure.add_axes(box / np.tile(size, 2))
        _draw_rows(ax, shown, labels[piece])
    return figure


def _draw_rows(ax: Axes, shown: np.ndarray, labels: Sequence[str]) -> None:
    """Fills the axes with rows of images, a label beside each."""
    ax.imshow(shown, interpolation='nearest', aspect='auto')
    height = shown.shape[0] / len(labels)
    ax.set_yticks((np.arange(len(labels)) + 0.5) * height - 0.5, labels)
    ax.set_xticks([])
    _tidy(ax, '', '', grid=False)


def mosaic(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Exemplars side by side at about `_TILE` pixels each.

    Args:
        images: uint8 or float in [0, 1], [r, s, H, W, C]; other than 3 channels
            are shown as grey levels.
        mask: bool[r, s]; slots not masked in stay white.

    Returns:
        f32[r * h, s * w, 3] in [0, 1].
    """
    scale = 255 if images.dtype == np.uint8 else 1
    images = np.clip(images.astype(np.float32) / scale, 0, 1)
    if images.shape[-1] != 3:
        images = images.mean(-1, keepdims=True).repeat(3, -1)
    images = _resized(images)
    images = np.where(mask[..., None, None, None], images, 1)
    gap = ((0, 0), (0, 0), (3, 3), (3, 3), (0, 0))
    images = np.pad(images, gap, constant_values=1)
    r, s, h, w, _ = images.shape
    return images.transpose(0, 2, 1, 3, 4).reshape(r * h, s * w, 3)


def with_loss(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that `learning` draws."""
    return [
        record
        for record in records
        if record['stage'] in _STAGES and _STAGES[record['stage']][1] in record
    ]


def learning(records: Sequence[dict[str, Any]]) -> Figure:
    """Loss curves: a panel for each stage that ran, a line for each phase.

    Args:
        records: of `with_loss`, at least one.
    """
    stages = [s for s in _STAGES if any(r['stage'] == s for r in records)]
    phases = sorted({record['phase'] for record in records})
    grid = math.ceil(len(stages) / 2), min(2, len(stages))
    size = (5.4, 2.3 * grid[0] + 0.4)
    figure = Figure(figsize=size, dpi=_DPI, layout='constrained')
    axes = figure.subplots(*grid, squeeze=False).ravel()
    shades = np.linspace(0, 0.8, max(2, len(phases)))
    colors = matplotlib.colormaps['viridis'](shades)
    for stage, ax in zip(stages, axes, strict=False):
        lines = []
        for phase, color in zip(phases, colors, strict=False):
            of = stage, phase
            own = [r for r in records if (r['stage'], r['phase']) == of]
            lines += _draw_curve(ax, own, stage, color)
    shown = _thinned(range(len(phases)), 5)
    words = [lines[i] for i in shown], [f'phase {phases[i]}' for i in shown]
    if len(stages) < len(axes):
        axes[-1].set_axis_off()
        axes[-1].legend(*words, loc='center', **_LEGEND)
    else:
        figure.legend(*words, loc='outside lower center', ncols=5, **_LEGEND)
    return figure


def _draw_curve(
    ax: Axes, records: Sequence[dict[str, Any]], stage: str, color: np.ndarray
) -> list[Line2D]:
    """A stage of a phase; a line without points where it did not run."""
    title, value, where = _STAGES[stage]
    x = [1 + record.get(where, i) for i, record in enumerate(records)]
    y = [record[value] for record in records]
    _tidy(ax, where.replace('step', 'outer step'), value.replace('_', ' '))
    ax.set_title(title, fontsize=10, color=_INK, loc='left')
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    marker = 'o' if len(x) == 1 else ''
    return ax.plot(x, y, color=color, lw=1.5, marker=marker, markersize=4)


def _resized(images: np.ndarray) -> np.ndarray:
    """[r, s, H, W, C] shrunk by block means or enlarged, by a whole factor."""
    r, s, h, w, c = images.shape
    longest = max(h, w)
    if longest > _TILE:
        by = math.ceil(longest / _TILE)
        images = images[:, :, : h // by * by, : w // by * by]
        return images.reshape(r, s, h // by, by, w // by, by, c).mean((3, 5))
    by = round(_TILE / longest)
    return images.repeat(by, 2).repeat(by, 3)


def _tidy(ax: Axes, xlabel: str, ylabel: str, *, grid: bool = True) -> None:
    """Labels and no more ink than they need."""
    ax.set_xlabel(xlabel, fontsize=10, color=_INK)
    ax.set_ylabel(ylabel, fontsize=10, color=_INK)
    ax.tick_params(length=0, labelsize=9, colors=_INK)
    ax.spines[:].set_visible(False)
    if grid:
        ax.spines['bottom'].set(visible=True, color='#999999')
        ax.grid(axis='y', color='#e4e4e4', linewidth=0.8)
        ax.set_axisbelow(True)


def _percent_limits(ax: Axes) -> tuple[float, float]:
    """Limits that show at least ten points and nothing beyond 0..100."""
    values = np.concatenate([line.get_ydata() for line in ax.get_lines()])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0, 100
    margin = max(1, 0.08 * np.ptp(values))
    high = min(100, values.max() + margin)
    return max(0, min(values.min() - margin, high - 10)), high


def _write_numbers(ax: Axes, share: np.ndarray, norm: PowerNorm) -> None:
    """Writes each share that does not round to 0 into its field."""
    for row, column in np.argwhere(share.round() > 0):
        value = share[row, column]
        color = 'white' if norm(value) > 0.6 else _INK
        text = ax.text(column, row, f'{value:.0f}', color=color, fontsize=8)
        text.set(ha='center', va='center')


def _thinned(values: Sequence[int], most: int) -> Sequence[int]:
    """At most `most` of the values, at even steps from the first."""
    return values[:: math.ceil(len(values) / most)]


def _label(name: str) -> str:
    """A class name as a label: short, and with no mathematics in it."""
    short = name if len(name) <= 18 else name[:17] + '\N{HORIZONTAL ELLIPSIS}'
    return short.replace('$', r'\$')
