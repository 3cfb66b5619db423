"""What is timed at ImageNet's size is right at a small one."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import herding

SIZES = herding.Sizes(
    classes=20,
    examples=24,
    features=8,
    exemplars=6,
    checked=20,
    timed=2,
    repeats=1,
)


def test_a_run_selects_the_ranks_of_the_loop_for_every_class():
    found = herding.measure(SIZES)
    ranks = found['ranks']
    assert ranks['classes_compared'] == 20
    # No pick was so near to the next best that rounding decides.
    assert ranks['least_lead_of_a_pick_in_all'] > 1e-5
    assert ranks['classes_that_differ'] == 0
    assert found['class_means']['relative_error'] < 1e-5


def test_a_wrong_rank_would_be_seen():
    problem = herding.make_problem(SIZES)
    _, ranks = herding.time_all(problem, SIZES)
    ranks[3, :2] = ranks[3, 1::-1]
    assert herding.compare(problem, ranks, SIZES)['classes_that_differ'] == 1
