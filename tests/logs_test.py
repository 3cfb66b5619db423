"""Logs in Weights & Biases and MLflow, through recording fakes of both."""

import json
import pathlib
import sys
import types

import numpy as np
import PIL.Image
import pytest
from command import assert_refused, call_main

from mnemonics_jax import experiment
from mnemonics_jax.core.workdir import read_records
from mnemonics_jax.report.figures.images import as_png
from mnemonics_jax.train import logs

PNG = as_png(np.zeros((4, 8, 3), np.uint8))


class FakeWandb(types.ModuleType):
    """As much of the package as is used; rows of all starts by id of a run."""

    def __init__(self):
        super().__init__('wandb')
        self.starts, self.rows, self.axes, self.ends = [], {}, {}, []
        self.fails_from = None

    def init(self, **given):
        self.starts.append(given)
        rows = self.rows.setdefault(given['id'], [])

        def log(row):
            if self.fails_from is not None and len(rows) >= self.fails_from:
                raise ConnectionError('no route\nto host')
            rows.append(row)

        return types.SimpleNamespace(
            log=log,
            define_metric=lambda tag, step_metric: self.axes.update(
                {tag: step_metric}
            ),
            finish=self._finish,
        )

    def _finish(self, exit_code):
        self.ends.append(exit_code)

    @staticmethod
    def Settings(**given):  # noqa: N802
        return given

    @staticmethod
    def Image(picture):  # noqa: N802
        return picture.size

    def curve(self, run, tag):
        axis = self.axes[tag]
        return [(row[axis], row[tag]) for row in self.rows[run] if tag in row]


class FakeMlflow(types.ModuleType):
    """As much of the package as is used; what runs hold, by id."""

    def __init__(self):
        super().__init__('mlflow')
        self.servers, self.experiments, self.runs = [], {}, {}
        self.entities = types.SimpleNamespace(
            Metric=lambda key, value, timestamp, step: (key, step, value),
            Param=lambda key, value: (key, value),
        )

    def MlflowClient(self, server):  # noqa: N802
        self.servers.append(server)
        return FakeClient(self)


class FakeClient:
    def __init__(self, store):
        self.store = store

    def get_experiment_by_name(self, name):
        return self.store.experiments.get(name)

    def create_experiment(self, name, images):
        found = types.SimpleNamespace(experiment_id='7', images=images)
        self.store.experiments[name] = found
        return found.experiment_id

    def create_run(self, experiment, run_name):
        assert experiment == '7'
        run_id = f'run-{len(self.store.runs)}'
        self.store.runs[run_id] = types.SimpleNamespace(
            name=run_name, metrics=[], params={}, images={}, states=[]
        )
        info = types.SimpleNamespace(run_id=run_id)
        return types.SimpleNamespace(info=info)

    def update_run(self, run_id, status):
        self.store.runs[run_id].states.append(status)

    set_terminated = update_run

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100  # As the service asks.
        run = self.store.runs[run_id]
        assert not {key for key, _ in params} & set(run.params)
        run.params.update(params)
        run.metrics.extend(metrics)

    def log_artifact(self, run_id, path, folder):
        name = f'{folder}/{pathlib.Path(path).name}'
        with PIL.Image.open(path) as picture:
            self.store.runs[run_id].images[name] = picture.size


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ('WANDB_MODE', 'WANDB_PROJECT', 'WANDB_NAME'):
        monkeypatch.delenv(name, raising=False)
    for name in ('MLFLOW_TRACKING_URI', 'MLFLOW_EXPERIMENT_NAME'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    return fake


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, 'mlflow', fake)
    return fake


def open_log(workdir, to, num_written=0, *, anew=False, say=print):
    history = logs.read_history(workdir, to, num_written, 0, anew=anew)
    config = {'seed': 3, 'exemplars': {'per_class': 5}}
    return logs.Guarded(workdir, to, history, config, say)


def fill(log, first=0):
    log.scalars(first + 1, {'train/loss': 0.5}, 'epoch')
    log.scalars(10 * first + 10, {'learn/outer_loss': 0.25}, 'outer_step')
    log.scalars(first, {'test/cnn': 0.75}, 'phase')
    log.image(first, 'exemplars', PNG, (4, 8, 3))


