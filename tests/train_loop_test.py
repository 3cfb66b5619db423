"""Tests of mnemonics_jax.train.loop: loops that go on where they were."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnemonics_jax.core import manifest
from mnemonics_jax.core.multistep import Dispatch, Loop
from mnemonics_jax.core.workdir import read_records
from mnemonics_jax.train import loop as loop_lib
from mnemonics_jax.train.checkpoint import Checkpointer, LoopPosition
from mnemonics_jax.train.loop import ResumableLoops, SavePolicy
from mnemonics_jax.train.metric_writer import DivergedError, Recorder
from mnemonics_jax.train.preemption import Interrupt, InterruptError

PHASE = 3
NUM_STEPS = 7
NEVER = SavePolicy(0, 0)
MARK_EVERY = 3  # Steps a record; the last one is of a single step.


class KillError(Exception):
    """Stands for a process that ends at once."""


@functools.partial(jax.jit, donate_argnums=0)
def update(state, batch):
    """An update that tells every order and every bit apart."""
    key = jax.random.fold_in(jax.random.key(1), state['count'])
    x = state['x'] * 1.37 - state['x'] ** 2 * 0.3 + batch
    x = x + jax.random.normal(key, x.shape) * 0.01
    state = {'x': x, 'count': state['count'] + 1}
    return state, {'loss': x.mean()[None] / 3, 'x0': x[:1]}


def first_state():
    # Committed, as the runs' states are.
    device = jax.devices()[0]
    state = {'x': jnp.array([0.1, 0.7, 1.3], jnp.float32), 'count': 0}
    return jax.tree.map(lambda x: jax.device_put(x, device), state)


def make_loop(name='train', *, num_steps=NUM_STEPS, before=None, log=None):
    """A loop; `before(step)` may raise, `log` takes the steps done."""

    def dispatches(first):
        for step in range(first, num_steps):
            yield Dispatch(1, 2, np.float32(0.1 * step))

    def step(number, state, dispatch):
        if before is not None:
            before(number)
        if log is not None:
            log.append((name, number))
        return update(state, dispatch.inputs)

    def mark(number):
        due = (number + 1) % MARK_EVERY == 0 or number + 1 == num_steps
        return {'step': number} if due else None

    return Loop(name, num_steps, dispatches, step, mark)


def run(workdir, loops, *, policy=NEVER, **options):
    """What a process does: opens what is there, and runs a phase's loops.

    However it ends, saves that it began are whole then; tests/faults_test.py
    has the others.

    Returns:
        The states after each loop.
    """
    options = {'keep': 2, 'say': print, 'phase': PHASE, **options}
    with Checkpointer(
        workdir, keep=options['keep'], say=options['say']
    ) as checkpointer:
        runner = ResumableLoops(checkpointer, options.get('interrupt'), policy)
        position = runner.resume(options['phase'])
        with Recorder(
            workdir,
            first_phase=options['phase'],
            num_records=position and position.records,
        ) as recorder:
            runner.open_phase(options['phase'])
            states = [
                runner.run(loop, first_state(), recorder) for loop in loops
            ]
    return [bits(state) for state in states]


def bits(state):
    return {name: np.asarray(x).tobytes() for name, x in state.items()}


def kill_before(number):
    def before(step):
        if step == number:
            raise KillError

    return before


def records(workdir):
    return read_records(workdir / 'metrics.jsonl')


def saved(workdir):
    """Numbers of the checkpoints within a phase -> their positions."""
    folder = workdir / 'checkpoints' / 'steps'
    return {
        int(path.name): json.loads((path / 'position' / 'metadata').read_text())
        for path in sorted(folder.glob('*'))
    }


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The end of an undisturbed loop that saves nothing, and its records."""
    workdir = tmp_path_factory.mktemp('whole')
    state = run(workdir, [make_loop()])
    found = records(workdir)
    assert [record['step'] for record in found] == [2, 5, 6]
    return state, found


