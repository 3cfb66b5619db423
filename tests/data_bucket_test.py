"""Data in a bucket that cannot be read: one line for each kind of source."""

import sys

import pytest
from command import assert_refused, call_main
from data_folder_test import write_folder
from etils import epath

from mnemonics_jax.data import sources

URL = 'gs://bucket/x'


@pytest.fixture
def no_client(monkeypatch):
    """An installation without TensorFlow and without gcsfs."""
    monkeypatch.setattr('etils.epath.gpath._is_tf_installed', lambda: False)
    monkeypatch.setitem(sys.modules, 'gcsfs', None)


def message_of(source, **options):
    with pytest.raises(ValueError) as error:
        sources.make_source(source, {'image_size': 8, **options})
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('source', ['folder', 'arrays', 'cifar', 'labels'])
def test_a_missing_client_is_named_with_what_installs_it(
    tmp_path, no_client, source
):
    field, given = f'data.dir={URL!r}', {'dir': URL}
    if source == 'labels':
        root = write_folder(tmp_path)
        field = f'data.labels={URL!r}'
        source, given = 'folder', {'dir': str(root), 'labels': URL}
    line = message_of(source, **given)
    assert line.startswith(f'{field}: ')
    assert 'gcsfs' in line
    assert line.endswith("; to install it: pip install 'mnemonics-jax[gcs]'")


def test_the_command_says_so_before_it_writes(tmp_path, no_client):
    done = call_main(
        '--config=configs/folder.py',
        f'--config.data.dir={URL}',
        f'--workdir={tmp_path / "run"}',
    )
    assert_refused(done, f'data.dir={URL!r}: ', "'mnemonics-jax[gcs]'")
    assert not (tmp_path / 'run').exists()


def test_a_bucket_that_answers_with_an_error_is_named(monkeypatch):
    class HttpError(Exception):
        pass

    def exists(self):
        raise HttpError('403:\nno access')

    monkeypatch.setattr(type(epath.Path('x')), 'exists', exists)
    assert message_of('folder', dir=URL) == (
        f'data.dir={URL!r}: cannot be read: HttpError: 403: no access'
    )
