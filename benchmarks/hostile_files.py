"""Tries on the files of a run: damaged, ended and begun twice."""

import json
import os
import pathlib
import shutil
import signal

import compare_runs
import forked
import numpy as np
from hostile_runs import (
    COMMANDS,
    HANG,
    MAIN,
    SAME,
    SILENT,
    TRACEBACK,
    Fixtures,
    Try,
    flags_of,
    judge,
    judge_reader,
)


def flip(random: np.random.Generator, path: pathlib.Path) -> None:
    """Flips a bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    path.write_bytes(data)


def cut(random: np.random.Generator, path: pathlib.Path) -> None:
    """Cuts the end off."""
    os.truncate(path, int(random.integers(path.stat().st_size + 1)))


def zero(random: np.random.Generator, path: pathlib.Path) -> None:
    """Zeroes a part."""
    data = bytearray(path.read_bytes())
    start = int(random.integers(len(data) + 1))
    stop = min(len(data), start + int(random.integers(1, 4096)))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)


def other(random: np.random.Generator, path: pathlib.Path) -> None:
    """Replaces the content by something else."""
    texts = [b'', b'null', b'{}', b'[]', b'7', b'"x"', b'\xff\xfe\x00', b'{']
    path.write_bytes(texts[random.integers(len(texts))])


def gone(_: np.random.Generator, path: pathlib.Path) -> None:
    """Removes the file."""
    path.unlink()


def folder_instead(_: np.random.Generator, path: pathlib.Path) -> None:
    """Puts an empty folder in its place."""
    path.unlink()
    path.mkdir()


def pipe_instead(_: np.random.Generator, path: pathlib.Path) -> None:
    """Puts a named pipe in its place."""
    path.unlink()
    os.mkfifo(path)


DAMAGES = (flip, cut, zero, other, gone, folder_instead, pipe_instead)


def damaged_file(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Damages a file of a finished or interrupted run, then runs a command."""
    begun = random.random() < 0.4
    source = fixtures.begun if begun else fixtures.finished
    run = shutil.copytree(source, folder / 'run')
    groups: dict[str, list[pathlib.Path]] = {}
    for path in sorted(p for p in run.rglob('*') if p.is_file()):
        groups.setdefault(path.relative_to(run).parts[0], []).append(path)
    files = groups[sorted(groups)[random.integers(len(groups))]]
    path = files[random.integers(len(files))]
    damage = DAMAGES[random.integers(len(DAMAGES))]
    before = path.read_bytes()
    damage(random, path)
    name = 'main'
    if not begun:
        name = ['main', *COMMANDS][random.integers(1 + len(COMMANDS))]
    what = f'{damage.__name__} {path.relative_to(run)}, {name}'
    if path.is_file() and path.read_bytes() == before:
        return f'{what} (unchanged)', SAME
    # Readers may name the folder that a file of a checkpoint belongs to.
    names = [path.name, *path.relative_to(run).parts[:2]]
    names.append('/'.join(path.relative_to(run).parts[1:3]))
    if name == 'main':
        end = forked.run(MAIN, flags_of(run), folder / 'log')

        def same() -> bool:
            try:
                return not compare_runs.differences(run, fixtures.finished)
            except Exception:  # Readers of damaged files raise many types.
                return False

        return what, judge(end, same, names)
    return what, judge_reader(name, run, names, fixtures)


def json_files(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Changes a value in a JSON file of a run, then runs a command."""
    run = shutil.copytree(fixtures.finished, folder / 'run')
    name = ('config.json', 'results.json')[random.integers(2)]
    content = json.loads((run / name).read_text())
    where: list[str] = []
    node = content
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[random.integers(len(keys))]
        where.append(str(key))
        below = node[key]
        leaf = not isinstance(below, dict | list)
        if leaf or random.random() < 0.3 or not below:
            break
        node = below
    values = [None, -1, 1e308, 'x', [], {}, True, [[]], {'': None}]
    if random.random() < 0.3:
        del node[key]
        change = 'deleted'
    else:
        node[key] = values[random.integers(len(values))]
        change = f'= {node[key]!r}'
    (run / name).write_text(json.dumps(content))
    command = ['main', *COMMANDS][random.integers(1 + len(COMMANDS))]
    what = f'{name}: {".".join(where)} {change}, {command}'
    if command == 'main':
        end = forked.run(MAIN, flags_of(run), folder / 'log')
        return what, judge(
            end,
            lambda: not compare_runs.differences(run, fixtures.finished),
            [name],
        )
    return what, judge_reader(command, run, [name], fixtures)


# Two commands, and what happens to the work directory under a run.


def two_at_once(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Two commands on a work directory, or one whose directory vanishes."""
    run, change = folder / 'run', random.integers(4)
    if change < 2:
        source = (fixtures.begun, None)[change]
        if source is not None:
            shutil.copytree(source, run)
        both = [
            forked.Fork(MAIN, flags_of(run), folder / f'log{i}')
            for i in range(2)
        ]
        ends = [fork.end() for fork in both]
        what = 'two commands at once'
        if any(end.hung for end in ends):
            return what, HANG
        good = [end for end in ends if end.status == 0]
        if len(good) + sum(end.refused for end in ends) < 2 or not good:
            return what, TRACEBACK
        alike = not compare_runs.differences(run, fixtures.finished)
        return what, SAME if alike else SILENT
    fork = forked.Fork(MAIN, flags_of(run), folder / 'log')
    steps = run / 'checkpoints' / 'steps'
    fork.wait_for(lambda: steps.exists() and any(steps.glob('[0-9]*')))
    what = ('work directory renamed', 'work directory removed')[change - 2]
    if change == 2:
        run.rename(folder / 'elsewhere')
    else:
        shutil.rmtree(run, ignore_errors=True)
    end = fork.end()
    return what, judge(end, lambda: False, [])


def killed(
    random: np.random.Generator, folder: pathlib.Path, fixtures: Fixtures
) -> Try:
    """Ends a run by a signal at a drawn moment, once or twice, and resumes."""
    run, sent = folder / 'run', []
    for _ in range(random.integers(1, 3)):
        number = (signal.SIGKILL, signal.SIGTERM)[random.integers(2)]
        fork = forked.Fork(MAIN, flags_of(run), folder / 'log')
        steps = run / 'checkpoints'
        fork.wait_for(steps.exists)
        seconds = float(random.uniform(0, 6))
        end = fork.end(seconds) if number == signal.SIGKILL else None
        if end is None:
            fork.wait_for(lambda: False, seconds)
            fork.send_signal(number)
            end = fork.end()
            if end.status not in (0, 75, -number):
                return f'{number.name}', judge(end, lambda: False, [])
        sent.append(f'{number.name} after {seconds:.1f} s')
    end = forked.run(MAIN, flags_of(run), folder / 'log')
    what = ', '.join(sent)
    if end.status:
        return what, judge(end, lambda: False, [])
    alike = not compare_runs.differences(run, fixtures.finished)
    return what, SAME if alike else SILENT
