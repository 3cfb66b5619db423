"""Tests of mnemonics_jax.train.metric_writer."""

import contextlib
import functools
import io
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
import time
import types

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from mnemonics_jax.report.figures.images import as_png
from mnemonics_jax.train import logs, metric_writer, run_time, tensorboard
from mnemonics_jax.train.tensorboard import Events


@pytest.fixture(autouse=True)
def plain_output(monkeypatch):
    """What would make a terminal of anything, or of nothing, is unset."""
    for name in ('FORCE_COLOR', 'NO_COLOR', 'TTY_COMPATIBLE', 'COLUMNS'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    found = types.SimpleNamespace(now=100.0)
    found.monotonic = lambda: found.now
    monkeypatch.setattr(metric_writer, 'time', found)
    return found


def lines(workdir):
    text = (workdir / 'metrics.jsonl').read_text()
    assert text == '' or text.endswith('\n')
    return [json.loads(line) for line in text.splitlines()]


def recorder_of_events(workdir, *, anew=False, **where):
    """A recorder whose log is TensorBoard's, as of a start of a run."""
    path = workdir / 'metrics.jsonl'
    steps = [r['global_step'] for r in metric_writer.read_records(path)]
    history = logs.read_history(
        workdir, 'tensorboard', 1 + max(steps, default=-1), 0, anew=anew
    )
    return metric_writer.Recorder(
        workdir,
        open_log=functools.partial(
            logs.Guarded, workdir, 'tensorboard', history, {}
        ),
        **where,
    )


def write_records(workdir, *, first_phase, phases, num=2):
    """Records of a process that runs some phases."""
    with recorder_of_events(workdir, first_phase=first_phase) as recorder:
        for phase in phases:
            for epoch in range(num):
                recorder.record(phase, 'train', epoch=epoch, loss=0.5 + epoch)


def events(workdir):
    """TensorBoard's events: length, checksum, the event, checksum."""
    found = []
    for path in sorted(workdir.glob('events.out.tfevents.*')):
        content = path.read_bytes()
        while content:
            size, length_crc = struct.unpack('<QI', content[:12])
            event = content[12 : 12 + size]
            (event_crc,) = struct.unpack('<I', content[12 + size : 16 + size])
            assert length_crc == masked_crc32c(content[:8])
            assert event_crc == masked_crc32c(event)
            found.append(event_pb2.Event.FromString(event))
            content = content[16 + size :]
    return found


def scalars(workdir):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(workdir)
        for value in event.summary.value
    }


def test_a_record_is_a_line_at_once(tmp_path):
    with metric_writer.Recorder(tmp_path, first_phase=0) as recorder:
        recorder.record(0, 'train', epoch=0, loss=0.25, lr=0.1)
        assert lines(tmp_path) == [
            {
                'global_step': 0,
                'phase': 0,
                'stage': 'train',
                'epoch': 0,
                'loss': 0.25,
                'lr': 0.1,
            }
        ]
        recorder.record(0, 'learn', step=10, outer_loss=2.0)
    assert lines(tmp_path)[1] == {
        'global_step': 1,
        'phase': 0,
        'stage': 'learn',
        'step': 10,
        'outer_loss': 2.0,
    }
    assert metric_writer.read_records(tmp_path / 'metrics.jsonl') == lines(
        tmp_path
    )


def as_metrics(**values):
    return {name: jnp.float32([value]) for name, value in values.items()}


