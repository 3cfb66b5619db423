"""The program of an export, run by JAX without this package."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest
from command import assert_refused, call
from compiling import one_device as environment
from jax import export as jax_export

from mnemonics_jax import experiment, export, predict
from mnemonics_jax.data.sources import digits
from mnemonics_jax.experiment import finished, inference

DOCUMENT = pathlib.Path(export.__file__).parent.parent / 'docs' / 'export.md'
NUM_IMAGES = 100
[EXAMPLE] = re.findall(
    r'^## Without this package\n.*?^```python\n(.*?)^```$',
    DOCUMENT.read_text(),
    re.MULTILINE | re.DOTALL,
)
# All that the package needs but JAX does not.
ABSENT = ('mnemonics_jax', 'flax', 'optax', 'orbax', 'PIL', 'sklearn')
ALONE = f"""
import sys

for name in {ABSENT}:
    sys.modules[name] = None

{EXAMPLE}
print(json.dumps(names))
"""


def small(config, folder, placement, **changes):
    """The work directory of a run on digits, one phase after the first."""
    config.update_from_flattened_dict(
        {
            'data.source': 'digits',
            'data.num_classes': None,
            'data.train_per_class': None,
            'data.test_per_class': None,
            'data.image_size': None,
            'data.channels': None,
            'data.flip': False,
            'protocol.base_classes': 5,
            'protocol.phases': 1,
            'exemplars.strategy': 'herding',
            'exemplars.adjust': False,
            **changes,
        }
    )
    parts = experiment.prepare(config, folder / 'run', placement)
    experiment.run(parts, folder / 'run')
    return folder / 'run'


def files_of(images, folder):
    """PNG files of grey images, sorted by name."""
    folder.mkdir()
    for i, image in enumerate(images):
        PIL.Image.fromarray(image[..., 0]).save(folder / f'{i:03}.png')
    return sorted(folder.iterdir())


def exported(workdir, out, *arguments):
    done = call(lambda: export.main([str(workdir), f'--out={out}', *arguments]))
    assert done.returncode == 0, done.stderr
    return done


def read(folder):
    """The program of an export as a function, and its description."""
    info = json.loads((folder / 'inference.json').read_text())
    data = (folder / 'inference.jax').read_bytes()
    return jax_export.deserialize(bytearray(data)), info


def test_jax_alone_predicts_what_predict_does(
    tiny_config, tmp_path, one_device
):
    """By the code of docs/export.md, where the package cannot be imported."""
    digits_run = small(tiny_config, tmp_path, one_device)
    source = digits.make({})
    images = source.read('test', np.arange(NUM_IMAGES))
    files = files_of(images, tmp_path / 'images')
    found = predict.predict(
        finished.restore_phase(digits_run, -1), 'cnn', files, 1
    )
    expected = [one['top'][0]['class'] for one in found]
    assert len(set(expected)) > 3
    exported(digits_run, tmp_path / 'exports' / 'digits')
    np.save(tmp_path / 'images.npy', images)
    done = subprocess.run(
        [sys.executable, '-c', ALONE],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == expected


def test_a_program_names_no_file_and_is_the_same_from_anywhere(
    saved_run, tmp_path
):
    def from_deeper(depth):
        if depth:
            return from_deeper(depth - 1)
        jax.clear_caches()
        phase = finished.restore_phase(saved_run.workdir, -1)
        return inference.program_of(phase, 'cnn')[0]

    assert from_deeper(0) == from_deeper(3)
    assert b'mnemonics_jax' not in from_deeper(0)


@pytest.mark.parametrize('classifier', ['cnn', 'nme', 'finetuned'])
def test_any_number_of_images_gets_the_scores_of_each_classifier(
    saved_run, tmp_path, classifier
):
    exported(saved_run.workdir, tmp_path / 'x', f'--classifier={classifier}')
    program, info = read(tmp_path / 'x')
    end = finished.restore_phase(saved_run.workdir, -1)
    files = sorted((saved_run.data / 'validation').rglob('*.png'))
    images = predict.read_images(files, end)
    [expected] = predict.score_images(end, classifier, files[:16])
    for count in (1, 16):
        scores = np.asarray(program.call(images[:count]))
        assert scores.dtype == np.float32
        if classifier != 'nme':
            scores = np.asarray(jax.nn.softmax(scores))
        np.testing.assert_allclose(scores, expected[:count], atol=1e-5)
    assert info['class_names'] == list(end.class_names)
    assert info['input_shape'] == ['b', 8, 8, 3]
    assert info['input_dtype'] == 'uint8'
    assert info['classifier'] == classifier
    assert info['scores'] == ('cosine' if classifier == 'nme' else 'logit')
    assert info['platforms'] == list(program.platforms)
    assert program.platforms == ('cpu', 'cuda', 'tpu')


# The first asks for the number of images, the second leaves the program.
NETWORKS = """
import jax
import numpy as np
from flax import linen as nn


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, mask):
        return nn.Dense(8)(x.reshape(len(x), -1)), ()


class Leaves(Flat):
    @nn.compact
    def __call__(self, x, *, train, mask):
        if not train:
            jax.debug.callback(lambda x: None, x)
        return nn.Dense(8)(x.reshape(len(x), -1)), ()


BACKBONES = {'flat': Flat, 'leaves': Leaves}
"""


def test_a_network_of_ones_own_is_exported_or_left_out_with_a_warning(
    tiny_config, tmp_path, one_device
):
    file = tmp_path / 'networks.py'
    file.write_text(NETWORKS)
    for name, warning in (
        ('flat', ''),
        ('leaves', 'warning: inference.jax is left out: plug-in '),
    ):
        workdir = small(
            tiny_config,
            tmp_path / name,
            one_device,
            **{'plugins': str(file), 'backbone.name': name},
        )
        done = exported(workdir, tmp_path / name / 'x')
        assert done.stderr.startswith(warning)
        assert len(done.stderr.splitlines()) == bool(warning)
        assert (tmp_path / name / 'x' / 'model.safetensors').exists()
        assert ('inference' in done.stdout) == (not warning)
        assert (tmp_path / name / 'x' / 'inference.jax').exists() == (
            not warning
        )


def test_a_classifier_that_the_phase_lacks_is_refused(saved_run, tmp_path):
    out = tmp_path / 'x'
    done = call(
        lambda: export.main(
            [str(saved_run.workdir), f'--out={out}', '--classifier=cnm']
        )
    )
    assert_refused(done, '--classifier', 'finetuned')
    assert not out.exists()
