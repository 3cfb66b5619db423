"""Runs that are killed or told to stop, anywhere, end as if they had not been.

Here with few moments, since every start takes seconds. With 20 or 100, on
default feeds and real digits: `python benchmarks/faults.py --moments=100`.
"""

import pathlib
import signal
import sys

import pytest

from mnemonics_jax.interrupt import EXIT_CODE

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import faulty_run

# Spares each start the imports of TensorFlow and scikit-learn.
QUICK = {
    'data.source': 'synthetic',
    'data.feed': 'device',
    'data.num_classes': 10,
    'data.train_per_class': 24,
    'data.test_per_class': 6,
    'data.channels': 1,
    'train.batch_size': 16,
}
KILLS = 10  # Half of them for the stages and the start of a phase.
STOPS = (signal.SIGTERM, signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An undisturbed run, and where its checkpoints were made."""
    workdir = tmp_path_factory.mktemp('whole')
    return workdir, faulty_run.run_whole(workdir, QUICK)


def test_killed_in_every_stage_and_between_it_ends_bit_for_bit_the_same(
    tmp_path, whole
):
    workdir, places = whole
    moments = faulty_run.draw_moments(places, KILLS, seed=0)
    found = faulty_run.disturb(
        tmp_path, moments, [signal.SIGKILL] * KILLS, QUICK
    )
    assert [fault.code for fault in found] == [-signal.SIGKILL] * KILLS
    assert faulty_run.differences(tmp_path, workdir) == []
    # Each process went on from the last whole checkpoint of those before it.
    resumed = [fault.resumed for fault in found]
    assert set(resumed) <= set(places)
    assert resumed == sorted(set(resumed))
    for moment, place in zip(moments, resumed, strict=True):
        assert place >= moment.place
    assert {faulty_run.STAGES[p.stage] for p in resumed if p.stage >= 0} == {
        *faulty_run.STAGES
    }
    ends = faulty_run.ends_of_loops(places)
    assert any(place in ends for place in resumed)
    assert any(place not in ends for place in resumed)


def test_told_to_stop_it_saves_that_step_and_ends_bit_for_bit_the_same(
    tmp_path, whole
):
    workdir, places = whole
    moments = faulty_run.draw_moments(places, len(STOPS), seed=1)
    found = faulty_run.disturb(tmp_path, moments, STOPS, QUICK)
    for fault in found:
        assert fault.code == EXIT_CODE
        # 'stopped by SIGTERM in phase 1 train epoch 2/4, step 5; the same ...'
        last = fault.output.splitlines()[-1]
        phase, stage, step = fault.resumed
        where = f'stopped by {fault.sent.name} in phase {phase} '
        assert last.startswith(where + faulty_run.STAGES[stage])
        assert last.endswith(f', step {step}; the same command goes on')
    assert faulty_run.differences(tmp_path, workdir) == []
