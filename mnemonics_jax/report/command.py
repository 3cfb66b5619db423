"""Results as lines, as a table, and as figures on one HTML page.

    python -m mnemonics_jax.report WORKDIR [WORKDIR ...] [--out=FOLDER]

writes `report.html`, `figures/` and tables as CSV and LaTeX of one run,
finished or not, or of several runs side by side. Work directories may be in a
bucket.
"""

import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from mnemonics_jax.core import cli, streams, system_errors
from mnemonics_jax.core.text import TITLES, counted, num_bytes, percent
from mnemonics_jax.core.workdir import (
    METRICS,
    RESULTS,
    SETUP,
    Workdir,
    address,
    phase_files,
    write_atomically,
)
from mnemonics_jax.report import files, groups, page, runs, setup, tables
from mnemonics_jax.report.charts import Picture
from mnemonics_jax.report.figures import style
from mnemonics_jax.report.runs import Run

# Folder of the page of several runs, beside their work directories.
COMPARISON = 'comparison'
# The measures of the table that a run prints.
_PRINTED = ('average_incremental_accuracy', 'forgetting', 'max_forgetting')
_KINDS = ('png', 'svg')
# Horizontal rules of ASCII below the head and between sections.
_RULES = rich.box.Box(
    '    \n    \n----\n    \n----\n    \n    \n    \n', ascii=True
)


def phase_line(phase: dict[str, Any]) -> str:
    """The results of a phase in one line.

    Args:
        phase: entry of 'phases' in `results.json`.
    """
    parts = [f'phase {phase["phase"]}: {phase["num_seen"]} classes']
    parts += [
        f'{TITLES[name]} {percent(value)} %'
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
    """The final table, in ASCII and at most 80 columns wide.

    Args:
        results: content of `results.json`.
    """
    method = results['config']['method']['name']
    names, predictor = results['phases'][0]['accuracy'], results['predictor']
    grid = rich.table.Table(box=_RULES, padding=0, show_edge=False)
    grid.add_column('accuracy (%)')
    titles = [TITLES[name] + '*' * (name == predictor) for name in names]
    for title in (*titles, 'exemplars', 'bytes', 'seconds'):
        grid.add_column(title, justify='right', no_wrap=True)
    for phase in results['phases']:
        held = phase['exemplars']
        grid.add_row(
            f'phase {phase["phase"]}: {counted(phase["num_seen"], "class")}',
            *(percent(phase['accuracy'][name]) for name in names),
            f'{held["count"]:,}',
            num_bytes(held['bytes']),
            f'{phase["seconds"]["total"]:.1f}',
        )
    grid.add_section()
    for measure in tables.MEASURES:
        if measure.key in _PRINTED:
            values = results[measure.key]
            grid.add_row(measure.title, *(percent(values[n]) for n in names))
    console = rich.console.Console(width=80, color_system=None, markup=False)
    with console.capture() as capture:
        console.print(grid)
    return '\n'.join(
        [
            *(line.rstrip() for line in capture.get().splitlines()),
            f'* the classifier by which {method} is evaluated',
            'forgetting: points lost on the classes of phase 0 from first to '
            'last model (F)',
            'max forgetting: points lost since the best past model, mean over '
            'phases',
            *setup.incomplete(results),
        ]
    )


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes the figures and the page of a run into its work directory.

    Args:
        workdir: work directory of the run; the page names missing files.

    Returns:
        The path of the page.

    Raises:
        ValueError: the directory holds no run.
        OSError: the work directory cannot be written.
    """
    run = runs.read(workdir, runs.ALONE)
    return write_page([run], [str(workdir)], workdir)


def write_page(
    listed: Sequence[Run | None], paths: Sequence[str], out: pathlib.Path
) -> pathlib.Path:
    """Writes the page of one or several runs, its figures and its tables.

    Args:
        listed: runs, as `runs.read` returns them.
        paths: names of their work directories for messages.
        out: folder to write to, made if missing.

    Returns:
        The path of the page.

    Raises:
        ValueError: none of the directories holds a run.
        OSError: the folder cannot be written.
    """
    lost = [
        f'{path}: no run there.'
        for run, path in zip(listed, paths, strict=True)
        if run is None
    ]
    found = [run for run in listed if run is not None]
    if not found:
        raise ValueError(
            f'{", ".join(paths)}: must be the work directory of a run, with '
            'a config.json, metrics.jsonl or results.json'
        )
    pictures, notes = page.draw(found)
    pngs = _save(pictures, out / 'figures')
    texts = files.written(groups.collect(found))
    for name, text in texts.items():
        write_atomically(out / name, text)
    path = out / 'report.html'
    write_atomically(
        path, page.render(found, lost, pictures, pngs, notes, texts)
    )
    return path


def _save(
    pictures: Mapping[str, Picture], folder: pathlib.Path
) -> dict[str, bytes]:
    """Writes pictures as PNG and SVG; returns the PNG files by name."""
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
    """Default folder of the page: a run's own, or one beside several runs."""
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
        out: directory or gs://BUCKET/FOLDER to write to; by default
            `default_out`.

    Returns:
        The path or address of the page.

    Raises:
        ValueError, OSError: see `write_page`.
    """
    out = default_out(paths) if out is None else out
    names = runs.label(paths) if len(paths) > 1 else [runs.ALONE]
    with contextlib.ExitStack() as stack:
        # A set: one mirror if the page goes into the work directory itself.
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
    """Downloads the files that a page reads, if they are in a bucket."""
    place.fetch_checked([SETUP, METRICS, RESULTS])
    run = runs.read(place.local, '')
    for phase in run.phases if run else ():
        for name in phase_files(phase['phase']):
            place.fetch(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: command line, by default that of the process.

    Returns:
        The exit status.
    """
    parser = cli.Parser(
        prog='python -m mnemonics_jax.report',
        description='Writes the figures and the report of a run, or of '
        'several runs side by side.',
    )
    parser.add_argument('workdirs', metavar='WORKDIR', nargs='+')
    parser.add_argument(
        '--out',
        metavar='FOLDER',
        help='folder of report.html and figures/; by default the work '
        f'directory, or {COMPARISON}/ beside several work directories',
    )
    given = parser.parse_args(argv)
    streams.prepare()
    line = None
    try:
        print(write_anew(given.workdirs, given.out), flush=True)
    except BrokenPipeError:
        streams.drop()
    except ValueError as error:
        line = str(error)
    except OSError as error:
        if system_errors.why_limited(error) is not None:
            raise
        place = given.out or ', '.join(given.workdirs)
        line = f'{place}: {error.strerror or error}'
    if line is not None:
        streams.complain(f'error: {line}')
        return system_errors.MISTAKE
    if (line := streams.lost()) is not None:
        streams.complain(f'error: {line}')
        return streams.LOST
    return 0
