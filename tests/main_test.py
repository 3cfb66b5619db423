"""The command line: a mistake is one line, non-zero, and leaves no trace."""

import pytest
from command import assert_refused, run

MISTAKES = {
    'misspelt field': (
        ['--config.exemplars.per_clas=5'],
        ['exemplars.per_clas', 'per_class'],
    ),
    'unknown method': (
        ['--config.method.name=lucyr'],
        ['method.name', "'lucyr'", 'finetune', 'icarl', 'lucir'],
    ),
    'negative count': (
        ['--config.exemplars.per_class=-1'],
        ['exemplars.per_class', '-1', '>= 0'],
    ),
    'phases that do not divide': (
        ['--config.protocol.phases=7'],
        ['protocol.phases', '7', '1, 2, 3, 6'],
    ),
    'wrong type': (
        ['--config.train.epochs=many'],
        ['train.epochs', 'many'],
    ),
    'missing config file': (
        ['--config=configs/absent.py'],
        ['configs/absent.py'],
    ),
    'flag without dashes': (['seed=3'], ['seed=3', '--']),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line(name, tmp_path):
    flags, words = MISTAKES[name]
    workdir = tmp_path / 'run'
    defaults = ['--config=configs/digits.py', f'--workdir={workdir}']
    assert_refused(run(*defaults, *flags), *words)
    assert not workdir.exists()


def test_missing_workdir_is_one_line():
    assert_refused(run('--config=configs/digits.py'), '--workdir')


def test_unwritable_workdir_is_one_line(tmp_path):
    # Permissions do not stop the superuser; a file in the way stops anyone.
    (tmp_path / 'file').write_text('in the way')
    workdir = tmp_path / 'file' / 'run'
    done = run('--config=configs/digits.py', f'--workdir={workdir}')
    assert_refused(
        done, '--workdir', str(workdir), 'must be a writable directory'
    )