def test_flush_records_the_means_since_the_last(tmp_path):
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(2, 'train', 5) as stage,
    ):
        for loss in (1.0, 2.0, 6.0):
            metrics = {
                'loss': jnp.float32([loss]),
                'accuracy': jnp.float32([0.5]),
            }
            stage.step(metrics, 8)
        first = stage.flush(epoch=0, lr=0.1)
        for loss in (5.0, 4.0):
            metrics = {
                'loss': jnp.float32([loss]),
                'accuracy': jnp.float32([1]),
            }
            stage.step(metrics, 8)
        second = stage.flush(epoch=1, lr=0.05)
    assert first == {'loss': 3.0, 'accuracy': 0.5}
    assert second == {'loss': 4.5, 'accuracy': 1.0}
    common = {'phase': 2, 'stage': 'train'}
    assert lines(tmp_path) == [
        {'global_step': 0, 'epoch': 0, 'lr': 0.1, **first, **common},
        {'global_step': 1, 'epoch': 1, 'lr': 0.05, **second, **common},
    ]


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_and_is_not_recorded(tmp_path, bad):
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(2, 'train', 2) as stage,
    ):
        stage.at('epoch 1/4')
        for loss in (0.5, bad):
            stage.step({'loss': jnp.float32([loss])}, 8)
        with pytest.raises(metric_writer.DivergedError) as error:
            stage.flush(epoch=0)
    assert str(error.value) == f'phase 2 train epoch 1/4: loss is {bad}'
    assert metric_writer.read_records(tmp_path / 'metrics.jsonl') == []


def test_global_step_continues_and_phases_that_run_again_are_dropped(tmp_path):
    write_records(tmp_path, first_phase=0, phases=[0, 1, 2])
    assert [r['global_step'] for r in lines(tmp_path)] == list(range(6))
    kept = lines(tmp_path)[:2]
    # Phase 1 had ended, its checkpoint was not on disk: both run again.
    write_records(tmp_path, first_phase=1, phases=[1], num=3)
    found = lines(tmp_path)
    assert found[:2] == kept
    assert [r['phase'] for r in found] == [0, 0, 1, 1, 1]
    assert [r['global_step'] for r in found] == list(range(5))


def test_nothing_is_dropped_by_a_run_that_is_finished(tmp_path):
    write_records(tmp_path, first_phase=0, phases=[0, 1])
    before = (tmp_path / 'metrics.jsonl').read_bytes()
    write_records(tmp_path, first_phase=2, phases=[])
    assert (tmp_path / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize('torn', ['{"global_step": 4, "pha', '{', 'nul'])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    write_records(tmp_path, first_phase=0, phases=[0, 1])
    path = tmp_path / 'metrics.jsonl'
    whole = lines(tmp_path)
    with path.open('a') as file:
        file.write(torn)
    assert metric_writer.read_records(path) == whole
    write_records(tmp_path, first_phase=2, phases=[2])
    found = lines(tmp_path)
    assert found[:4] == whole
    assert [r['global_step'] for r in found] == list(range(6))


WRITE_UNTIL_KILLED = """
import pathlib, sys
from mnemonics_jax.train.metric_writer import Recorder
with Recorder(pathlib.Path(sys.argv[1]), first_phase=9) as recorder:
    while True:
        recorder.record(0, 'train', **{f'metric_{i}': i / 7 for i in range(40)})
"""


def test_a_kill_tears_no_line(tmp_path):
    """A real process that does nothing but record, killed while it does."""
    path = tmp_path / 'metrics.jsonl'
    for _ in range(2):  # The second one continues the file of the first.
        before = path.stat().st_size if path.exists() else 0
        process = subprocess.Popen(
            [sys.executable, '-c', WRITE_UNTIL_KILLED, str(tmp_path)],
            cwd=pathlib.Path(metric_writer.__file__).parent.parent,
        )
        while not path.exists() or path.stat().st_size < before + 200_000:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        found = lines(tmp_path)  # Fails at a line that is none.
        assert [r['global_step'] for r in found] == list(range(len(found)))
        with path.open('a') as file:  # As a disk might leave it.
            file.write('{"global_step": 1')


def test_an_image_of_the_events_is_read_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (130, 20, 3), np.uint8)
    log = Events(tmp_path, None)
    log.image(2, 'exemplars', as_png(pixels), pixels.shape)
    log.close(finished=True)
    event = events(tmp_path)[-1]
    assert event.step == 2
    (value,) = event.summary.value
    assert value.tag == 'exemplars'
    image = value.image
    assert (image.height, image.width, image.colorspace) == (130, 20, 3)
    found = PIL.Image.open(io.BytesIO(image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(found), pixels)


def test_read_records_of_no_file(tmp_path):
    assert metric_writer.read_records(tmp_path / 'metrics.jsonl') == []


def test_write_atomically_replaces_the_file(tmp_path):
    path = tmp_path / 'results.json'
    metric_writer.write_atomically(path, 'old')
    metric_writer.write_atomically(path, 'new')
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_leaves_the_old_file_when_writing_fails(
    tmp_path, monkeypatch
):
    path = tmp_path / 'results.json'
    metric_writer.write_atomically(path, 'old and whole')
    write = pathlib.Path.write_text

    def fill_the_disk(self, text, *args, **kwargs):
        write(self, text[: len(text) // 2], *args, **kwargs)
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, 'write_text', fill_the_disk)
    with pytest.raises(OSError, match='No space left'):
        metric_writer.write_atomically(path, 'new but torn')
    assert path.read_text() == 'old and whole'
    monkeypatch.undo()
    metric_writer.write_atomically(path, 'new')
    assert path.read_text() == 'new'


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys, clock):
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(1, 'train', 4) as stage,
    ):
        for step, seconds in enumerate((5, 19, 20, 41)):
            clock.now = 100.0 + seconds
            stage.step({'loss': jnp.float32([step / 8])}, 30)
        stage.flush(epoch=0)
    # One line after 20 seconds, the next after 20 more.
    assert capsys.readouterr().out.splitlines() == [
        'phase 1 train 3/4: loss 0.250, 7 s left, 4 images/s',
        'phase 1 train 4/4: loss 0.375, 0 s left, 3 images/s',
    ]


