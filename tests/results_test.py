"""What a run leaves beside its results: exemplars, features, starts, events."""

import io
import json

import numpy as np
import PIL.Image
import pytest
from tensorboardX.proto import event_pb2

from mnemonics_jax.core import workdir
from mnemonics_jax.experiment import finished
from mnemonics_jax.train import tensorboard
from tests import saved_runs


def load(run, name):
    with np.load(run.workdir / name) as found:
        return dict(found)


def images_of(run, split, label):
    """All images of a class, uint8[n, H, W, C], and its original label."""
    original = run.parts.order[label]
    positions = np.flatnonzero(run.parts.source.labels[split] == original)
    return run.parts.source.read(split, positions)


def test_selected_exemplars_are_real_images_of_their_classes(saved_run):
    for phase, (old, seen) in enumerate(saved_run.parts.bounds):
        found = load(saved_run, workdir.selected_name(phase))
        assert found['images'].dtype == np.uint8
        assert found['images'].shape == (seen - old, 3, 8, 8, 3)
        assert found['mask'].all()
        order = saved_run.parts.order[old:seen]
        np.testing.assert_array_equal(found['classes'], order)
        folders = sorted(saved_runs.NAMES)
        names = [saved_runs.NAMES[folders[k]] for k in order]
        assert found['class_names'].tolist() == names
        for row, label in enumerate(range(old, seen)):
            real = {x.tobytes() for x in images_of(saved_run, 'train', label)}
            kept = {x.tobytes() for x in found['images'][row]}
            assert len(kept) == 3
            assert kept <= real


def test_from_selected_to_learned_is_the_drift_that_is_reported(saved_run):
    for phase, (old, seen) in enumerate(saved_run.parts.bounds):
        before = load(saved_run, workdir.selected_name(phase))
        after = load(saved_run, workdir.exemplars_name(phase))
        change = np.abs(
            after['images'][old:seen].astype(float) - before['images']
        ).mean()
        told = saved_run.results['phases'][phase]['exemplars']
        assert told['drift_grey_levels'] == pytest.approx(change, rel=1e-4)
        assert change > 0.5


def test_features_are_those_of_the_model_that_is_saved(saved_run):
    """Of all test images here, since there are fewer than a hundred."""
    phase = finished.restore_phase(saved_run.workdir, -1)
    found = load(saved_run, workdir.features_name(2))
    assert found.pop('class_names').tolist() == list(phase.class_names)
    assert {name: str(found[name].dtype) for name in found} == {
        'features': 'float16',
        'labels': 'int32',
        'means': 'float32',
        'exemplars': 'float16',
        'mask': 'bool',
    }

    def embed(images):
        values = phase.backbone.embed(
            phase.variables, images.astype(np.float32) / 255
        )[0]
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    for label in range(6):
        own = np.asarray(embed(images_of(saved_run, 'test', label)))
        rows = found['labels'] == label
        np.testing.assert_allclose(found['features'][rows], own, atol=2e-3)
        mean = own.mean(axis=0)
        np.testing.assert_allclose(
            found['means'][label], mean / np.linalg.norm(mean), atol=1e-5
        )
        held = np.asarray(phase.exemplars.images)[label]
        np.testing.assert_allclose(
            found['exemplars'][label], embed(held), atol=2e-3
        )
    assert found['mask'].all()
    assert len(found['labels']) == 6 * saved_runs.NUM_TEST


def test_the_border_of_each_phase_is_in_the_results(saved_run):
    for phase in saved_run.results['phases']:
        border = phase['exemplars']['border']
        assert set(border) == {'exemplars', 'images'}
        assert min(border.values()) > 0


def test_losses_of_both_levels_are_recorded(saved_run):
    lines = (saved_run.workdir / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    stages = [r for r in records if r['stage'] in ('learn', 'adjust')]
    assert {r['stage'] for r in stages} == {'learn', 'adjust'}
    for record in stages:
        assert record['inner_loss'] > 0
        assert record['outer_loss'] > 0


def test_the_first_start_resumes_nothing(saved_run):
    content = json.loads((saved_run.workdir / 'config.json').read_text())
    (start,) = content['starts']
    assert start['resumed'] is None
    assert start['time'] >= content['started']


def events(run):
    """Events of the run, whose records are checked against our writer's."""
    (path,) = run.workdir.glob('events.out.tfevents.*')
    content, found = path.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], 'little')
        record, content = content[: 16 + size], content[16 + size :]
        assert record == tensorboard.as_record(record[12:-4])
        found.append(event_pb2.Event.FromString(record[12:-4]))
    return found


def test_tensorboard_has_a_grid_of_the_exemplars_after_each_phase(saved_run):
    found = [
        (value.tag, event.step, value.image)
        for event in events(saved_run)
        for value in event.summary.value
        if value.HasField('image')
    ]
    assert [(tag, step) for tag, step, _ in found] == [
        ('exemplars', phase) for phase in range(3)
    ]
    for phase, (_, _, image) in enumerate(found):
        picture = PIL.Image.open(io.BytesIO(image.encoded_image_string))
        assert picture.format == 'PNG'
        assert (image.height, image.width) == picture.size[::-1]
        assert image.colorspace == 3
        # A row for each class, a column for each of three exemplars.
        rows = 2 * (phase + 1)
        assert image.height * 3 == image.width * rows
    pixels = np.asarray(picture)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_tensorboard_has_the_results_by_phase_and_by_classes(saved_run):
    curves = {}
    for event in events(saved_run):
        for value in event.summary.value:
            if not value.HasField('image'):
                curves.setdefault(value.tag, {})[event.step] = (
                    value.simple_value
                )
    phases = saved_run.results['phases']
    for name in ('cnn', 'nme', 'finetuned'):
        accuracies = [phase['accuracy'][name] for phase in phases]
        seen = [phase['num_seen'] for phase in phases]
        for tag, steps in (('test', range(3)), ('test_by_classes', seen)):
            assert curves[f'{tag}/{name}'] == pytest.approx(
                dict(zip(steps, accuracies, strict=True))
            )
        first = np.asarray(phases[0]['confusion'][name])
        lost = [
            np.trace(first) / first.sum()
            - np.trace(now := np.asarray(phase['confusion'][name])[:2])
            / now.sum()
            for phase in phases
        ]
        assert curves[f'forgetting/{name}'] == pytest.approx(
            dict(enumerate(lost)), abs=1e-6
        )
        old = curves[f'test_old_classes/{name}']
        assert old == pytest.approx(
            {i: phases[i]['old_accuracy'][name] for i in (1, 2)}
        )
        mean = curves[f'average_incremental_accuracy/{name}'][2]
        assert mean == pytest.approx(np.mean(accuracies))
    # Raw pixels: 3 images a class of 8 x 8 x 3 bytes.
    assert curves['memory/bytes'] == {i: 1152 * (i + 1) for i in range(3)}
    assert curves['memory/exemplars'] == {i: 6 * (i + 1) for i in range(3)}
    # Two epochs and three outer steps a phase, one epoch of fine-tuning.
    assert list(curves['train/loss']) == [1, 2, 3, 4, 5, 6]
    assert list(curves['finetune/loss']) == [1, 2, 3]
    assert max(curves['learn/outer_loss']) == 9
