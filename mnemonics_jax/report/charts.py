"""The charts of results, each with its caption and alternative text."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from mnemonics_jax.core.text import TITLES, counted, percent
from mnemonics_jax.report import groups, paper_protocol, published
from mnemonics_jax.report.figures import confusion as confusion_figure
from mnemonics_jax.report.figures import curves
from mnemonics_jax.report.figures import losses as loss_figure
from mnemonics_jax.report.groups import Group
from mnemonics_jax.report.runs import Run

# Index of colour and marker of each classifier.
_STYLES = {'cnn': 0, 'nme': 1, 'finetuned': 2, 'oracle': 6}


class Picture(NamedTuple):
    """A figure of the page.

    Attributes:
        drawn: the figure.
        caption: what it shows.
        alt: text for readers who do not see it.
        chart: whether dark mode may swap light and dark.
    """

    drawn: Figure
    caption: str
    alt: str
    chart: bool = True


def classifiers(runs: Sequence[Run]) -> list[str]:
    """Classifiers of any of the runs, in the usual order."""
    known = {name for run in runs for name in run.phases[0]['accuracy']}
    return [name for name in TITLES if name in known]


def accuracy(grouped: Sequence[Group]) -> Picture:
    """Accuracy over classes seen; all runs have results."""
    runs = [run for group in grouped for run in group.runs]
    names = classifiers(runs)
    if len(runs) == 1:
        panels = {'': [_line(grouped[0], name) for name in names]}
        main = ''
    else:
        panels = {
            TITLES[name]: [
                _line(group, name, i)
                for i, group in enumerate(grouped)
                if name in group.first.phases[0]['accuracy']
            ]
            for name in names
        }
        main = TITLES[runs[0].results['predictor']]
    behind = _published(runs)
    caption = 'Accuracy on all classes seen so far, after each phase.'
    if groups.averaged(grouped):
        caption += (
            ' Lines: means over seeds. Bands: one standard deviation on either '
            'side.'
        )
    if len(runs) == 1:
        name = TITLES[runs[0].results['predictor']]
        caption += f' Thick line: {name}, by which the method is evaluated.'
    if behind is not None:
        caption += _of_paper(runs)
    words = '; '.join(map(_in_words, grouped))
    return Picture(
        curves.accuracy(panels, behind, main),
        caption,
        f'Line chart of accuracy over classes seen. {words}.',
    )


def _line(group: Group, name: str, style: int | None = None) -> curves.Line:
    """A classifier's line; named by the group if that has a `style`."""
    first = group.first
    average = first.results.get('average_incremental_accuracy', {}).get(name)
    title = f'{TITLES[name]}, average {percent(average)} %'
    found = [
        groups.summary(
            [run.phases[i]['accuracy'].get(name) for run in group.runs]
        )
        for i in range(len(first.phases))
    ]
    return curves.Line(
        title if style is None else group.name,
        [phase['num_seen'] for phase in first.phases],
        [_in_percent(mean) for mean, _ in found],
        style is not None or name == first.results['predictor'],
        _STYLES[name] if style is None else style,
        [100 * spread for _, spread in found] if len(group.runs) > 1 else None,
    )


def _in_percent(fraction: float | None) -> float:
    return float('nan') if fraction is None else 100 * fraction


def _in_words(group: Group) -> str:
    name, phases = group.first.results['predictor'], group.first.phases
    first, last = (
        groups.spread_text(
            [run.phases[i]['accuracy'].get(name) for run in group.runs]
        )
        for i in (0, -1)
    )
    return (
        f'{group.name}, {TITLES[name]}: {first} % with '
        f'{phases[0]["num_seen"]}, {last} % with {phases[-1]["num_seen"]}'
    )


def protocol(run: Run) -> tuple[str, int]:
    """The data of a run by the paper's name, and N."""
    names = list(map(str, run.results['class_names']))
    phases = run.config['protocol']['phases']
    return published.data_name(run.config, names), phases


def _published(runs: Sequence[Run]) -> curves.Published | None:
    """The paper's curves, if all runs follow one protocol of the paper."""
    if any(paper_protocol.differences(run.results) for run in runs):
        return None
    if len({protocol(run) for run in runs}) > 1:
        return None
    data, phases = protocol(runs[0])
    base = runs[0].config['protocol']['base_classes']
    step = (len(runs[0].results['class_names']) - base) // phases
    return curves.Published(
        [base + i * step for i in range(phases + 1)],
        {c.method: c.accuracy for c in published.curves(data, phases)},
    )


def _of_paper(runs: Sequence[Run]) -> str:
    """What the caption says of the paper's curves behind the lines."""
    text = (
        ' Grey: curves digitised from Figure 4 of the paper, of the same '
        'protocol.'
    )
    doubtful = [
        c.method for c in published.curves(*protocol(runs[0])) if c.doubtful
    ]
    if doubtful:
        text += (
            f' The mean of its curve of {doubtful[0]} is not the average in '
            'Table 1, but that of the variant without adjustment in Table 2.'
        )
    own = {
        str(paper_protocol.curve_of(run.config['method']['name'], run.strategy))
        for run in runs
    }
    return f'{text} To compare with: {", ".join(sorted(own))}.'


def confusion(run: Run) -> Picture:
    """The confusion matrix of the predictor after the last phase."""
    name, phases, names = run.results['predictor'], run.phases, run.names
    bounds = [phase['num_seen'] for phase in phases[:-1]]
    every = len(confusion_figure.lines_between(bounds)) == len(bounds)
    lines = 'between phases' if every else 'after phase 0'
    title = TITLES[name]
    return Picture(
        confusion_figure.confusion(
            phases[-1]['confusion'][name], names, bounds
        ),
        f'Confusion matrix of {title} after the last phase: test images by '
        'true class (rows) and predicted class (columns), in percent of the '
        'true class. Classes are in the order in which they arrived, with '
        f'lines {lines}. Colours follow the square root of the share.',
        f'Confusion matrix of {title} over {counted(len(names), "class")}; '
        f'{percent(phases[-1]["accuracy"][name])} % of the images lie on the '
        'diagonal.',
    )


def losses(run: Run) -> Picture | None:
    """Loss curves of both levels, if any is recorded."""
    shown = loss_figure.panels(run.records)
    if not shown:
        return None
    levels = {value for _, value, _, _ in shown}
    caption = 'Loss of each stage, one line for each phase.'
    if 'outer_loss' in levels:
        caption += (
            ' Outer: loss of the temporary model on the query images. Inner: '
            'loss of the same model on the exemplars before its last step.'
        )
    if 'outer_loss' in levels and 'inner_loss' not in levels:
        caption += (
            ' metrics.jsonl has no inner_loss, so the inner level is not shown.'
        )
    titles = ', '.join(title.lower() for *_, title in shown)
    return Picture(
        loss_figure.learning(run.records),
        caption,
        f'Line charts of the loss over epochs and outer steps: {titles}.',
    )
