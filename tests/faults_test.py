"""Runs that are killed or told to stop, anywhere, end as if they had not been.

Here at eight moments of a small run, since every start takes seconds. On
default feeds and real digits, and more often: `python benchmarks/faults.py`.
"""

import pathlib
import signal
import sys

from mnemonics_jax.train.preemption import EXIT_CODE

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import compare_runs
import faulty_run

FIELDS = {
    **faulty_run.SYNTHETIC,
    'report': False,
    'protocol.base_classes': 5,
    'protocol.phases': 1,
}
# Of the moments: some in each of the stages, and one between phases.
SEED = 1
STOPS = {3: signal.SIGTERM, 5: signal.SIGINT}


def test_ended_in_every_stage_and_between_a_run_is_bit_for_bit_the_same(
    tmp_path,
):
    """Killed six times and told to stop twice, started again as often."""
    endings = [
        faulty_run.Ending(STOPS.get(i, signal.SIGKILL)) for i in range(8)
    ]
    whole, workdir = tmp_path / 'whole', tmp_path / 'ended'
    places = faulty_run.run_whole(whole, FIELDS)
    moments = faulty_run.draw_moments(places, len(endings), seed=SEED)
    found = faulty_run.interrupt(
        lambda: [faulty_run.start(workdir, FIELDS)], workdir, moments, endings
    )
    for fault in found:
        if fault.ending.signal == signal.SIGKILL:
            assert fault.codes == [[-signal.SIGKILL]]
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
    assert fault.codes == [[EXIT_CODE]]
    # 'stopped by SIGTERM in phase 1 train epoch 2/4, step 5; rerun ...'
    last = fault.outputs[0][0].splitlines()[-1]
    phase, stage, step = fault.resumed
    where = f'stopped by {fault.ending.signal.name} in phase {phase} '
    assert last.startswith(where + faulty_run.STAGES[stage])
    assert last.endswith(f', step {step}; rerun the command to resume')
