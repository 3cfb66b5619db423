"""Sweeps: the grid, the commands, the table, and going on."""

import csv
import io
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import types
from concurrent import futures

import compiling
import numpy as np
import pytest

from mnemonics_jax.core import multihost

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'launch'))

import sweep
import sweep_grid
import sweep_table
import sweep_worker

CONFIG = '--config=configs/digits.py'
HEADS = ('cnn', 'nme', 'finetuned')


def sweep_process(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'launch/sweep.py', CONFIG, *flags],
        cwd=ROOT,
        # One device; what else it has is the compilations of other tests.
        env=compiling.one_device(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def finished(settings: dict, accuracies: dict) -> dict:
    """A record whose metrics are accuracies plus a multiple of a hundredth."""
    return {
        'name': sweep_grid.run_name(settings),
        'settings': settings,
        'state': 'finished',
        'error': None,
        'judged': 'cnn',
        'seconds': 3.0,
        'gauges': {'drift_grey_levels': 2.0},
        'metrics': {
            head: {
                metric: accuracy + 0.01 * i
                for i, metric in enumerate(sweep_table.METRICS)
            }
            for head, accuracy in accuracies.items()
        },
    }


def seeds(num: int, method: str = 'lucir') -> list[dict]:
    """Records of a cell, the middle classifier being best."""
    rng = np.random.default_rng(0)
    return [
        finished(
            {'method.name': method, 'seed': str(seed)},
            {
                'cnn': rng.uniform(0, 0.2),
                'nme': rng.uniform(0.8, 1),
                'finetuned': rng.uniform(0.4, 0.5),
            },
        )
        for seed in range(num)
    ]


def table_of(records: list[dict]) -> dict:
    """The content of `sweep.json`."""
    return {
        'command': 'python launch/sweep.py',
        'grid': {field: [] for field in records[0]['settings']},
        'runs': records,
        'cells': sweep_table.cells(records),
    }


def test_grid_takes_full_and_short_names_and_tuples():
    grid = sweep_grid.parse_grid(
        [
            'method=lucir, icarl',
            'exemplars.per_class=5',
            'train.milestones=(2,4),(3,)',
            'transfer=true,false',
        ]
    )
    assert grid == {
        'method.name': ['lucir', 'icarl'],
        'exemplars.per_class': ['5'],
        'train.milestones': ['(2,4)', '(3,)'],
        'weight_transfer': ['true', 'false'],
    }
    for short, field in {
        'strategy': 'exemplars.strategy',
        'adjust': 'exemplars.adjust',
        'phases': 'protocol.phases',
    }.items():
        assert sweep_grid.parse_grid([f'{short}=1']) == {field: ['1']}


def test_grid_wins_over_set_and_set_over_small():
    fixed = sweep_grid.parse_fixed(
        ['train.epochs=7', 'phases=1'], {'finetune.epochs': ['4']}, small=True
    )
    assert fixed['train.epochs'] == '7'
    assert fixed['protocol.phases'] == '1'
    assert fixed['backbone.name'] == 'convnet_tiny'
    assert 'finetune.epochs' not in fixed
    assert sweep_grid.parse_fixed([], {}, small=False) == {}


def test_names_are_readable_stable_and_distinct(tmp_path):
    name = sweep_grid.run_name({'method.name': 'lucir', 'seed': '0'})
    assert name == 'method=lucir,seed=0'
    assert sweep_grid.run_name({'seed': '0', 'method.name': 'lucir'}) == name
    grid = sweep_grid.parse_grid(
        ['seed=0,1', 'train.milestones=(2,4),(2,),(2/4)', 'data.dir=/a/b,.a.b']
    )
    grid['data.source'] = ['long' * 60 + end for end in 'xy']
    runs = sweep_grid.plan('c.py', tmp_path, grid, {})
    assert len({run.name for run in runs}) == 24
    for run in runs:
        assert len(run.name) < 240
        assert run.workdir.parent == tmp_path == run.log.parent.parent
        run.workdir.mkdir()


def test_dry_run_prints_runnable_commands_and_writes_nothing(tmp_path):
    out = tmp_path / 'a dir'
    done = sweep_process(
        f'--out={out}',
        '--grid=method=lucir,icarl',
        '--grid=seed=0,1',
        '--set=train.milestones=(2, 4)',
        '--dry-run',
    )
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert len(commands) == 4
    assert commands[1] == [
        sys.executable,
        '-m',
        'mnemonics_jax.main',
        CONFIG,
        f'--workdir={out}/method=icarl,seed=0',
        '--config.train.milestones=(2, 4)',
        '--config.seed=0',
        '--config.method.name=icarl',
    ]
    assert not out.exists()


def test_cells_are_means_and_deviations_over_seeds():
    records = [*seeds(3), *seeds(1, 'icarl')]
    first, second = sweep_table.cells(records)
    assert first['settings'] == {'method.name': 'lucir'}
    assert first['runs'] == [record['name'] for record in records[:3]]
    assert (first['judged'], first['best']) == ('cnn', 'nme')
    for head in HEADS:
        for metric in sweep_table.METRICS:
            values = [r['metrics'][head][metric] for r in records[:3]]
            found = first['metrics'][head][metric]
            np.testing.assert_allclose(found['mean'], np.mean(values))
            np.testing.assert_allclose(found['std'], np.std(values, ddof=1))
            assert found['n'] == 3
    single = second['metrics']['cnn']['last_accuracy']
    assert single['std'] is None
    assert single['n'] == 1
    assert single['mean'] == records[3]['metrics']['cnn']['last_accuracy']


def test_unfinished_runs_do_not_count():
    records = [
        *seeds(2),
        {
            'name': 'method=lucir,seed=2',
            'settings': {'method.name': 'lucir', 'seed': '2'},
            'state': 'failed',
            'error': 'status 1: no memory',
        },
    ]
    (cell,) = sweep_table.cells(records)
    assert cell['seconds']['n'] == 2
    assert len(cell['runs']) == 3
    (empty,) = sweep_table.cells(records[2:])
    assert empty['judged'] is None
    assert empty['seconds'] == {'mean': None, 'std': None, 'n': 0}


def test_markdown_is_in_percent_and_marks_what_is_not_known():
    pending = {
        'name': 'p',
        'settings': {'method.name': 'bic', 'seed': '0'},
        'state': 'pending',
        'error': None,
    }
    records = [
        finished({'method.name': 'lucir', 'seed': '0'}, {'cnn': 0.5, 'nme': 1}),
        finished({'method.name': 'lucir', 'seed': '1'}, {'cnn': 0.6, 'nme': 1}),
        finished({'method.name': 'icarl', 'seed': '0'}, {'cnn': 0.5}),
        pending,
        {**pending, 'state': 'failed', 'error': 'status 2: oh'},
    ]
    text = sweep_table.markdown(table_of(records))
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert len(rows) == 5
    assert rows[2] == (
        '| lucir | cnn | 55.0 ± 7.1 (2) | 56.0 ± 7.1 (2) | 57.0 ± 7.1 (2) '
        '| nme 100.0 ± 0.0 (2) |'
    )
    assert rows[3].startswith('| icarl | cnn | 50.0 ± \u2014 (1) |')
    assert rows[4] == '| bic |' + ' \u2014 |' * 5
    assert '3 of 5 runs finished' in text
    assert '`python launch/sweep.py`' in text
    assert '- p: status 2: oh' in text


def test_csv_has_a_row_for_each_cell_and_classifier():
    records = [*seeds(2), *seeds(1, 'icarl')]
    text = sweep_table.csv_text(table_of(records))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r['method.name'], r['classifier'], r['judged']) for r in rows] == [
        (method, head, str(head == 'cnn').lower())
        for method in ('lucir', 'icarl')
        for head in HEADS
    ]
    values = [r['metrics']['nme']['last_accuracy'] for r in records[:2]]
    assert float(rows[1]['last_accuracy_mean']) == np.mean(values)
    assert rows[1]['last_accuracy_n'] == '2'
    assert rows[5]['last_accuracy_std'] == ''
    assert rows[0]['drift_grey_levels_mean'] == '2.0'
    assert rows[0]['held_out_loss_after_mean'] == ''


