"""Classes that are added after the start of a run."""

import json

import numpy as np
import PIL.Image
import pytest

from mnemonics_jax import experiment
from mnemonics_jax.core.workdir import read_records
from mnemonics_jax.experiment import finished
from mnemonics_jax.train.metric_writer import Recorder

ORDER = ('pear', 'fig', 'quince', 'plum', 'apple', 'lime')


class PowerCutError(RuntimeError):
    """Simulates a process that ends at any moment."""


def add_class(root, name):
    """A folder of images of its own pattern, in both splits."""
    random = np.random.default_rng(ORDER.index(name))
    pattern = random.uniform(40, 215, (8, 8, 3))
    for split, count in (('train', 12), ('test', 6)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = pattern + random.normal(0, 25, (8, 8, 3))
            image = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f'{i}.png')


def use_folder(config, root, phases):
    config.data.update(
        source='folder', dir=str(root), num_classes=None, channels=None
    )
    config.data.train_per_class = config.data.test_per_class = None
    config.protocol.phases = phases
    config.protocol.class_order_file = str(root.with_suffix('.txt'))


def write_order(root, names):
    root.with_suffix('.txt').write_text('\n'.join(names))


def cut_power_after(monkeypatch, num_records):
    """Ends the process, as it were, when so many records are written."""
    record = Recorder.record

    def failing(self, *args, **kwargs):
        record(self, *args, **kwargs)
        if self.num_records == num_records:
            raise PowerCutError

    monkeypatch.setattr(Recorder, 'record', failing)


@pytest.mark.slow
def test_classes_that_come_later_give_the_run_that_had_them_from_the_start(
    tiny_config, tmp_path, one_device, monkeypatch, capsys
):
    """Also after a power cut in the middle of a phase of the smaller plan.

    With 'apple' the labels of all classes shift. Head, momentum and memory grow
    by rows; what is drawn for the old rows does not depend on how many follow.
    """
    whole, growing = tmp_path / 'whole', tmp_path / 'growing'
    for name in ORDER:
        add_class(whole, name)
    write_order(whole, ORDER)
    use_folder(tiny_config, whole, phases=2)
    parts = experiment.prepare(tiny_config, tmp_path / 'at_once', one_device)
    expected = experiment.run(parts, tmp_path / 'at_once')

    for name in ORDER[:4]:
        add_class(growing, name)
    write_order(growing, ORDER[:4])
    use_folder(tiny_config, growing, phases=1)
    tiny_config.checkpoint.every_steps = 2
    workdir = tmp_path / 'elastic'
    records = read_records(tmp_path / 'at_once' / 'metrics.jsonl')
    in_phase_1 = [r['global_step'] for r in records if r['phase'] == 1]
    with monkeypatch.context() as patch:
        cut_power_after(patch, in_phase_1[1] + 1)
        parts = experiment.prepare(tiny_config, workdir, one_device)
        with pytest.raises(PowerCutError):
            experiment.run(parts, workdir)

    for name in ORDER[4:]:
        add_class(growing, name)
    write_order(growing, ORDER)
    capsys.readouterr()
    parts = experiment.prepare(tiny_config, workdir, one_device)
    # What was saved before has as many classes as there were.
    end = finished.restore_phase(workdir, -1)
    assert (end.phase, end.class_names) == (0, ORDER[:2])
    black = np.zeros((1, 8, 8, 3), np.float32)
    assert end.backbone.apply(end.variables, black)[0].logits.shape == (1, 4)
    found = experiment.run(parts, workdir)
    said = capsys.readouterr().out
    assert 'resuming in phase 1 of 0..2, train' in said
    assert '6 classes in 3 phases (2 classes added after the start)' in said
    first, second = json.loads((workdir / 'config.json').read_text())['starts']
    assert first['resumed'] is None
    resumed = second['resumed']
    assert (resumed['phase'], resumed['stage']) == (1, 'train')
    assert f'train, after step {resumed["step"]}\n' in said
    for ours, theirs in zip(found['phases'], expected['phases'], strict=True):
        assert ours['confusion'] == theirs['confusion']
        # Sums over the rows of more classes are rounded in another order.
        for one in (ours, theirs):
            one['exemplars'] |= one['exemplars'].pop('border')
        assert ours['exemplars'] == pytest.approx(theirs['exemplars'], rel=1e-5)
    assert found['complete']
    assert found['class_order'] == expected['class_order']
    for phase in range(3):
        file = f'exemplars/phase_{phase}.npz'
        ours = np.load(workdir / file)
        theirs = np.load(tmp_path / 'at_once' / file)
        np.testing.assert_array_equal(ours['images'], theirs['images'])
        assert tuple(ours['class_names']) == ORDER[: 2 + 2 * phase]
