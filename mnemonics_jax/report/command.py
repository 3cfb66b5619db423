"""Results as lines, as a table, and as figures on one HTML page.

    python -m mnemonics_jax.report WORKDIR [WORKDIR ...] [--out=FOLDER]

writes `report.html` and `figures/` of a run, finished or not, anew, or of
several runs side by side. Work directories may be in a bucket.
"""

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mnemonics_jax.core.text import CLASSIFIERS, num_bytes, percent
from mnemonics_jax.core.workdir import (
    Workdir,
    address,
    phase_files,
    write_atomically,
)
from mnemonics_jax.report import page, runs, setup, tables
from mnemonics_jax.report.charts import Picture
from mnemonics_jax.report.figures import style
from mnemonics_jax.report.runs import Run

# Where runs are compared, beside their work directories.
COMPARISON = 'comparison'
_KINDS = ('png', 'svg')


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
    for key, title, _, _ in tables.MEASURES:
        lines.append(f'{title:28}{_percents(results[key])}'.rstrip())
    lines += [
        f'* the classifier by which {method} is judged',
        'forgetting: points lost on the classes of phase 0 from first to last '
        'model (F)',
        'max forgetting: points lost since the best past model, mean of phases',
        *setup.incomplete(results),
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


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes the figures and the page of a run into its work directory.

    Args:
        workdir: of the run; files may be missing, and the page says so.

    Returns:
        The path of the page.

    Raises:
        ValueError: there is no file of a run.
        OSError: the work directory cannot be written.
    """
    run = runs.read(workdir, runs.ALONE)
    return write_page([run], [str(workdir)], workdir)


def write_page(
    listed: Sequence[Run | None], paths: Sequence[str], out: pathlib.Path
) -> pathlib.Path:
    """Writes the figures and the page of one or several runs.

    Args:
        listed: by `runs.read`.
        paths: of their work directories, as they are called.
        out: the folder to write to, made if need be.

    Returns:
        The path of the page.

    Raises:
        ValueError: there is no file of any run.
        OSError: the folder cannot be written.
    """
    lost = [
        f'{path}: no file of a run there.'
        for run, path in zip(listed, paths, strict=True)
        if run is None
    ]
    found = [run for run in listed if run is not None]
    if not found:
        raise ValueError(
            f'{", ".join(paths)}: no config.json, metrics.jsonl or '
            'results.json; allowed: the work directory of a run'
        )
    pictures, notes = page.draw(found)
    pngs = _save(pictures, out / 'figures')
    path = out / 'report.html'
    shown = page.Gallery(pictures, pngs, notes)
    write_atomically(path, page.render(found, lost, shown))
    return path


def _save(
    pictures: Mapping[str, Picture], folder: pathlib.Path
) -> dict[str, bytes]:
    """Writes pictures as PNG and SVG; returns the former by name."""
    folder.mkdir(parents=True, exist_ok=True)
    pngs = {}
    for name, picture in pictures.items():
        content = {k: style.encoded(picture.drawn, k) for k in _KINDS}
        for kind, data in content.items():
            draft = folder / f'{name}.{kind}.tmp'
            draft.write_bytes(data)
            draft.replace(folder / f'{name}.{kind}')
        pngs[name] = content['png']
    return pngs


def default_out(paths: Sequence[str]) -> str:
    """Where the page goes: of one run with it, of several beside them."""
    if len(paths) == 1:
        return paths[0]
    if any(address(path) is not None for path in paths):
        return COMPARISON
    parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
    return os.path.relpath(
        os.path.join(os.path.commonpath(parents), COMPARISON)
    )


def write_anew(paths: Sequence[str], out: str | None = None) -> str:
    """Writes the page of work directories, which may be in a bucket.

    Args:
        paths: directories, or gs://BUCKET/FOLDER.
        out: as one of them; by default `default_out`.

    Returns:
        Where the page is.

    Raises:
        ValueError, OSError: see `write_page`.
    """
    out = default_out(paths) if out is None else out
    names = runs.label(paths) if len(paths) > 1 else [runs.ALONE]
    with contextlib.ExitStack() as stack:
        # One mirror where the page goes into the work directory itself.
        places = {path: Workdir(path) for path in {*paths, out}}
        for place in places.values():
            stack.enter_context(place)
        listed = []
        for path, name in zip(paths, names, strict=True):
            fetch(places[path])
            listed.append(runs.read(places[path].local, name))
        place = places[out]
        place.local.mkdir(parents=True, exist_ok=True)
        return place.shown(write_page(listed, paths, place.local))


def fetch(place: Workdir) -> None:
    """Gets what a page is made of, of a work directory in a bucket."""
    for name in ('config.json', 'metrics.jsonl', 'results.json'):
        place.fetch(name)
    run = runs.read(place.local, '')
    for phase in run.phases if run else ():
        for name in phase_files(phase['phase']):
            place.fetch(name)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line, by default that of the process; the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m mnemonics_jax.report',
        description='Writes the figures and the report of a run anew, or '
        'compares runs on one page.',
    )
    parser.add_argument('workdirs', metavar='WORKDIR', nargs='+')
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='where report.html and figures/ go; by default the work '
        f'directory, or {COMPARISON}/ beside several',
    )
    given = parser.parse_args(argv)
    try:
        print(write_anew(given.workdirs, given.out))
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        place = given.out or ', '.join(given.workdirs)
        print(f'error: {place}: {error.strerror or error}', file=sys.stderr)
        return 2
    return 0