def test_finished_runs_of_other_settings_are_not_mixed_in(tmp_path):
    there = {'config': 'a.py', 'set': {}, 'runs': [{'state': 'failed'}]}
    (tmp_path / 'sweep.json').write_text(json.dumps(there))
    other = {'config': 'a.py', 'set': {'seed': '1'}}
    sweep.check_out(tmp_path, other)
    there['runs'] += [{'state': 'finished'}]
    (tmp_path / 'sweep.json').write_text(json.dumps(there))
    sweep.check_out(tmp_path, {'config': 'a.py', 'set': {}})
    with pytest.raises(ValueError, match=r'must be another directory.* --set$'):
        sweep.check_out(tmp_path, other)


@pytest.mark.parametrize('text', ['', '{"runs": [', '[]', '{"runs": [1]}'])
def test_a_damaged_table_is_named(text, tmp_path):
    (tmp_path / 'sweep.json').write_text(text)
    with pytest.raises(ValueError, match=r'sweep.json is damaged: '):
        sweep.check_out(tmp_path, {'config': 'a.py', 'set': {}})


def test_the_table_is_on_disk_after_each_run(tmp_path, capsys):
    grid = {'method.name': ['lucir'], 'seed': ['0', '1']}
    runs = sweep_grid.plan('c.py', tmp_path, grid, {})
    about = {'command': 'c', 'config': 'c.py', 'set': {}, 'grid': grid}
    progress = sweep.Progress(runs, tmp_path, about)
    states = []
    for entry in (None, *seeds(2)):
        if entry:
            progress.add(entry, 61.0)
        content = json.loads((tmp_path / 'sweep.json').read_text())
        states.append([run['state'] for run in content['runs']])
        assert content['cells'][0]['seconds']['n'] == len(states) - 1
    assert states == [
        ['pending', 'pending'],
        ['finished', 'pending'],
        ['finished', 'finished'],
    ]
    average = 100 * seeds(1)[0]['metrics']['cnn'][sweep_table.METRICS[0]]
    assert capsys.readouterr().out.splitlines()[0] == (
        '1/2 method=lucir,seed=0: 61 s, average incremental accuracy '
        f'{average:.1f} % (cnn), 0 s left'
    )