def test_lines_show_the_outer_loss_where_there_is_no_loss(
    tmp_path, capsys, clock
):
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(0, 'learn', 2) as stage,
    ):
        clock.now += 20
        stage.step({'outer_loss': jnp.float32([1.5])}, 40)
    out = capsys.readouterr().out
    assert out == 'phase 0 learn 1/2: loss 1.500, 20 s left, 2 images/s\n'


def test_say_prints_a_line(tmp_path, capsys):
    with metric_writer.Recorder(tmp_path, first_phase=0) as recorder:
        recorder.say('resuming after phase 1')
        # At once: a pipe's reader does not wait for the end.
        assert capsys.readouterr().out == 'resuming after phase 1\n'


class Terminal(io.StringIO):
    """Something that says it is a terminal."""

    def isatty(self):
        return True


def test_a_bar_on_a_terminal(tmp_path, monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr('sys.stdout', terminal)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '120')
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(1, 'finetune', 6) as stage,
    ):
        for step in range(3):
            clock.now += 1
            stage.step({'loss': jnp.float32([step / 8])}, 10)
    shown = terminal.getvalue()
    assert 'phase 1 finetune' in shown
    assert '3/6' in shown
    assert 'loss 0.250, 3 s left, 10 images/s' in shown


@pytest.mark.parametrize('terminal', [False, True])
def test_a_slow_first_step_is_said_to_compile(tmp_path, monkeypatch, terminal):
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr('sys.stdout', out)
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setattr(metric_writer, '_COMPILE_SECONDS', 0.01)
    said = threading.Event()
    say = metric_writer.StageProgress._say_compiling

    def say_and_tell(self):
        say(self)
        said.set()

    monkeypatch.setattr(
        metric_writer.StageProgress, '_say_compiling', say_and_tell
    )
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(1, 'train', 4) as stage,
    ):
        with stage.compiling():
            assert said.wait(30)
        stage.step({'loss': jnp.float32([0.5])}, 10)
    assert ('compiling' if terminal else 'phase 1 train: compiling\n') in (
        out.getvalue()
    )


def test_a_fast_first_step_is_not_said_to_compile(tmp_path, capsys):
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(1, 'train', 4) as stage,
        stage.compiling(),
    ):
        pass
    assert capsys.readouterr().out == ''


def test_compiling_does_not_count_in_the_speed(tmp_path, capsys, clock):
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(1, 'train', 8) as stage,
    ):
        with stage.compiling():
            clock.now += 1000
        for _ in range(4):
            clock.now += 5
            stage.step({'loss': jnp.float32([0.5])}, 10)
    out = capsys.readouterr().out
    assert out == 'phase 1 train 4/8: loss 0.500, 20 s left, 2 images/s\n'


