"""The scripts that start runs on many machines, with stand-ins for those."""

import fcntl
import importlib.metadata
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
import yaml
from packaging import requirements

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ('commands', 'gpu_slurm', 'local_processes', 'tpu_pod')
SHELL = sorted(f'launch/{path.name}' for path in ROOT.glob('launch/*.sh'))
SHELL.append('.ci/run')
TPU = ('--zone=us-central2-b', '--project=p')
# Words that a shell would take apart if they were passed on carelessly.
ODD = ("--config.data.name=it's $HOME", '--config.train.milestones=(1, 2)')
RUN = ('--workdir=gs://bucket/a', *ODD)


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


@pytest.mark.parametrize('script', SHELL)
def test_shellcheck_finds_nothing(script):
    bin_folder = pathlib.Path(sys.executable).parent
    path = f'{bin_folder}{os.pathsep}{os.environ["PATH"]}'
    shellcheck = shutil.which('shellcheck', path=path)
    if shellcheck is None:
        pytest.skip('shellcheck is not installed')
    done = subprocess.run(
        [shellcheck, '-x', script],
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
    ('name', 'arguments', 'words'),
    [
        ('local_processes', (), 'N=: must be an integer >= 1'),
        ('local_processes', ('two',), 'N=two: must be'),
        ('local_processes', ('0',), 'N=0: must be'),
        ('gpu_slurm', ('--gpus=0',), 'GPUS=0: must be an integer >= 1'),
        ('gpu_slurm', ('--name=a b',), 'NAME=a b'),
        ('gpu_slurm', ('--zone=a',), '--zone=a: unknown'),
        ('gpu_slurm', ('--workdir',), 'Flags of the run follow --'),
        ('gpu_slurm', (), 'sbatch: missing'),
        ('tpu_pod', ('--', *RUN), 'ZONE: missing'),
        ('tpu_pod', (*TPU, '--', '--workdir=runs/a'), '--workdir=runs/a'),
        ('tpu_pod', TPU, '--workdir=: must be gs://'),
        ('tpu_pod', (*TPU, '--', '--workdir=gs://b/'), '--workdir=gs://b:'),
        ('tpu_pod', (*TPU, '--name=A_1'), 'NAME=A_1: must be'),
        ('tpu_pod', (*TPU, '--', *RUN), 'gcloud: missing'),
    ],
)
def test_a_mistake_costs_one_line(name, arguments, words, tmp_path):
    # Neither gcloud nor SLURM; nothing is run, and nothing is written.
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


@pytest.mark.parametrize(('status', 'requeued'), [(0, 0), (75, 1), (134, 0)])
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


# tpu_pod.sh


def test_tpu_pod_prints_each_command():
    arguments = ('--connect=--internal-ip --tunnel-through-iap', '--', *RUN)
    commands = printed_commands('tpu_pod', *TPU, *arguments)
    slices = ['gcloud', 'compute', 'tpus', 'tpu-vm']
    where = ['--zone=us-central2-b', '--project=p']
    connect = ['--internal-ip', '--tunnel-through-iap']
    assert commands[0] == [
        *[*slices, 'describe', 'mnemonics', '--format=value(state)', *where]
    ]
    assert [
        *[*slices, 'scp', 'runs/mnemonics/checkout.tar.gz'],
        *['mnemonics:checkout.tar.gz', '--worker=all', *connect, *where],
    ] in commands
    shells = [c for c in commands if c[:5] == [*slices, 'ssh']]
    assert {c[6] for c in shells} == {'--worker=0', '--worker=all'}
    for command in shells:
        assert command[8:] == [
            *['--ssh-flag=-oServerAliveInterval=30'],
            *['--ssh-flag=-oServerAliveCountMax=4', *connect, *where],
        ]
    assert [
        *['gcloud', 'storage', 'cp', 'gs://bucket/a/report.html'],
        *['gs://bucket/a/results.json', 'runs/mnemonics/'],
    ] in commands
    assert not (ROOT / 'runs' / 'mnemonics').exists()


