"""Whole runs: what they write, what they keep, what they compile."""

import collections
import gc
import json
import weakref

import jax
import numpy as np
import pytest

from mnemonics_jax import config as config_lib
from mnemonics_jax import evaluate, experiment
from mnemonics_jax.core.workdir import read_records
from mnemonics_jax.data import batches
from mnemonics_jax.data import loader as loader_lib
from mnemonics_jax.experiment import components, finished, phase_loop
from mnemonics_jax.train.checkpoint import Checkpointer

Recording = collections.namedtuple(
    'Recording', 'workdir results parts compiled reads alive'
)


@pytest.fixture(scope='module')
def recording(tmp_path_factory, one_device):
    """A run of five phases with a shrinking memory, watched from outside."""
    config = _watched_config()
    workdir = tmp_path_factory.mktemp('run')
    compiled, reads, alive = [], [], []
    arrays, feeds = [], []
    events = []

    def listen(event, duration, **kwargs):
        if event.endswith('backend_compile_duration'):
            events.append(kwargs.get('fun_name'))

    with pytest.MonkeyPatch.context() as patch:
        parts = experiment.prepare(config, workdir, one_device)
        read = parts.source.read

        def spy(split, positions):
            images = read(split, positions)
            if split == 'train':
                labels = parts.source.labels['train'][positions]
                reads.append((len(compiled), sorted(set(labels.tolist()))))
                arrays.append(weakref.ref(images))
            return images

        source = parts.source._replace(read=spy)
        loader = parts.loader._replace(source=source)
        parts = parts._replace(source=source, loader=loader)

        class BatchFeed(batches.BatchFeed):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                feeds.append(weakref.ref(self))

        run_phase = phase_loop.run_phase

        def watched(context, carry, trained):
            events.clear()
            done = run_phase(context, carry, trained)
            compiled.append(list(events))
            gc.collect()
            alive.append(sum(ref() is not None for ref in arrays + feeds))
            return done

        patch.setattr(loader_lib, 'BatchFeed', BatchFeed)
        patch.setattr(phase_loop, 'run_phase', watched)
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            results = experiment.run(parts, workdir)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
    assert arrays
    assert feeds
    return Recording(workdir, results, parts, compiled, reads, alive)


def _watched_config():
    from tests import conftest

    config = conftest.tiny_config.__wrapped__()
    config.report = True
    config.protocol.phases = 4
    config.exemplars.per_class = 0
    config.exemplars.total = 12
    return config


def test_nothing_is_compiled_after_the_second_phase(recording):
    assert 'jit(train)' in recording.compiled[0]
    # In phase 1, or ahead of it.
    begun = [*recording.compiled[0], *recording.compiled[1]]
    assert begun.count('jit(learn)') == 2
    assert begun.count('jit(adjust)') == 1
    assert recording.compiled[2:] == [[], [], []]


def test_a_phase_reads_the_training_images_of_its_own_classes(recording):
    order, bounds = recording.parts.order, recording.parts.bounds
    expected = [
        (phase, sorted(order[low:high].tolist()))
        for phase, (low, high) in enumerate(bounds)
    ]
    assert recording.reads == expected


def test_real_images_are_gone_when_their_phase_ends(recording):
    assert recording.alive == [0] * 5


def test_a_checkpoint_holds_model_and_exemplars_and_no_more(recording):
    parts = recording.parts
    like = experiment.first_carry(parts)
    with Checkpointer(recording.workdir, keep=2) as checkpointer:
        assert checkpointer.latest() == 4
        carry, phases = checkpointer.restore(4, like)
    assert phases == recording.results['phases']
    assert carry.exemplars.images.dtype == np.uint8
    # 12 in all for 6 classes: two each, the other four of the slots are erased.
    mask = np.asarray(carry.exemplars.mask)
    assert mask.shape == (6, 6)
    np.testing.assert_array_equal(mask.sum(axis=1), 2)
    assert not np.any(np.asarray(carry.exemplars.images)[~mask])
    folder = recording.workdir / 'checkpoints' / 'phases'
    size = sum(f.stat().st_size for f in (folder / '4').rglob('*'))
    # Both models: the fine-tuned copy is judged, too.
    held = sum(x.nbytes for x in jax.tree.leaves((carry, carry.variables)))
    assert size < 1.5 * held + 100_000


def test_the_memory_shrinks_to_the_total(recording):
    counts = [p['exemplars']['count'] for p in recording.results['phases']]
    assert counts == [12, 12, 12, 10, 12]
    sizes = [p['exemplars']['bytes'] for p in recording.results['phases']]
    assert sizes == [64 * count for count in counts]