@pytest.mark.parametrize(
    ('program', 'error'),
    [
        ('print(1); raise SystemExit("error: oh\\n")', 'status 1: error: oh'),
        ('import os; os.kill(os.getpid(), 9)', 'signal 9: no output'),
    ],
)
def test_a_failed_run_leaves_its_last_line(program, error, tmp_path):
    (tmp_path / 'logs').mkdir()
    command = [sys.executable, '-c', program]
    run = sweep_grid.Run('run', {'seed': '0'}, tmp_path / 'run', command)
    environment = sweep.environment(tmp_path, jobs=1)
    processes = sweep_worker.Processes(environment, shared=False)
    for _ in range(2):  # What an attempt printed is not the next one's error.
        entry, _ = sweep.execute(processes, run)
    assert (entry['state'], entry['error']) == ('failed', error)
    assert run.log.read_text().startswith(f'$ {sys.executable} -c ')
    assert sweep.describe(entry) == f'failed: {error}'


def test_a_shared_process_that_dies_fails_one_run_only(tmp_path):
    processes = sweep_worker.Processes(
        sweep.environment(tmp_path, jobs=1), shared=True
    )
    log = tmp_path / 'log'
    wrong = ['-', f'{CONFIG}.py', f'--workdir={tmp_path}']
    assert processes.run(wrong, log) == 2
    (process,) = processes._live
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.run(wrong, log) == -signal.SIGKILL
    assert processes.run(wrong, log) == 2
    processes.close()
    assert process.poll() is not None
    assert 'configs/digits.py.py' in log.read_text()
    with pytest.raises(InterruptedError):
        processes.run(wrong, log)


