"""Each example runs as a user would run it, and says something sensible."""

import pathlib
import re
import subprocess
import sys

import compiling
import pytest

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = ROOT / 'examples'
SHARED = 'small_run.py'
NAMES = sorted(p.name for p in EXAMPLES.glob('*.py') if p.name != SHARED)
MAX_LINES = 80


def run(name, **variables):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        cwd=EXAMPLES,
        env=compiling.one_device(PYTHONPATH=str(ROOT), **variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('name', NAMES)
def test_an_example_is_short_and_names_its_command(name):
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) < MAX_LINES
    assert f'examples/{name}' in text


@pytest.mark.slow
@pytest.mark.parametrize('name', ['own_model.py', 'distill.py'])
def test_learned_images_teach_more_than_the_real_ones_they_were(name):
    # Its programs run for longer than they compile.
    output = run(name, XLA_FLAGS='')
    shares = re.findall(r'(real|learned).*: accuracy ([\d.]+) %', output)
    real, learned = (float(share) for _, share in shares)
    assert [kind for kind, _ in shares] == ['real', 'learned']
    assert learned > real + 3


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['own_backbone.py', 'own_dataset.py', 'own_method.py']
)
def test_an_own_part_makes_a_whole_run_well_above_chance(name):
    found = re.findall(r'accuracy, (\w+): ([\d.]+) %', run(name))
    shares = {kind: float(share) for kind, share in found}
    assert set(shares) == {'cnn', 'nme', 'finetuned'}
    # Chance is 10 to 50 %, fewer with more classes.
    assert min(shares.values()) > 60