@pytest.mark.parametrize('every', [1, 2, 3])
def test_a_loop_ended_before_any_step_resumes_to_the_same_bits(
    tmp_path, whole, every
):
    """Also where metrics since the last record have to be carried over."""
    carried = 0
    for killed_at in range(NUM_STEPS):
        workdir = tmp_path / str(killed_at)
        workdir.mkdir()
        policy = SavePolicy(every, 0)
        broken = make_loop(before=kill_before(killed_at))
        with pytest.raises(KillError):
            run(workdir, [broken], policy=policy)
        last = killed_at - killed_at % every
        carried += last % MARK_EVERY > 0
        log = []
        found = run(workdir, [make_loop(log=log)], policy=policy)
        assert (found, records(workdir)) == whole
        assert log == [('train', n) for n in range(last, NUM_STEPS)]
    assert (carried > 0) == (every != MARK_EVERY)


def test_what_a_process_recorded_after_its_last_save_is_recorded_once(
    tmp_path, whole
):
    policy = SavePolicy(2, 0)  # The save is at 2, the record at 3.
    with pytest.raises(KillError):
        run(tmp_path, [make_loop(before=kill_before(3))], policy=policy)
    assert len(records(tmp_path)) == 1
    assert saved(tmp_path)[0]['records'] == 0
    run(tmp_path, [make_loop()], policy=policy)
    assert records(tmp_path) == whole[1]


def test_loops_that_are_finished_are_not_run_again(tmp_path):
    names = ('train', 'learn', 'finetune')
    plain = tmp_path / 'plain'
    plain.mkdir()
    expected = run(plain, [make_loop(name) for name in names])

    def loops(log, before=None):
        return [
            make_loop(name, log=log, before=before if name == 'learn' else None)
            for name in names
        ]

    with pytest.raises(KillError):
        run(tmp_path, loops([], kill_before(5)), policy=SavePolicy(4, 0))
    positions = saved(tmp_path)
    assert positions[max(positions)]['stages'] == {
        'train': NUM_STEPS,
        'learn': 4,
    }
    log = []
    found = run(tmp_path, loops(log), policy=SavePolicy(4, 0))
    assert found == expected
    assert log == [
        *(('learn', n) for n in range(4, NUM_STEPS)),
        *(('finetune', n) for n in range(NUM_STEPS)),
    ]
    assert records(tmp_path) == records(plain)


def test_a_loop_saved_at_its_very_end_is_not_run_again(tmp_path):
    policy = SavePolicy(NUM_STEPS, 0)
    expected = run(tmp_path, [make_loop()], policy=policy)
    lines, log = records(tmp_path), []
    assert run(tmp_path, [make_loop(log=log)], policy=policy) == expected
    assert log == []
    assert records(tmp_path) == lines


@pytest.mark.parametrize('asked_at', [0, 2, NUM_STEPS - 1])
def test_a_request_to_stop_saves_this_step_and_says_where(
    tmp_path, whole, asked_at
):
    interrupt, log = Interrupt(), []

    def ask(step):
        if step == asked_at:
            interrupt.signal = 'SIGTERM'

    with pytest.raises(InterruptError) as caught:
        run(tmp_path, [make_loop(before=ask, log=log)], interrupt=interrupt)
    done = asked_at + 1
    assert str(caught.value) == f'SIGTERM in phase 3 train, step {done}'
    assert len(log) == done
    (position,) = saved(tmp_path).values()
    assert (position['phase'], position['stages']) == (PHASE, {'train': done})
    log = []
    found = run(tmp_path, [make_loop(log=log)])
    assert len(log) == NUM_STEPS - done
    assert (found, records(tmp_path)) == whole


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_and_is_neither_recorded_nor_saved(
    tmp_path, bad
):
    def diverging(number, state, dispatch):
        state, metrics = update(state, dispatch.inputs)
        if number == 4:
            metrics['loss'] = jnp.float32([bad])
        return state, metrics

    # Found by the save after step 5, and by the record after step 6.
    for every in (1, 2, 0):
        workdir = tmp_path / str(every)
        workdir.mkdir()
        loop = make_loop()._replace(step=diverging, place=lambda n: 'here')
        with pytest.raises(DivergedError) as caught:
            run(workdir, [loop], policy=SavePolicy(every, 0))
        assert str(caught.value).startswith('phase 3 train here')
        assert str(caught.value).endswith(f'loss is {bad}')
        assert [record['step'] for record in records(workdir)] == [2]
        positions = saved(workdir).values()
        steps = [position['stages']['train'] for position in positions]
        assert steps == {1: [3, 4], 2: [2, 4], 0: []}[every]


