"""The command on a small disk of its own that fills up at given places.

    unshare --mount --map-root-user python tests/full_disk.py FOLDER

mounts a file system of memory on the folder, runs the command there with a full
disk again and again, each time at another place, and makes room after each.
Prints as JSON how each ended, and how the last differs from a run with room.
Where nothing may be mounted, and at one place in any case, files may not grow
instead.

One process does it all, and builds a run's functions once.
"""

import contextlib
import functools
import io
import itertools
import json
import pathlib
import resource
import subprocess
import sys
from unittest import mock

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import compare_runs
import faulty_run

from mnemonics_jax import main, report
from mnemonics_jax.experiment import components
from mnemonics_jax.experiment import results as results_lib
from mnemonics_jax.train import checkpoint, metric_writer

SIZE = '64m'
FIELDS = {
    **faulty_run.SETTINGS,
    **faulty_run.SYNTHETIC,
    'protocol.base_classes': 5,
    'protocol.phases': 1,
    'method.name': 'finetune',
    'train.epochs': 1,
    'exemplars.outer_steps': 6,
    'exemplars.adjust': False,
    'finetune.epochs': 1,
}
# What is about to be written when the disk is full, at which call of it.
PLACES = {
    'a checkpoint within a phase': (checkpoint.Checkpointer, 'save_within', 2),
    'a record': (metric_writer.Recorder, 'record', 3),
    'exemplars': (results_lib, 'save_arrays', 1),
    'the end of a phase': (checkpoint.Checkpointer, 'save', 1),
    'a file': (checkpoint.Checkpointer, 'save_within', 3),
    'results': (results_lib, 'write', 1),
    'the report': (report, 'write', 1),
}


def fill(folder: pathlib.Path) -> None:
    """Takes all room that is left, to the last byte."""
    with open(folder / 'filler', 'ab', buffering=0) as file:
        for size in (2**20, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def limit_files(size: int) -> None:
    """Limits the size of files that this process writes; -1 for no limit."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def at_call(number: int, function, fault):
    """The function, with a fault before one of its calls."""
    calls = itertools.count(1)

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        if next(calls) == number:
            fault()
        return function(*arguments, **options)

    return wrapped


def run(workdir: pathlib.Path) -> dict:
    """The command; its exit code and what it printed."""
    main.flags.FLAGS.workdir = str(workdir)
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main([])
        except SystemExit as e:
            code = e.code
    return {'code': code, 'out': out.getvalue(), 'err': err.getvalue()}


def everywhere(folder: pathlib.Path, mounted: bool) -> dict:
    """A run with room, one with faults at all places, and their difference."""
    whole, workdir = folder / 'whole', folder / 'run'
    found = {'whole': run(whole), 'places': {}}
    for place, (owner, name, call) in PLACES.items():
        fault = functools.partial(limit_files, 0)
        if mounted and place != 'a file':
            fault = functools.partial(fill, folder)
        function = at_call(call, getattr(owner, name), fault)
        with mock.patch.object(owner, name, function):
            found['places'][place] = run(workdir)
        found['places'][place]['kept'] = checkpoint.whole(workdir)
        limit_files(-1)
        (folder / 'filler').unlink(missing_ok=True)
    found['last'] = run(workdir)
    found['differences'] = compare_runs.differences(workdir, whole)
    return found


def start() -> None:
    """See the module."""
    folder = pathlib.Path(sys.argv[1])
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'tmpfs', str(folder)]
    mounted = not subprocess.run(mount, capture_output=True).returncode
    fields = [f'--config.{name}={value}' for name, value in FIELDS.items()]
    config = f'--config={ROOT}/configs/digits.py'
    # The flag of the configuration reads its fields from there.
    sys.argv = ['main', config, '--workdir=unset', *fields]
    main.parse(sys.argv)
    components.build = functools.lru_cache(maxsize=1)(components.build)
    print(json.dumps(everywhere(folder, mounted)))


if __name__ == '__main__':
    start()