def test_runs_at_a_time_have_an_accelerator_each(tmp_path, monkeypatch):
    names = list(sweep_worker.device_variables(0))
    program = f'import os; print(*(os.environ[n] for n in {names}))'
    processes = sweep_worker.Processes(
        dict(os.environ), shared=False, devices=2
    )
    together = threading.Barrier(4)

    def do(number):
        together.wait()
        logs = [tmp_path / f'{number}-{i}' for i in range(2)]
        for log in logs:
            assert processes.run([sys.executable, '-c', program], log) == 0
        first, second = (log.read_text().split() for log in logs)
        assert first == second  # A thread keeps its accelerator.
        return first

    with futures.ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(do, range(4)))
    assert [each[:2] for each in found] == [['0', '0']] * 2 + [['1', '1']] * 2
    # A chip is a slice of its own, whose process looks for no other.
    config = types.SimpleNamespace(jax_platforms='tpu,cpu')
    monkeypatch.setattr(multihost, 'jax', types.SimpleNamespace(config=config))
    for name in ('PROCESS_ADDRESSES', 'WORKER_HOSTNAMES'):
        monkeypatch.delenv(f'TPU_{name}', raising=False)
    assert multihost.may_have_peers()
    for name, value in sweep_worker.device_variables(1).items():
        monkeypatch.setenv(name, value)
    assert not multihost.may_have_peers()


def test_a_shared_process_knows_the_fields_of_a_plug_in():
    name = 'own_method'
    flags = [f'plugins=examples/{name}.py', f'method.{name}.weight=2.5']
    given = [CONFIG, '--workdir=w', *[f'--config.{flag}' for flag in flags]]
    config, workdir = sweep_worker.load(given)
    assert config.method[name].weight == 2.5
    assert workdir == 'w'


def test_a_sweep_continues_after_failures_and_says_so(tmp_path):
    done = sweep_process(
        f'--out={tmp_path}', '--grid=method=lucyr,icorl', '--small'
    )
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 2
    content = json.loads((tmp_path / 'sweep.json').read_text())
    for run, name in zip(content['runs'], ('lucyr', 'icorl'), strict=True):
        assert run['state'] == 'failed'
        start = f"status 2: error: method.name='{name}': must be "
        assert run['error'].startswith(start)
        assert run['error'] in done.stderr
        assert not (tmp_path / run['name']).exists()
    assert '2/2 method=icorl' in done.stdout


@pytest.mark.slow
def test_a_sweep_twice_runs_once(tmp_path):
    flags = (
        f'--out={tmp_path}',
        '--grid=strategy=random,herding',
        '--set=protocol.phases=1',
        '--set=exemplars.adjust=false',
        '--small',
        '--in-process',
    )
    done = sweep_process(*flags)
    assert done.returncode == 0, done.stderr
    assert '2/2 strategy=herding: ' in done.stdout
    content = json.loads((tmp_path / 'sweep.json').read_text())
    assert [run['state'] for run in content['runs']] == ['finished'] * 2
    assert content['versions']['jax']
    results = json.loads(
        (tmp_path / 'strategy=herding' / 'results.json').read_text()
    )
    averages = results['average_incremental_accuracy']
    assert results['config']['train']['epochs'] == 2
    for head, metrics in content['cells'][1]['metrics'].items():
        found = metrics['average_incremental_accuracy']
        assert found == {'mean': averages[head], 'std': None, 'n': 1}
    for name in ('sweep.md', 'sweep.csv'):
        assert 'herding' in (tmp_path / name).read_text()

    logs = [path.stat() for path in (tmp_path / 'logs').iterdir()]
    done = sweep_process(*flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('2 of 2 runs finished before\ntable: ')
    assert [p.stat() for p in (tmp_path / 'logs').iterdir()] == logs
    again = json.loads((tmp_path / 'sweep.json').read_text())
    assert again == content


def test_a_sweep_ends_while_its_process_outlives_the_signal(
    tmp_path, monkeypatch
):
    """As one does that saves its run first, and continues with the next."""
    stub = tmp_path / 'stub.py'
    stub.write_text(
        'import signal, sys\n'
        'signal.signal(signal.SIGTERM, lambda *_: None)\n'
        'for line in sys.stdin:\n'
        '    print(0, flush=True)\n'
    )
    monkeypatch.setattr(sweep_worker, '__file__', str(stub))
    processes = sweep_worker.Processes(dict(os.environ), shared=True)
    assert processes.run(['python'], tmp_path / 'log') == 0
    (process,) = processes._live
    end = threading.Thread(target=processes.close)
    end.start()
    end.join(timeout=30)
    ended = not end.is_alive()
    process.kill()
    end.join()
    assert ended
    assert process.returncode == 0