def test_results_follow_the_schema(recording):
    path = recording.workdir / 'results.json'
    results = json.loads(path.read_text())
    assert results == recording.results
    assert results['complete']
    heads = {'cnn', 'nme', 'finetuned'}
    for name in (
        'average_incremental_accuracy',
        'forgetting',
        'max_forgetting',
    ):
        assert set(results[name]) == heads
        assert all(-1 <= value <= 1 for value in results[name].values())
    for index, phase in enumerate(results['phases']):
        assert phase['phase'] == index
        for head in heads:
            counts = np.array(phase['confusion'][head])
            seen = phase['num_seen']
            assert counts.shape == (seen, seen)
            np.testing.assert_array_equal(counts.sum(axis=1), 6)
            share = np.trace(counts) / counts.sum()
            assert phase['accuracy'][head] == pytest.approx(share)
        drift = phase['exemplars']['drift_grey_levels']
        assert drift > 0
        assert ('adjust_drift_grey_levels' in phase['exemplars']) == (index > 0)
        assert phase['seconds']['total'] > 0
    accuracies = [p['accuracy']['cnn'] for p in results['phases']]
    mean = results['average_incremental_accuracy']['cnn']
    assert mean == pytest.approx(np.mean(accuracies))


def test_the_work_directory_is_complete(recording):
    names = {path.name for path in recording.workdir.iterdir()}
    assert {
        'config.json',
        'metrics.jsonl',
        'checkpoints',
        'exemplars',
        'results.json',
        'figures',
        'report.html',
    } <= names
    assert any('tfevents' in name for name in names)
    assert not any(name.endswith('.tmp') for name in names)
    with np.load(recording.workdir / 'exemplars' / 'phase_4.npz') as saved:
        assert saved['images'].shape == (6, 6, 8, 8, 1)
        np.testing.assert_array_equal(saved['classes'], recording.parts.order)
    records = read_records(recording.workdir / 'metrics.jsonl')
    stages = {(r['phase'], r['stage']) for r in records}
    for phase in range(5):
        assert {(phase, 'train'), (phase, 'learn'), (phase, 'finetune')} <= (
            stages
        )
    assert (0, 'adjust') not in stages
    assert (1, 'adjust') in stages
    steps = [r['global_step'] for r in records]
    assert steps == list(range(len(steps)))


def test_a_finished_run_says_so_and_changes_nothing(recording, capsys):
    before = (recording.workdir / 'results.json').read_text()
    config = (recording.workdir / 'config.json').read_text()
    again = experiment.run(recording.parts, recording.workdir)
    assert again == recording.results
    assert 'already finished' in capsys.readouterr().out
    assert (recording.workdir / 'results.json').read_text() == before
    # It was no start of anything.
    assert (recording.workdir / 'config.json').read_text() == config


def test_another_configuration_is_refused_by_the_work_directory(
    recording, one_device
):
    config = _watched_config()
    config.train.lr = 0.2
    with pytest.raises(ValueError, match=r'train\.lr: 0\.2 here, 0\.1 there'):
        experiment.prepare(config, recording.workdir, one_device)


def test_paper_preset_runs_and_hardly_moves_a_pixel(
    tiny_config, tmp_path, one_device
):
    """The constants of the paper: drift of less than a grey level."""
    tiny_config.exemplars.update(
        preset='paper', outer_steps=None, outer_epochs=2, storage='float32'
    )
    tiny_config.method.name = 'icarl'
    tiny_config.finetune.carry = True
    parts = experiment.prepare(tiny_config, tmp_path, one_device)
    results = experiment.run(parts, tmp_path)
    for phase in results['phases']:
        assert 0 < phase['exemplars']['drift_grey_levels'] < 1
        assert np.isfinite(phase['exemplars']['held_out_loss_after'])
        assert phase['exemplars']['bytes'] == (
            4 * 64 * phase['exemplars']['count']
        )
    # Where the fine-tuned copy is carried on, the trained model is kept, too.
    end = finished.restore_phase(tmp_path, -1)
    found = evaluate.evaluate(end, end.config, one_device)
    assert found['confusion'] == results['phases'][-1]['confusion']
    assert end.predictor == 'nme'


def test_capacity_is_shared_as_configured(tiny_config, one_device):
    tiny_config.exemplars.per_class = 0
    tiny_config.exemplars.total = 13
    parts = components.build(config_lib.resolve(tiny_config), one_device)
    assert [parts.slots(phase) for phase in range(3)] == [6, 3, 2]
    shapes = experiment.first_carry(parts).exemplars.images.shape
    assert shapes == (6, 6, 8, 8, 1)
    assert not experiment.first_carry(parts).exemplars.mask.any()