def test_wandb_is_offline_and_draws_each_tag_over_its_own_steps(
    wandb, tmp_path
):
    log = open_log(tmp_path / '.', 'wandb')
    fill(log)
    log.close(finished=True, num_records=3)
    (start,) = wandb.starts
    assert start['mode'] == 'offline'
    assert start['dir'] == str(tmp_path)
    assert start['name'] == tmp_path.name
    assert start['config'] == {'seed': 3, 'exemplars': {'per_class': 5}}
    assert wandb.axes == {
        'train/loss': 'epoch',
        'learn/outer_loss': 'outer_step',
        'test/cnn': 'phase',
        'exemplars': 'phase',
    }
    assert wandb.rows[start['id']] == [
        {'epoch': 1, 'train/loss': 0.5},
        {'outer_step': 10, 'learn/outer_loss': 0.25},
        {'phase': 0, 'test/cnn': 0.75},
        {'phase': 0, 'exemplars': (8, 4)},
    ]
    assert wandb.ends == [0]


def test_mlflow_is_in_the_work_directory_with_the_configuration(
    mlflow, tmp_path
):
    log = open_log(tmp_path, 'mlflow')
    fill(log)
    log.close(finished=True, num_records=3)
    assert mlflow.servers == [f'sqlite:///{tmp_path}/mlflow.db']
    found = mlflow.experiments['mnemonics_jax']
    assert found.images == (tmp_path / 'mlruns').as_uri()
    (run,) = mlflow.runs.values()
    assert run.name == tmp_path.name
    assert run.params == {'seed': '3', 'exemplars.per_class': '5'}
    assert run.metrics == [
        ('train/loss', 1, 0.5),
        ('learn/outer_loss', 10, 0.25),
        ('test/cnn', 0, 0.75),
    ]
    assert run.images == {'exemplars/phase_0.png': (8, 4)}
    assert run.states == ['FINISHED']


def test_the_users_settings_are_left_alone(
    wandb, mlflow, tmp_path, monkeypatch
):
    monkeypatch.setenv('WANDB_MODE', 'online')
    monkeypatch.setenv('WANDB_PROJECT', 'own')
    open_log(tmp_path, 'wandb')
    assert wandb.starts[0]['mode'] == 'online'
    assert wandb.starts[0]['project'] == 'own'
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'https://tracking.example.org')
    monkeypatch.setenv('MLFLOW_EXPERIMENT_NAME', 'own')
    open_log(tmp_path, 'mlflow')
    assert mlflow.servers == ['https://tracking.example.org']
    assert mlflow.experiments['own'].images is None


@pytest.mark.parametrize('to', ['wandb', 'mlflow'])
def test_a_later_start_continues_the_same_run(to, tmp_path, wandb, mlflow):
    open_log(tmp_path, to).close(finished=False, num_records=4)
    run = json.loads((tmp_path / 'log.json').read_text())['run']
    later = open_log(tmp_path, to, num_written=4)
    assert later.history.records == 4
    later.close(finished=True, num_records=6)
    # The third is told of fewer, as if it did not get as far as the second.
    assert open_log(tmp_path, to, num_written=5).history.records == 6
    if to == 'wandb':
        assert {start['id'] for start in wandb.starts} == {run}
        assert {start['resume'] for start in wandb.starts} == {'allow'}
        assert wandb.ends == [1, 0]
    else:
        assert list(mlflow.runs) == [run]
        states = ['KILLED', 'RUNNING', 'FINISHED', 'RUNNING']
        assert mlflow.runs[run].states == states


def test_what_a_killed_process_logged_is_sent_again_to_wandb_alone(
    tmp_path, wandb, mlflow
):
    """W&B loses it: its files are written late, by a process of its own."""
    for to, records in (('wandb', 4), ('mlflow', 9)):
        open_log(tmp_path, to).close(finished=False, num_records=4)
        fill(open_log(tmp_path, to, num_written=4))  # Never closed.
        found = open_log(tmp_path, to, num_written=9)
        assert found.history.records == records


