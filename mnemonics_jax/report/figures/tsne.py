"""t-SNE of features, as in the paper's Figures 1 and 5.

Images of a few classes in light colours, their exemplars in dark ones, and the
mean of every other class as a grey cross.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import threadpoolctl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mnemonics_jax.core.text import shortened
from mnemonics_jax.report.figures import style

MAX_CHOSEN = 5
MAX_IMAGES = 100  # Per chosen class.
MAX_EXEMPLARS = 50  # Per chosen class.
MAX_OTHERS = 200  # Means of other classes.
MAX_HIDDEN = 400  # Images of other classes, in total.
_PERPLEXITY = 30
_ITERATIONS = 500


class Points(NamedTuple):
    """Features of a phase and their meaning.

    Attributes:
        features: features [n, D].
        labels: index in `names`, int[n]; -1 for a mean of another class, -2
            for an image of another class, which is not drawn.
        is_exemplar: whether each is an exemplar, bool[n].
        names: names of the chosen classes.
    """

    features: np.ndarray
    labels: np.ndarray
    is_exemplar: np.ndarray
    names: Sequence[str]


def gather(stored: Mapping[str, np.ndarray], chosen: Sequence[int]) -> Points:
    """The points of a picture, at most a bounded number.

    Args:
        stored: content of `features/phase_<i>.npz`.
        chosen: indices of the classes in colour.
    """
    parts, labels, flags = [], [], []

    def add(features, label, is_exemplar):
        parts.append(np.asarray(features, np.float32))
        labels.append(np.full(len(features), label))
        flags.append(np.full(len(features), is_exemplar))

    for i, row in enumerate(chosen):
        own = stored['features'][stored['labels'] == row]
        add(own[style.spread(len(own), MAX_IMAGES)], i, False)
        held = stored['exemplars'][row][stored['mask'][row]]
        add(held[:MAX_EXEMPLARS], i, True)
    others = np.setdiff1d(np.arange(len(stored['means'])), chosen)
    others = others[style.spread(len(others), MAX_OTHERS)]
    add(stored['means'][others], -1, False)
    # A mean without images around it would have an arbitrary position.
    hidden = np.flatnonzero(np.isin(stored['labels'], others))
    hidden = hidden[style.spread(len(hidden), MAX_HIDDEN)]
    add(stored['features'][hidden], -2, False)
    return Points(
        np.concatenate(parts),
        np.concatenate(labels),
        np.concatenate(flags),
        [str(stored['class_names'][row]) for row in chosen],
    )


def embed(features: np.ndarray) -> np.ndarray:
    """Deterministic t-SNE of features, f32[n, 2]."""
    # Imported late, because it takes a second and most uses do not need it.
    from sklearn.manifold import TSNE

    n = len(features)
    if n < 4 or np.ptp(features, axis=0).max() == 0:
        return np.zeros((n, 2), np.float32)
    tsne = TSNE(
        perplexity=min(_PERPLEXITY, max(1, (n - 1) / 3)),
        init='pca' if min(features.shape) >= 2 else 'random',
        max_iter=_ITERATIONS,
        random_state=0,
        n_jobs=1,
    )
    # One thread: several would add in no fixed order.
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
        # A warning on equal points, which a phase may have.
        warnings.simplefilter('ignore', RuntimeWarning)
        return tsne.fit_transform(features)


def embedding(rows: Mapping[str, Mapping[str, Points]]) -> Figure:
    """Pictures by t-SNE, a row for each run, a column for each phase.

    Args:
        rows: points by run and title, such as 'phase 3, 10 classes'.
    """
    num = max(len(columns) for columns in rows.values())
    size = 4.4 if num == 1 else 7.6
    drawn = style.figure(size, 3.6 * len(rows) + 0.4)
    axes = drawn.subplots(len(rows), num, squeeze=False)
    shown: dict[str, None] = {}
    for line, (run, columns) in zip(axes, rows.items(), strict=True):
        for ax in line[len(columns) :]:
            ax.set_axis_off()
        for ax, (title, points) in zip(line, columns.items(), strict=False):
            _draw(ax, points)
            name = shortened(run, 20)
            words = f'{name}: {title}' if len(rows) > 1 else title
            style.title(ax, words)
            shown |= dict.fromkeys(points.names)
    lines, names = _legend(list(shown))
    drawn.legend(
        lines,
        names,
        loc='outside lower center',
        ncols=4,
        **style.LEGEND,
    )
    return drawn


def _draw(ax: Axes, points: Points) -> None:
    """One picture; its axes have no unit and hence no numbers."""
    xy = embed(points.features)
    for i, _ in enumerate(points.names):
        own = points.labels == i
        for flag in (False, True):
            x, y = xy[own & (points.is_exemplar == flag)].T
            ax.scatter(
                x,
                y,
                s=26 if flag else 9,
                c=[strong(i) if flag else faint(i)],
                marker=style.marker(i),
                linewidths=0.7 if flag else 0,
                edgecolors='white' if flag else 'none',
                zorder=3 if flag else 2,
            )
    x, y = xy[points.labels == -1].T
    ax.scatter(
        x,
        y,
        s=24,
        c='#999999',
        marker='x',
        zorder=1,
        lw=1,
    )
    ax.set(xticks=[], yticks=[])
    ax.margins(0.05)
    for spine in ax.spines.values():
        spine.set(color=style.GRID)


def strong(i: int) -> tuple[float, ...]:
    """Colour of the exemplars of the i-th class."""
    return tuple(0.8 * np.array(to_rgb(style.color(i))))


def faint(i: int) -> tuple[float, ...]:
    """Colour of the images of the i-th class."""
    return tuple(0.4 * np.array(to_rgb(style.color(i))) + 0.6)


def _legend(names: Sequence[str]) -> tuple[list[Line2D], list[str]]:
    def point(i, color, size):
        return Line2D(
            [], [], ls='', marker=style.marker(i), color=color, ms=size
        )

    handles = [point(i, strong(i), 6) for i in range(len(names))]
    handles += [point(0, '#c4c4c4', 4), point(0, '#555555', 6)]
    handles.append(Line2D([], [], ls='', marker='x', color='#999999'))
    words = [style.label(name) for name in names]
    return handles, [*words, 'test image', 'exemplar', 'other class']
