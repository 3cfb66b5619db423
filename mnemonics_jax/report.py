"""Results as lines, as a table, and as figures on one HTML page.

    python -m mnemonics_jax.report WORKDIR

writes `figures/*.png` and `report.html` of a run, finished or not, anew, also
of one in a bucket.
"""

import argparse
import json
import pathlib
import sys
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mnemonics_jax import figures, page
from mnemonics_jax.figures import CLASSIFIERS, percent
from mnemonics_jax.progress import read_records, write_atomically
from mnemonics_jax.workdir import Workdir, exemplars_name


def phase_line(phase: dict[str, Any]) -> str:
    """A finished phase in a line.

    Args:
        phase: an entry of 'phases' in `results.json`.
    """
    parts = [f'phase {phase["phase"]}: {phase["num_seen"]} classes']
    parts += [
        f'{CLASSIFIERS[name]} {percent(value)} %'
        for name, value in phase['accuracy'].items()
    ]
    held = phase['exemplars']
    if 'held_out_loss_before' in held:
        parts.append(f'drift {held["drift_grey_levels"]:.1f} grey levels')
        parts.append(
            f'held-out loss {held["held_out_loss_before"]:.3f} -> '
            f'{held["held_out_loss_after"]:.3f}'
        )
    parts.append(f'{phase["seconds"]["total"]:.1f} s')
    return ', '.join(parts)


def table(results: dict[str, Any]) -> str:
    """The final table, at most 80 columns wide.

    Args:
        results: content of `results.json`.
    """
    method = results['config']['method']['name']
    names = results['phases'][0]['accuracy']
    titles = _columns(
        {name: CLASSIFIERS[name] for name in names},
        judged=results['predictor'],
    )
    lines = [
        f'{"":28}{"accuracy, %":>{len(titles)}}{"memory":>17}',
        f'{"phase":5}{"classes seen":>14}{"":9}{titles}'
        f'{"images":>7}{"bytes":>10}{"seconds":>9}',
        '-' * (54 + len(titles)),
    ]
    for phase in results['phases']:
        held = phase['exemplars']
        lines.append(
            f'{phase["phase"]:>5}{phase["num_seen"]:>14}{"":9}'
            f'{_percents(phase["accuracy"])}{held["count"]:>7,}'
            f'{num_bytes(held["bytes"]):>10}{phase["seconds"]["total"]:>9.1f}'
        )
    lines.append(lines[2])
    for key, title, _, _ in page.MEASURES:
        lines.append(f'{title:28}{_percents(results[key])}'.rstrip())
    lines += [
        f'* the classifier by which {method} is judged',
        'forgetting: points lost on the classes of phase 0 from first to last '
        'model (F)',
        'max forgetting: points lost since the best past model, mean of phases',
        *page.incomplete(results),
    ]
    return '\n'.join(lines)


def _percents(values: Mapping[str, float]) -> str:
    return _columns({name: percent(value) for name, value in values.items()})


def _columns(cells: Mapping[str, str], judged: str = '') -> str:
    """The cells of the classifiers, that of the judged one with a mark."""
    return ''.join(
        f'{cell:>{max(6, len(CLASSIFIERS[name]) + 1)}}'
        f'{"*" * (name == judged):1}'
        for name, cell in cells.items()
    )


def num_bytes(count: int) -> str:
    """Bytes in at most nine characters: '1,280', '3.01 GB'."""
    if count < 10_000_000:
        return f'{count:,}'
    units = {'MB': 10**6, 'GB': 10**9, 'TB': 10**12}
    unit = next((u for u in units if count < 1000 * units[u]), 'TB')
    return f'{count / units[unit]:.3g} {unit}'


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes the figures and the page of a run.

    Args:
        workdir: of the run; files other than `results.json` may be missing, and
            the page says so.

    Returns:
        The path of the page.

    Raises:
        ValueError: there is no `results.json`, or it is not one.
        OSError: the work directory cannot be written.
    """
    results = read_results(workdir)
    missing: list[str] = []
    drawn = draw(workdir, results, missing)
    folder = workdir / 'figures'
    folder.mkdir(exist_ok=True)
    pngs = {}
    for name, figure in drawn.items():
        path = folder / f'{name}.png'
        draft = path.with_name(path.name + '.tmp')
        figure.savefig(draft, format='png')
        draft.replace(path)
        pngs[name] = path.read_bytes()
    setup = None
    if (workdir / 'config.json').exists():
        setup = json.loads((workdir / 'config.json').read_text())
    path = workdir / 'report.html'
    write_atomically(path, page.render(results, setup, pngs, missing))
    return path


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """Content of `results.json`; see `write` for what it raises."""
    path = workdir / 'results.json'
    try:
        results = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f'{path}: no such file; allowed: the work directory of a run with '
            'at least one finished phase'
        ) from error
    except ValueError as error:
        raise ValueError(f'{path}: not JSON: {error}') from error
    if not isinstance(results, dict) or not results.get('phases'):
        raise ValueError(f'{path}: not the results of a run')
    return results


def draw(
    workdir: pathlib.Path, results: dict[str, Any], missing: list[str]
) -> dict[str, Figure]:
    """Figures by name; what they lack is appended to `missing`."""
    drawn = {
        'accuracy': figures.accuracy(results),
        'confusion': figures.confusion(results),
    }
    name = exemplars_name(results['phases'][-1]['phase'])
    try:
        # NumPy leaves a file open that it cannot read.
        with (workdir / name).open('rb') as file, np.load(file) as stored:
            images, mask = stored['images'], stored['mask']
    except FileNotFoundError:
        missing.append(f'{name} is missing: no picture of the exemplars.')
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        missing.append(f'{name} cannot be read: no picture of the exemplars.')
    else:
        drawn['exemplars'] = figures.exemplars(results, images, mask)
    records = figures.with_loss(read_records(workdir / 'metrics.jsonl'))
    if records:
        drawn['learning'] = figures.learning(records)
    else:
        missing.append(
            'metrics.jsonl is missing or holds no loss: no loss curves.'
        )
    return drawn


def write_anew(workdir: str) -> str:
    """As `write`, of a work directory that may be in a bucket."""
    with Workdir(workdir) as place:
        for name in ('config.json', 'metrics.jsonl', 'results.json'):
            place.fetch(name)
        try:
            phases = read_results(place.local)['phases']
        except ValueError as error:
            raise ValueError(place.shown(error)) from error
        place.fetch(exemplars_name(phases[-1]['phase']))
        return place.shown(write(place.local))


def main(argv: Sequence[str]) -> int:
    """Writes the report of the work directory in `argv`; the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m mnemonics_jax.report',
        description='Writes the figures and the report of a run anew.',
    )
    parser.add_argument('workdir', metavar='WORKDIR')
    workdir = parser.parse_args(argv).workdir
    try:
        print(write_anew(workdir))
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'error: {workdir}: {error.strerror or error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