# Two hosts as folders. The states of the slice are taken from a file, one a
# question, the last for ever. The first log that is asked for, and what is
# asked next, are cut off where there is a file `cut` or, for a preemption, one
# `preempt`. The run lasts until then. Where there is a file `again`, the
# command that starts the run is repeated.
GCLOUD = r"""#!/usr/bin/env bash
cd "$CLOUD"
echo "$*" | head -n 1 >>calls
option() {  # Of the name $1, among the words that follow.
  local name="$1" word
  shift
  for word in "$@"; do
    case "$word" in "--$name="*) printf '%s' "${word#*=}" ;; esac
  done
}
case "$*" in
  *'tpu-vm describe'*)
    state="$(head -n 1 slice)"
    if [ "$(wc -l <slice)" -gt 1 ]; then sed -i 1d slice; fi
    if [ "$state" = NONE ]; then echo 'ERROR: NOT_FOUND' >&2; exit 1; fi
    echo "$state"
    ;;
  *'tpu-vm scp'*) for host in host0 host1; do cp "$CHECKOUT/$5" "$host"; done ;;
  *'tpu-vm ssh'*)
    command="$(option command "$@")"
    hosts=(host0)
    if [ "$(option worker "$@")" = all ]; then hosts=(host0 host1); fi
    if [ -e cutting ]; then
      rm cutting
      exit 255
    fi
    if [ -e cut ] && [[ "$command" == *tail* ]]; then
      mv cut cutting
      exit 255
    fi
    if [ -e preempt ] && [[ "$command" == *tail* ]]; then
      mv preempt cutting
      exit 255
    fi
    if [ -e again ] && [[ "$command" == *setsid* ]]; then
      hosts+=("${hosts[@]}")
    fi
    for host in "${hosts[@]}"; do
      (cd "$host" && HOME="$PWD" bash -c "$command") || exit
    done
    rm -f again
    ;;
  *'storage cp'*) touch "$CHECKOUT/$5"/{report.html,results.json} ;;
esac
"""
# Makes a .venv whose Python notes its flags, and may last, or fail.
UV = r"""#!/usr/bin/env bash
echo "$*" >>"$HOME/uv"
if [ "$1" = venv ]; then
  mkdir -p .venv/bin
  cp "$CLOUD/python" .venv/bin
fi
"""
HOST_PYTHON = r"""#!/usr/bin/env bash
printf '%s\n' "$@" >"$HOME/flags"
env >"$HOME/variables"
echo start >>"$HOME/starts"
echo 'the log'
while [ -e "$CLOUD/preempt" ] || [ -e "$CLOUD/cut" ] || [ -e "$CLOUD/again" ]
do
  /bin/sleep 0.05
done
exit "$(cat "$CLOUD/status")"
"""


@pytest.fixture
def cloud(checkout, tmp_path):
    """A function that runs the script in a cloud of this machine."""
    folder, programs = tmp_path / 'cloud', tmp_path / 'programs'
    make_program(programs / 'gcloud', GCLOUD)
    make_program(programs / 'sleep', '#!/bin/sh\n/bin/sleep 0.01\n')
    make_program(folder / 'python', HOST_PYTHON)
    for host in ('host0', 'host1'):
        make_program(folder / host / '.local' / 'bin' / 'uv', UV)
    env = environment(programs, CLOUD=str(folder), CHECKOUT=str(checkout))

    def run(*flags, settings=(), slices=('READY',), status='0'):
        (folder / 'slice').write_text('\n'.join(slices) + '\n')
        (folder / 'status').write_text(f'{status}\n')
        (folder / 'calls').write_text('')
        arguments = (*TPU, *settings, '--', *(flags or RUN))
        return launch('tpu_pod', *arguments, root=checkout, env=env)

    return run


def host_lines(tmp_path, name):
    """The lines of a file on both hosts."""
    hosts = [tmp_path / 'cloud' / host for host in ('host0', 'host1')]
    return [(host / name).read_text().splitlines() for host in hosts]


def calls(tmp_path):
    """What gcloud was asked to do, without the questions, in short."""
    lines = (tmp_path / 'cloud' / 'calls').read_text().splitlines()
    words = ('scp', 'storage')
    return [w for line in lines for w in words if w in line.split()[:4]]


def test_tpu_pod_installs_runs_on_all_hosts_and_fetches(cloud, tmp_path):
    done = cloud()
    assert done.returncode == 0, done.stderr
    assert 'the log' in done.stdout
    assert calls(tmp_path) == ['scp', 'storage']
    flags = ['-m', 'mnemonics_jax.main', *RUN]
    assert host_lines(tmp_path, 'flags') == [flags, flags]
    for lines in host_lines(tmp_path, 'variables'):
        assert 'MNEMONICS_JAX_CACHE=gs://bucket/.jax_cache' in lines
    for _, line in host_lines(tmp_path, 'uv'):
        assert '--constraint=launch/tested.txt -e .[tpu,gcs,tfds]' in line
    installed = tmp_path / 'cloud' / 'host1' / 'mnemonics_jax' / 'launch'
    assert (installed / 'tpu_pod.sh').exists()
    assert (tmp_path / 'checkout/runs/mnemonics/report.html').exists()
    assert 'billed until you delete it' in done.stderr


def test_hosts_are_prepared_and_the_run_gets_its_variables(cloud, tmp_path):
    done = cloud(
        *["A=it's $HOME", 'MNEMONICS_JAX_CACHE=off', *RUN],
        settings=['--prepare=echo "$HOME" >~/prepared'],
    )
    assert done.returncode == 0, done.stderr
    hosts = [[str(tmp_path / 'cloud' / host)] for host in ('host0', 'host1')]
    assert host_lines(tmp_path, 'prepared') == hosts
    for lines in host_lines(tmp_path, 'variables'):
        assert {"A=it's $HOME", 'MNEMONICS_JAX_CACHE=off'} <= set(lines)
    flags = ['-m', 'mnemonics_jax.main', *RUN]
    assert host_lines(tmp_path, 'flags') == [flags, flags]


