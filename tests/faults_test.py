"""Runs that are killed or told to stop, anywhere, end as if they had not been.

Here at 20 + 6 moments of small runs, since every start takes seconds. On
default feeds and real digits, and more often: `python benchmarks/faults.py`.
"""

import pathlib
import signal
import sys

import pytest

from mnemonics_jax.train.preemption import EXIT_CODE

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import compare_runs
import faulty_run

# By seed of the moments, in two chains. Half of each for the stages and the
# start of a phase.
STOPS = {
    0: {1: signal.SIGTERM, 5: signal.SIGINT, 9: signal.SIGTERM},
    1: {3: signal.SIGTERM, 7: signal.SIGTERM, 11: signal.SIGTERM},
}


@pytest.mark.parametrize('seed', STOPS)
def test_ended_in_every_stage_and_between_a_run_is_bit_for_bit_the_same(
    tmp_path, seed
):
    """Killed ten times and told to stop three times, started again as often."""
    signals = [STOPS[seed].get(i, signal.SIGKILL) for i in range(13)]
    whole, workdir = tmp_path / 'whole', tmp_path / 'ended'
    places = faulty_run.run_whole(whole, faulty_run.SYNTHETIC)
    moments = faulty_run.draw_moments(places, len(signals), seed=seed)
    found = faulty_run.interrupt(
        workdir, moments, signals, faulty_run.SYNTHETIC
    )
    for fault in found:
        if fault.sent == signal.SIGKILL:
            assert fault.code == -signal.SIGKILL
        else:
            assert_stopped(fault)
    assert compare_runs.differences(workdir, whole) == []
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
    # 'stopped by SIGTERM in phase 1 train epoch 2/4, step 5; rerun ...'
    last = fault.output.splitlines()[-1]
    phase, stage, step = fault.resumed
    where = f'stopped by {fault.sent.name} in phase {phase} '
    assert last.startswith(where + faulty_run.STAGES[stage])
    assert last.endswith(f', step {step}; rerun the command to resume')