def damage(workdir, seed):
    """Truncates a random file of the newest checkpoint at a random byte."""
    random = np.random.default_rng(seed)
    newest = workdir / 'checkpoints' / 'steps' / str(max(saved(workdir)))
    files = sorted(f for f in newest.rglob('*') if f.stat().st_size)
    files = [f for f in files if f.is_file()]
    file = files[random.integers(len(files))]
    os.truncate(file, random.integers(file.stat().st_size))


# A read that failed leaves Orbax's event loop closed with work in it, which
# shows when Python collects it.


@pytest.mark.parametrize('seed', range(5))
def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    tmp_path, whole, seed
):
    policy, said, log = SavePolicy(2, 0), [], []
    with pytest.raises(KillError):
        run(tmp_path, [make_loop(before=kill_before(5))], policy=policy)
    assert list(saved(tmp_path)) == [0, 1]
    damage(tmp_path, seed)
    found = run(
        tmp_path,
        [make_loop(log=log)],
        policy=policy,
        say=said.append,
    )
    assert (found, records(tmp_path)) == whole
    moved = tmp_path / 'checkpoints' / 'damaged' / 'steps_1'
    if not said:  # Not a file that reading needs.
        assert log[0] == ('train', 4)
        assert not moved.exists()
        return
    assert log[0] == ('train', 2)
    assert len(said) == 1
    assert said[0].startswith(
        'checkpoint steps/1 cannot be read, moved to damaged/steps_1: '
    )
    assert moved.is_dir()