def test_a_start_that_is_repeated_starts_one_run(cloud, tmp_path):
    (tmp_path / 'cloud' / 'again').touch()
    done = cloud()
    assert done.returncode == 0, done.stderr
    assert host_lines(tmp_path, 'starts') == [['start'], ['start']]


def test_a_preempted_slice_is_said(cloud, tmp_path):
    (tmp_path / 'cloud' / 'preempt').touch()
    done = cloud(slices=['READY', 'PREEMPTED'])
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert 'NAME=mnemonics: the slice is PREEMPTED, must be READY' in last
    assert calls(tmp_path) == ['scp']


def test_a_failed_run_ends_the_script_with_its_status(cloud, tmp_path):
    done = cloud(status='3')
    assert done.returncode == 3
    assert 'status 3' in done.stderr
    assert calls(tmp_path) == ['scp']


def test_a_host_that_cannot_be_installed_on_starts_nothing(cloud, tmp_path):
    uv = tmp_path / 'cloud' / 'host1' / '.local' / 'bin' / 'uv'
    make_program(uv, '#!/bin/sh\nexit 1\n')
    done = cloud()
    assert done.returncode == 2
    assert 'cannot be started' in done.stderr.splitlines()[-1]
    assert not list((tmp_path / 'cloud').glob('host*/flags'))


@pytest.mark.slow
def test_a_run_that_has_ended_is_started_again(cloud, tmp_path):
    assert cloud(status='75').returncode == 75
    assert cloud().returncode == 0
    assert calls(tmp_path) == ['scp', 'storage']
    assert host_lines(tmp_path, 'starts') == [['start'] * 2] * 2


def test_a_connection_that_breaks_is_taken_up_again(cloud, tmp_path):
    (tmp_path / 'cloud' / 'cut').touch()
    done = cloud()
    assert done.returncode == 0, done.stderr
    assert 'the log' in done.stdout
    assert calls(tmp_path) == ['scp', 'storage']


def test_a_slice_that_does_another_run_is_left_alone(cloud, tmp_path):
    assert cloud().returncode == 0
    # As if the run had not ended.
    with (tmp_path / 'cloud' / 'host0' / 'run.lock').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cloud('--workdir=gs://bucket/b')
    assert done.returncode == 2
    assert '--workdir=gs://bucket/a' in done.stderr.splitlines()[-1]
    assert calls(tmp_path) == []


@pytest.mark.parametrize(
    ('state', 'words'),
    [('NONE', 'gcloud: ERROR: NOT_FOUND'), ('STOPPED', 'is STOPPED, must be')],
)
def test_a_slice_that_is_not_ready_is_said(state, words, cloud):
    done = cloud(slices=[state])
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


# sky.yaml

SKY = {'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2', 'SKYPILOT_NODE_RANK': '1'}


@pytest.mark.parametrize(
    ('extra', 'nodes', 'joined'),
    [
        ('tpu', '4', []),
        ('cuda', '1', []),
        (
            'cuda',
            '2',
            [
                *['--coordinator=10.0.0.1:8476', '--num_processes=2'],
                '--process_id=1',
            ],
        ),
    ],
)
def test_a_sky_task_installs_and_runs_its_flags(
    extra, nodes, joined, checkout, tmp_path
):
    task = yaml.safe_load((ROOT / 'launch' / 'sky.yaml').read_text())
    make_program(tmp_path / '.local' / 'bin' / 'uv', UV)
    make_program(tmp_path / 'python', HOST_PYTHON)
    (tmp_path / 'status').write_text('75')
    assert set(task['envs']) == {'WORKDIR', 'FLAGS', 'EXTRA'}
    env = environment(
        **task['envs'] | SKY | {'WORKDIR': 'gs://bucket/a', 'EXTRA': extra},
        SKYPILOT_NUM_NODES=nodes,
        CLOUD=str(tmp_path),
    )
    env['HOME'] = str(tmp_path)
    for part, status in (('setup', 0), ('run', 75)):
        done = subprocess.run(
            ['bash', '-euc', task[part]], cwd=checkout, env=env
        )
        assert done.returncode == status
    assert (tmp_path / 'flags').read_text().splitlines() == [
        *['-m', 'mnemonics_jax.main', '--workdir=gs://bucket/a', *joined],
        '--config=configs/cifar100.py',
    ]
    variables = (tmp_path / 'variables').read_text().splitlines()
    assert 'MNEMONICS_JAX_CACHE=gs://bucket/.jax_cache' in variables
    assert f'-e .[{extra},gcs,tfds]' in (tmp_path / 'uv').read_text()
    assert task['resources']['job_recovery']['recover_on_exit_codes'] == [75]


def test_tested_versions_are_among_those_that_the_package_allows():
    declared = {}
    for line in importlib.metadata.requires('mnemonics-jax'):
        requirement = requirements.Requirement(line)
        if requirement.marker is None:
            declared[requirement.name] = requirement.specifier
    lines = (ROOT / 'launch' / 'tested.txt').read_text().splitlines()
    pins = [line.split('==') for line in lines if not line.startswith('#')]
    assert {'jax', 'jaxlib', 'flax'} <= {name for name, _ in pins}
    for name, version in pins:
        assert version in declared[name], name
