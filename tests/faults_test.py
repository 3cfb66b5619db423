"""Runs that are killed or told to stop, anywhere, end as if they had not been.

Here with few moments, since every start takes seconds. With 20 or 100, on
default feeds and real digits: `python benchmarks/faults.py --moments=100`.
"""

import pathlib
import signal
import sys

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
# Half of them for the stages and the start of a phase; two are asked to stop.
SIGNALS = [signal.SIGKILL] * 10
SIGNALS[3], SIGNALS[7] = signal.SIGTERM, signal.SIGINT


def test_ended_in_every_stage_and_between_a_run_is_bit_for_bit_the_same(
    tmp_path,
):
    """Killed or told to stop ten times, started again by the same command."""
    whole, workdir = tmp_path / 'whole', tmp_path / 'ended'
    places = faulty_run.run_whole(whole, QUICK)
    moments = faulty_run.draw_moments(places, len(SIGNALS), seed=0)
    found = faulty_run.disturb(workdir, moments, SIGNALS, QUICK)
    for fault in found:
        if fault.sent == signal.SIGKILL:
            assert fault.code == -signal.SIGKILL
        else:
            assert_stopped(fault)
    assert faulty_run.differences(workdir, whole) == []
    # Each process went on from the last whole checkpoint of those before it.
    resumed = [fault.resumed for fault in found]
    for moment, place in zip(moments, resumed, strict=True):
        assert place >= moment.place
    assert resumed == sorted(set(resumed))
    # A request to stop saves where it comes, not where the others save.
    stages = {faulty_run.STAGES[p.stage] for p in resumed if p.stage >= 0}
    assert stages == {*faulty_run.STAGES}
    ends = faulty_run.ends_of_loops(places)
    assert any(place in ends for place in resumed)
    assert any(place not in ends for place in resumed)


def assert_stopped(fault):
    """It saved the very step that its last line names."""
    assert fault.code == EXIT_CODE
    # 'stopped by SIGTERM in phase 1 train epoch 2/4, step 5; the same ...'
    last = fault.output.splitlines()[-1]
    phase, stage, step = fault.resumed
    where = f'stopped by {fault.sent.name} in phase {phase} '
    assert last.startswith(where + faulty_run.STAGES[stage])
    assert last.endswith(f', step {step}; the same command goes on')