def test_a_truncated_array_or_position_is_noticed(tmp_path, whole):
    """The files that hold numbers: of these a cut is never overlooked."""
    for name in ('d', 'metadata', 'array_metadatas'):
        workdir, said = tmp_path / name, []
        workdir.mkdir()
        with pytest.raises(KillError):
            run(
                workdir,
                [make_loop(before=kill_before(5))],
                policy=SavePolicy(2, 0),
            )
        newest = workdir / 'checkpoints' / 'steps' / '1'
        files = [
            file
            for file in newest.rglob('*')
            if file.is_file() and name in (file.parent.name, file.name)
        ]
        assert files
        for file in files:
            os.truncate(file, file.stat().st_size // 2)
        found = run(workdir, [make_loop()], say=said.append)
        assert len(said) == 1
        assert (found, records(workdir)) == whole


def test_a_record_that_changes_before_the_phase_ends_shows(tmp_path):
    with pytest.raises(KillError):
        run(
            tmp_path,
            [make_loop(before=kill_before(5))],
            policy=SavePolicy(4, 0),
        )
    assert records(tmp_path)
    assert manifest.damage(tmp_path, 'metrics.jsonl') is None
    path = tmp_path / 'metrics.jsonl'
    path.write_text(path.read_text().replace('"loss": 0.', '"loss": 1.', 1))
    assert 'not what the run wrote' in manifest.damage(
        tmp_path, 'metrics.jsonl'
    )


def test_a_checkpoint_within_another_phase_is_not_gone_on_from(tmp_path):
    """As when the phase was finished since, or its end cannot be read."""
    with pytest.raises(KillError):
        run(
            tmp_path,
            [make_loop(before=kill_before(5))],
            policy=SavePolicy(2, 0),
        )
    for phase in (PHASE - 1, PHASE + 1):
        with Checkpointer(tmp_path, keep=2) as checkpointer:
            assert ResumableLoops(checkpointer).resume(phase) is None
        log = []
        run(tmp_path, [make_loop(log=log)], phase=phase)
        assert len(log) == NUM_STEPS


def test_the_position_holds_for_the_phase_that_it_was_made_in_alone(tmp_path):
    """The next phase of the same process starts its loops anew."""
    with pytest.raises(KillError):
        run(
            tmp_path,
            [make_loop(before=kill_before(5))],
            policy=SavePolicy(2, 0),
        )
    log = []
    with (
        Checkpointer(tmp_path, keep=2) as checkpointer,
        Recorder(tmp_path, first_phase=PHASE) as recorder,
    ):
        runner = ResumableLoops(checkpointer)
        assert runner.resume(PHASE).stages == {'train': 4}
        for phase in (PHASE, PHASE + 1):
            runner.open_phase(phase)
            runner.run(make_loop(log=log), first_state(), recorder)
    assert log == [
        *(('train', n) for n in range(4, NUM_STEPS)),
        *(('train', n) for n in range(NUM_STEPS)),
    ]


@pytest.mark.parametrize('keep', [1, 3])
def test_as_many_checkpoints_stay_as_asked_the_newest(tmp_path, keep):
    run(tmp_path, [make_loop()], policy=SavePolicy(1, 0), keep=keep)
    positions = saved(tmp_path)
    steps = sorted(
        position['stages']['train'] for position in positions.values()
    )
    assert steps == list(range(NUM_STEPS - keep + 1, NUM_STEPS + 1))


def test_seconds_count_from_the_last_save(tmp_path, monkeypatch):
    """By a clock of which every step takes 4 seconds."""
    now = [100.0]

    class Clock:
        @staticmethod
        def monotonic():
            return now[0]

    def pass_time(step):
        now[0] += 4

    monkeypatch.setattr(loop_lib, 'time', Clock)
    loop = make_loop(before=pass_time)
    run(tmp_path, [loop], policy=SavePolicy(0, 10), keep=9)
    positions = saved(tmp_path).values()
    assert [position['stages']['train'] for position in positions] == [3, 6]
    # Either of the two is a reason, and a save by one restarts the other.
    workdir = tmp_path / 'both'
    workdir.mkdir()
    run(workdir, [loop], policy=SavePolicy(5, 10), keep=9)
    positions = saved(workdir).values()
    assert [position['stages']['train'] for position in positions] == [3, 5]


def test_without_a_checkpointer_loops_run_plainly(tmp_path, whole):
    with Recorder(tmp_path, first_phase=PHASE) as recorder:
        runner = ResumableLoops()
        runner.open_phase(PHASE)
        state = runner.run(make_loop(), first_state(), recorder)
    assert ([bits(state)], records(tmp_path)) == whole
    assert not (tmp_path / 'checkpoints').exists()


def test_a_position_comes_back_as_it_was(tmp_path):
    """Exactly, with float32 metrics that take all of a float's digits."""
    pending = [{'loss': float(np.float32(0.1)), 'rate': 1 / 3}]
    position = LoopPosition(PHASE, {'train': 7, 'learn': 2}, 5, pending)
    states = {'train': first_state(), 'learn': [first_state()]}
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save_within(position, states)
        checkpointer.wait()
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.position(PHASE) == position
        assert list(checkpointer.position(PHASE).stages) == ['train', 'learn']


@functools.partial(jax.jit, donate_argnums=0)
def update_all(state, batches):
    def one(state, batch):
        state, metrics = update(state, batch)
        return state, {name: value[0] for name, value in metrics.items()}

    return jax.lax.scan(one, state, batches)


def in_dispatches_of(num):
    """The loop of `make_loop`, several steps at a time."""

    def dispatches(first):
        for step in range(first, NUM_STEPS, num):
            batches = np.float32(
                [0.1 * n for n in range(step, min(step + num, NUM_STEPS))]
            )
            yield Dispatch(len(batches), 2 * len(batches), batches)

    return make_loop()._replace(
        dispatches=dispatches,
        step=lambda number, state, dispatch: update_all(state, dispatch.inputs),
    )


@pytest.mark.parametrize('num', [2, 4, 7])
def test_records_are_those_of_single_steps_wherever_dispatches_end(
    tmp_path, whole, num
):
    run(tmp_path, [in_dispatches_of(num)])
    found, (_, expected) = records(tmp_path), whole
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            if isinstance(value, float):
                value = pytest.approx(value, rel=1e-6)
            assert one[name] == value


def test_a_save_is_due_when_a_dispatch_passes_its_step(tmp_path):
    run(tmp_path, [in_dispatches_of(2)], policy=SavePolicy(3, 0))
    # Steps 3 and 6 lie in the dispatches that end with 4 and 6.
    steps = [
        position['stages']['train'] for position in saved(tmp_path).values()
    ]
    assert steps == [4, 6]