@pytest.mark.parametrize('content', ['', '[]', '{"to": "wandb", "run": 3}'])
def test_a_damaged_or_another_log_is_begun_anew(content, wandb, tmp_path):
    (tmp_path / 'log.json').write_text(content)
    assert open_log(tmp_path, 'wandb', num_written=4).history.records == 0
    open_log(tmp_path, 'tensorboard').close(finished=True, num_records=3)
    assert open_log(tmp_path, 'wandb', num_written=4).history.records == 0
    open_log(tmp_path, 'wandb').close(finished=True, num_records=4)
    assert open_log(tmp_path, 'wandb', num_written=4).history.records == 4
    assert open_log(tmp_path, 'wandb', 4, anew=True).history.records == 0
    assert len({start['id'] for start in wandb.starts}) == 3


def test_a_log_that_cannot_be_opened_costs_a_line(wandb, tmp_path, monkeypatch):
    def init(**given):
        raise TimeoutError('no answer\nin 90 s')

    monkeypatch.setattr(wandb, 'init', init)
    said = []
    log = open_log(tmp_path, 'wandb', say=said.append)
    fill(log)
    log.close(finished=True, num_records=3)
    assert said == [
        'warning: log.to=wandb: TimeoutError: no answer in 90 s; nothing more '
        'is logged there by this start'
    ]
    assert not (tmp_path / 'log.json').exists()


@pytest.mark.parametrize('to', ['wandb', 'mlflow'])
def test_a_missing_package_is_a_line_before_any_work(to, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, to, None)
    with pytest.raises(ValueError) as caught:
        logs.check_installed(to)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"log.to='{to}': ")
    assert line.endswith(f"; to install it: pip install 'mnemonics-jax[{to}]'")
    logs.check_installed('tensorboard')


def test_the_command_refuses_a_log_that_is_unknown(tmp_path):
    done = call_main(f'--workdir={tmp_path / "run"}', '--config.log.to=paper')
    assert_refused(
        done, "log.to='paper': must be one of tensorboard, wandb, mlflow"
    )


def test_a_run_that_changes_and_loses_its_log_is_logged_once(
    wandb, tiny_config, tmp_path, one_device, capsys
):
    """Phase 0 in TensorBoard, then W&B, which fails at the end."""
    tiny_config.exemplars.strategy = 'herding'

    def run(last, to):
        tiny_config.protocol.stop_after_phase = last
        tiny_config.log.to = to
        parts = experiment.prepare(tiny_config, tmp_path, one_device)
        return experiment.run(parts, tmp_path)

    def records():
        return read_records(tmp_path / 'metrics.jsonl')

    run(0, 'tensorboard')
    assert wandb.starts == []
    results = run(1, 'wandb')
    (name,) = wandb.rows
    # Also what TensorBoard had got.
    losses = [r['loss'] for r in records() if r['stage'] == 'train']
    found = wandb.curve(name, 'train/loss')
    assert found == list(enumerate(losses, start=1))
    for axis, tag in (('phase', 'test'), ('num_seen', 'test_by_classes')):
        assert wandb.curve(name, f'{tag}/nme') == [
            (phase[axis], phase['accuracy']['nme'])
            for phase in results['phases']
        ]
    assert [p for p, _ in wandb.curve(name, 'exemplars')] == [1]
    # As if W&B had lost phase 1, whose process was killed.
    state = json.loads((tmp_path / 'log.json').read_text())
    assert state['records'] == len(records())
    assert state['phases'] == 2
    first = [r for r in records() if r['phase'] == 0]
    state.update(records=len(first), phases=1)
    (tmp_path / 'log.json').write_text(json.dumps(state))
    sent = len(wandb.rows[name])
    lost = len(records()) - len(first)
    wandb.fails_from = sent + lost + 2 + 1  # Phase 1, and an epoch of phase 2.
    capsys.readouterr()
    assert run(2, 'wandb')['complete']
    assert {start['id'] for start in wandb.starts} == {name}
    again = wandb.rows[name][sent:]
    assert [row['epoch'] for row in again if 'train/loss' in row] == [3, 4, 5]
    assert [row['phase'] for row in again if 'test/cnn' in row] == [1]
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if 'log.to' in line] == [
        'warning: log.to=wandb: ConnectionError: no route to host; nothing '
        'more is logged there by this start'
    ]
    assert len([r for r in records() if r['stage'] == 'train']) == 6
    assert len(list(tmp_path.glob('events.out.tfevents.*'))) == 1
