"""The scripts that start runs on many machines, with stand-ins for those."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ('commands', 'gpu_slurm', 'local_processes')
# Words that a shell would take apart if they were passed on carelessly.
ODD = ("--config.data.name=it's $HOME", '--config.train.milestones=(1, 2)')
RUN = ('--workdir=runs/a', *ODD)


def make_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def environment(programs=None, **variables):
    """Without settings of whoever runs the tests."""
    kept = {k: v for k, v in os.environ.items() if k in ('HOME', 'LANG')}
    path = os.environ['PATH']
    if programs is not None:
        path = f'{programs}{os.pathsep}{path}'
    return {**kept, 'PATH': path, **variables}


def launch(script, *arguments, root=ROOT, env=None):
    return subprocess.run(
        [str(root / 'launch' / f'{script}.sh'), *arguments],
        env=environment() if env is None else env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def printed_commands(script, *arguments):
    """What --dry-run prints, as lists of words; it has to be valid shell."""
    done = launch(script, '--dry-run', *arguments)
    assert done.returncode == 0, done.stderr
    subprocess.run(['bash', '-n'], input=done.stdout, text=True, check=True)
    text = re.sub(r"<<'END'\n.*?\nEND\n", '\n', done.stdout, flags=re.DOTALL)
    words = shlex.split(text.replace('\n', ' ;\n '), comments=True)
    commands = ' '.join(shlex.quote(w) for w in words).split("';'")
    return [shlex.split(c) for c in commands if c.strip()]


@pytest.mark.parametrize('name', SCRIPTS)
def test_shellcheck_finds_nothing(name):
    bin_folder = pathlib.Path(sys.executable).parent
    path = f'{bin_folder}{os.pathsep}{os.environ["PATH"]}'
    shellcheck = shutil.which('shellcheck', path=path)
    if shellcheck is None:
        pytest.skip('shellcheck is not installed')
    done = subprocess.run(
        [shellcheck, '-x', f'launch/{name}.sh'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', SCRIPTS[1:])
def test_help_shows_the_usage(name):
    done = launch(name, '--help')
    assert done.returncode == 0
    assert done.stdout.startswith(f'usage: launch/{name}.sh [--dry-run]')


@pytest.mark.parametrize(
    'name, arguments, words',
    [
        ('local_processes', (), 'N=: allowed: a whole number >= 1'),
        ('local_processes', ('two',), 'N=two: allowed'),
        ('local_processes', ('0',), 'N=0: allowed'),
        ('gpu_slurm', ('--gpus=0',), 'GPUS=0: allowed: a whole number >= 1'),
        ('gpu_slurm', ('--name=a b',), 'NAME=a b'),
        ('gpu_slurm', ('--zone=a',), '--zone=a: no setting'),
        ('gpu_slurm', ('--workdir',), 'Flags of the run follow --'),
        ('gpu_slurm', (), 'sbatch: missing'),
    ],
)
def test_a_mistake_costs_one_line(name, arguments, words, tmp_path):
    # There is no SLURM; nothing is run, and nothing is written.
    for tool in ('bash', 'cat', 'dirname', 'sed', 'tr'):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    env = {**environment(), 'PATH': str(tmp_path)}
    done = launch(name, *arguments, env=env)
    assert done.returncode == 2
    assert done.stdout == ''
    assert re.fullmatch(r'error: [^\n]+\n', done.stderr), done.stderr
    assert words in done.stderr


# local_processes.sh


def test_local_processes_prints_a_command_for_each_process():
    commands = printed_commands('local_processes', '3', *ODD)
    assert len(commands) == 3
    (port,) = {
        re.findall(r'--coordinator=127.0.0.1:(\d+)', ' '.join(c))[0]
        for c in commands
    }
    for i, command in enumerate(commands):
        assert command[:2] == ['env', 'JAX_PLATFORMS=cpu']
        assert 'XLA_FLAGS=--xla_force_host_platform_device_count=1' in command
        start = command.index('.venv/bin/python')
        assert command[start:] == [
            '.venv/bin/python',
            '-m',
            'mnemonics_jax.main',
            f'--coordinator=127.0.0.1:{port}',
            '--num_processes=3',
            f'--process_id={i}',
            *ODD,
        ]


# Notes what it is given; process 0 ends with STATUS, and the other one with
# another; with LASTING they go on until they are told to end, or, with DEAF,
# even then.
LOCAL_PYTHON = """#!/usr/bin/env bash
for flag in "$@"; do
  case "$flag" in --process_id=*) id="${flag#*=}" ;; esac
done
exec >>"$NOTES/$id"
if [ -n "${DEAF:-}" ]; then
  trap '' TERM
else
  trap 'echo TERM; exit 75' TERM
  trap 'echo INT; exit 75' INT
fi
printf '%s\\n' "$XLA_FLAGS" "$JAX_PLATFORMS" "$@" ready
if [ "$id" = 0 ] && [ -n "${STATUS:-}" ]; then
  exit "$STATUS"
fi
while [ -n "${LASTING:-}" ]; do
  sleep 0.05
done
if [ -n "${STATUS:-}" ]; then
  sleep 0.3
  exit 4