def test_time_left_of_the_run():
    steps = [{'train': 100}, {'train': 40, 'adjust': 10, 'finetune': 5}]
    times = run_time.RunTime([*steps, steps[1]])
    times.ran('train', 2.0)
    # 2 x 40 steps of training follow; the speed of the others is not known.
    assert times.left(0, 'train', 30) == '30 s left (run: over 3 min)'
    times.ran('adjust', 60.0)
    times.ran('finetune', 1000.0)
    # 5,000 s of this phase, then 80 + 600 + 5,000 of the last.
    assert times.left(1, 'adjust', 1) == '1 s left (run: 2.97 h)'
    # A loop that no phase lists, as a strategy's own: all of this phase.
    assert times.left(2, 'own', 1) == '1 s left (run: 95 min)'
    assert times.left(2, 'finetune', 7) == '7 s left'


def test_the_speed_of_a_finished_loop_counts_later(tmp_path, capsys, clock):
    times = run_time.RunTime([{'train': 4}, {'train': 2}, {'train': 2}])
    with metric_writer.Recorder(
        tmp_path, first_phase=0, run_time=times
    ) as recorder:
        with recorder.stage(0, 'train', 4) as stage:
            for _ in range(4):
                clock.now += 3
                stage.step({'loss': jnp.float32([0.5])}, 10)
        with recorder.stage(1, 'train', 2) as stage:
            clock.now += 20
            stage.step({'loss': jnp.float32([0.5])}, 10)
    # The last phase at the speed of this one.
    assert capsys.readouterr().out == (
        'phase 1 train 1/2: loss 0.500, 20 s left (run: 60 s), 0 images/s\n'
    )


def test_steps_do_not_wait_for_the_device(tmp_path, clock):
    class Pending:
        """A value that must not be read before it is needed."""

        def __len__(self):
            return 1

        def __array__(self, *args, **kwargs):
            raise AssertionError('read')

    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(0, 'train', 100) as stage,
    ):
        for _ in range(50):
            clock.now += 0.39  # 19.5 seconds in all.
            stage.step({'loss': Pending()}, 8)
        clock.now += 1
        with pytest.raises(AssertionError, match='read'):
            stage.step({'loss': Pending()}, 8)


def test_tensorboard_events_hold_the_scalars(tmp_path):
    with (
        recorder_of_events(tmp_path, first_phase=0) as recorder,
        recorder.stage(0, 'train', 2) as stage,
    ):
        for epoch, loss in enumerate((1.5, 0.75)):
            stage.step({'loss': jnp.float32([loss])}, 8)
            stage.flush(epoch=epoch, lr=0.125)
        recorder.record(0, 'learn', step=3, outer_loss=0.25)
    assert {event.file_version for event in events(tmp_path)} == {
        'brain.Event:2',
        '',
    }
    assert all(event.wall_time > 1.7e9 for event in events(tmp_path))
    assert scalars(tmp_path) == {
        ('train/loss', 1): 1.5,
        ('train/lr', 1): 0.125,
        ('train/loss', 2): 0.75,
        ('train/lr', 2): 0.125,
        ('learn/outer_loss', 4): 0.25,
    }


def test_steps_count_epochs_and_outer_steps_apart_over_all_phases(tmp_path):
    with recorder_of_events(tmp_path, first_phase=0) as recorder:
        for phase in range(3):
            for epoch in range(4):
                recorder.record(phase, 'train', epoch=epoch, loss=1.0)
            for step in (4, 9):
                recorder.record(phase, 'learn', step=step, outer_loss=1.0)
            for epoch in range(2):
                recorder.record(phase, 'finetune', epoch=epoch, loss=1.0)
    steps = {}
    for tag, step in scalars(tmp_path):
        steps.setdefault(tag, []).append(step)
    assert steps == {
        'train/loss': list(range(1, 13)),
        'learn/outer_loss': [5, 10, 15, 20, 25, 30],
        'finetune/loss': list(range(1, 7)),
    }


def test_events_of_long_runs_are_read_back(tmp_path):
    """Steps and texts of more than 127 take bytes of their own."""
    tag = f'train/{"term" * 100}'
    log = Events(tmp_path, None)
    log.scalars(2**40 + 129, {tag: 0.1}, 'epoch')
    log.close(finished=True)
    assert scalars(tmp_path) == {(tag, 2**40 + 129): float(np.float32(0.1))}