fi
"""


WITH_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def local(tmp_path):
    """Starts two processes of a program that stands for Python."""
    make_program(tmp_path / 'python', LOCAL_PYTHON)
    (tmp_path / 'notes').mkdir()
    variables = {
        'PYTHON': str(tmp_path / 'python'),
        'NOTES': str(tmp_path / 'notes'),
    }

    def start(**more):
        # A shell cannot trap what was ignored when it began, as SIGINT is in
        # what a script starts in the background.
        script = str(ROOT / 'launch' / 'local_processes.sh')
        return subprocess.Popen(
            [sys.executable, '-c', WITH_SIGINT, script, '2', *ODD],
            env=environment(**variables, **more),
        )

    return start


def notes(tmp_path):
    return [
        (tmp_path / 'notes' / i).read_text().splitlines()
        if (tmp_path / 'notes' / i).exists()
        else []
        for i in '01'
    ]


def test_local_processes_do_the_run_with_their_devices(local, tmp_path):
    process = local(DEVICES_PER_PROCESS='4', XLA_FLAGS='--other')
    assert process.wait(timeout=60) == 0
    for i, lines in enumerate(notes(tmp_path)):
        flags = '--other --xla_force_host_platform_device_count=4'
        assert lines[:2] == [flags, 'cpu']
        assert lines[-5:] == [
            '--num_processes=2',
            f'--process_id={i}',
            *ODD,
            'ready',
        ]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_local_processes_get_a_signal_once_and_end_by_it(
    number, local, tmp_path
):
    process = local(LASTING='1')
    deadline = time.monotonic() + 60
    while not all('ready' in lines for lines in notes(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == 75
    name = number.name.removeprefix('SIG')
    for lines in notes(tmp_path):
        assert lines[lines.index('ready') :] == ['ready', name]


def test_local_processes_end_with_the_first_failure(local):
    assert local(STATUS='3').wait(timeout=60) == 3


def test_the_others_are_killed_when_one_fails_and_they_do_not_end(local):
    process = local(STATUS='3', LASTING='1', DEAF='1', GRACE_SECONDS='1')
    assert process.wait(timeout=60) == 3


# gpu_slurm.sh


def test_gpu_slurm_prints_the_script_that_it_submits():
    arguments = ('--gpus=4', '--nodes=2', '--time=1:00:00', '--', *ODD)
    assert printed_commands('gpu_slurm', *arguments) == [
        ['mkdir', '-p', 'runs/slurm'],
        ['sbatch', '--parsable'],
    ]
    script = launch('gpu_slurm', '--dry-run', *arguments).stdout
    options = re.findall(r'^#SBATCH (.*)$', script, flags=re.MULTILINE)
    assert options == [
        '--job-name=mnemonics',
        '--nodes=2',
        '--ntasks-per-node=4',
        '--gpus-per-node=4',
        '--cpus-per-task=8',
        '--time=1:00:00',
        '--signal=TERM@60',
        '--requeue',
        '--open-mode=append',
        '--output=runs/slurm/%x-%j.log',
    ]


@pytest.fixture
def checkout(tmp_path):
    """The scripts alone, where they can write."""
    shutil.copytree(ROOT / 'launch', tmp_path / 'checkout' / 'launch')
    return tmp_path / 'checkout'


@pytest.mark.parametrize('status, requeued', [(0, 0), (75, 1), (134, 0)])
def test_a_slurm_job_runs_the_flags_and_is_queued_again_when_it_has_saved(
    status, requeued, checkout, tmp_path
):
    programs = tmp_path / 'programs'
    make_program(
        programs / 'sbatch',
        f'#!/bin/bash\ncat >{tmp_path}/job\necho "17;cluster"\n',
    )
    make_program(
        programs / 'srun',
        f'#!/bin/bash\nprintf "%s\\n" "$PWD" "$@" >{tmp_path}/srun\n'
        f'exit {status}\n',
    )
    make_program(
        programs / 'scontrol', f'#!/bin/bash\necho "$@" >>{tmp_path}/again\n'
    )
    env = environment(programs, PYTHON=sys.executable, GPUS='2')
    done = launch('gpu_slurm', '--', *ODD, root=checkout, env=env)
    assert done.returncode == 0, done.stderr
    assert 'tail -F runs/slurm/mnemonics-17.log' in done.stdout
    assert (checkout / 'runs' / 'slurm').is_dir()

    job = subprocess.run(
        ['bash', str(tmp_path / 'job')],
        cwd=tmp_path,
        env={**env, 'SLURM_JOB_ID': '17'},
    )
    assert job.returncode == status
    folder, *words = (tmp_path / 'srun').read_text().splitlines()
    assert folder == str(checkout)
    python = words.index(sys.executable)
    assert words[python + 1 :] == ['-m', 'mnemonics_jax.main', *ODD]
    assert {'--ntasks-per-node=2', '--gpu-bind=none'} <= set(words[:python])
    again = tmp_path / 'again'
    lines = again.read_text().splitlines() if again.exists() else []
    assert lines == ['requeue 17'] * requeued