def starts(workdir):
    """Steps from which on TensorBoard hides what earlier files have."""
    return [
        event.step
        for event in events(workdir)
        if event.session_log.status == event_pb2.SessionLog.START
    ]


def logged(workdir):
    """Tag, step and value of all scalars, in the order of writing."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(workdir)
        for value in event.summary.value
    ]


@pytest.fixture
def ordered(monkeypatch):
    """Event files whose names are in the order of their starts."""
    hosts = (f'{number:03}' for number in range(100))
    monkeypatch.setattr(tensorboard.socket, 'gethostname', lambda: next(hosts))
    monkeypatch.setattr(tensorboard.time, 'time', lambda: 2e9)


@pytest.mark.usefixtures('ordered')
def test_steps_that_run_again_are_logged_once(tmp_path):
    """Also if the second start is killed before it gets as far as the first."""
    for first, last in ((0, 5), (2, 3), (2, 8)):
        with recorder_of_events(
            tmp_path, first_phase=0, num_records=first
        ) as recorder:
            for epoch in range(first, last):
                recorder.record(0, 'train', epoch=epoch, loss=float(epoch))
    assert logged(tmp_path) == [
        ('train/loss', epoch + 1, float(epoch)) for epoch in range(8)
    ]
    assert starts(tmp_path) == [0]


@pytest.mark.usefixtures('ordered')
def test_a_log_begun_anew_has_what_is_kept_and_hides_the_earlier(tmp_path):
    write_records(tmp_path, first_phase=0, phases=[0, 1])
    with recorder_of_events(tmp_path, first_phase=1, anew=True) as recorder:
        recorder.record(1, 'train', epoch=0, loss=9.0)
    assert starts(tmp_path) == [0, 0]
    assert logged(tmp_path)[4:] == [
        ('train/loss', 1, 0.5),
        ('train/loss', 2, 1.5),
        ('train/loss', 3, 9.0),
    ]


def test_a_log_that_cannot_be_written_costs_a_line(tmp_path, capsys):
    with recorder_of_events(tmp_path, first_phase=0) as recorder:
        recorder.record(0, 'train', epoch=0, loss=1.0)
        file = recorder.log._log._file
        with open('/dev/full', 'wb') as full:
            os.dup2(full.fileno(), file.fileno())
        for epoch in (1, 2):
            recorder.record(0, 'train', epoch=epoch, loss=1.0)
        with contextlib.suppress(OSError):  # What it still holds.
            file.close()
    assert len(lines(tmp_path)) == 3
    assert capsys.readouterr().out == (
        'warning: log.to=tensorboard: OSError: [Errno 28] No space left on '
        'device; nothing more is logged there by this start\n'
    )


def test_a_stage_says_where_it_is(tmp_path, capsys, clock):
    with (
        metric_writer.Recorder(tmp_path, first_phase=0) as recorder,
        recorder.stage(2, 'train', 10) as stage,
    ):
        stage.at('epoch 1/2')
        clock.now += 30
        stage.step({'loss': jnp.float32([1.5])}, 4)
        stage.at('epoch 2/2')
        clock.now += 30
        stage.step({'loss': jnp.float32([1.0])}, 4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in lines] == [
        'phase 2 train epoch 1/2 1/10',
        'phase 2 train epoch 2/2 2/10',
    ]


def test_records_that_are_gone_are_counted_and_the_others_keep_their_numbers(
    tmp_path, capsys
):
    """Of four records before the checkpoint, one is zeroed and two are gone."""
    write_records(tmp_path, first_phase=0, phases=[0], num=5)
    path = tmp_path / 'metrics.jsonl'
    written = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(written[0] + bytes(len(written[1])) + written[4])
    with metric_writer.Recorder(
        tmp_path, first_phase=0, num_records=4
    ) as recorder:
        recorder.record(0, 'train', epoch=4, loss=9.0)
    assert capsys.readouterr().out == (
        'metrics.jsonl: 3 of 4 records are damaged or missing\n'
    )
    assert [line['global_step'] for line in lines(tmp_path)] == [0, 4]
