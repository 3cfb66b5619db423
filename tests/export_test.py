"""An export, loaded by the code in docs/export.md."""

import json
import pathlib
import re
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import PIL.Image
import pytest
from command import assert_refused, call, run_module
from ml_collections import config_dict

from mnemonics_jax import config as config_lib
from mnemonics_jax import export
from mnemonics_jax.core import cli
from mnemonics_jax.experiment import finished
from tests import saved_runs

ROOT = pathlib.Path(export.__file__).parent.parent
LOADERS = re.findall(
    r'^## (\w+)\n\n```python\n(.*?)^```$',
    (ROOT / 'docs' / 'export.md').read_text(),
    re.MULTILINE | re.DOTALL,
)

[MODULE] = re.findall(
    r'^### The model in PyTorch\n.*?^```python\n(.*?)^```$',
    (ROOT / 'docs' / 'export.md').read_text(),
    re.MULTILINE | re.DOTALL,
)


@pytest.fixture(autouse=True)
def as_loud_as_before(monkeypatch):
    """The commands quieten a process of their own, not this one."""
    monkeypatch.setattr(cli, 'quieten', lambda: None)


@pytest.fixture(scope='module')
def exported(saved_run, tmp_path_factory):
    """The folder that the command writes, in a process of its own."""
    folder = tmp_path_factory.mktemp('export') / 'new' / 'folder'
    done = run_module('export', saved_run.workdir, f'--out={folder}')
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    assert done.stdout.startswith('phase 2: 6 classes, 18 exemplars -> ')
    return folder


@pytest.fixture(scope='module')
def end(saved_run):
    return finished.restore_phase(saved_run.workdir, -1)


def loader(language):
    code = dict(LOADERS)[language]
    assert len([line for line in code.splitlines() if line]) <= 20
    scope = {}
    exec(code, scope)
    return scope['load']


def logits_of(end, variables, images):
    images = np.asarray(images, np.float32) / 255
    return np.asarray(end.backbone.apply(variables, images)[0].logits)


def kept(end):
    """The exemplars, class by class, uint8[n, H, W, C]."""
    return np.asarray(end.exemplars.images).reshape(-1, 8, 8, 3)


@pytest.mark.parametrize('name', ['model', 'finetuned'])
def test_the_jax_loader_gives_the_logits_of_the_run(exported, end, name):
    images, labels, model = loader('JAX')(exported, name)
    np.testing.assert_array_equal(
        np.rint(images * 255).astype(np.uint8), kept(end)
    )
    np.testing.assert_array_equal(labels, np.arange(6).repeat(3))
    variables = {'model': end.variables, 'finetuned': end.finetuned}[name]
    expected = logits_of(end, variables, kept(end))
    np.testing.assert_array_equal(model(images), expected)
    others = {'model': end.finetuned, 'finetuned': end.variables}
    other = logits_of(end, others[name], kept(end))
    assert abs(other - expected).max() > 0.1


def torch_code():
    """What the PyTorch sections of docs/export.md define."""
    pytest.importorskip('torch', reason='PyTorch is missing: the extra `bench`')
    scope = {}
    exec(dict(LOADERS)['PyTorch'], scope)
    exec(MODULE, scope)
    return scope


@pytest.mark.parametrize('name', ['model', 'finetuned'])
def test_the_torch_model_gives_the_logits_of_the_run(exported, end, name):
    scope = torch_code()
    data, names, _ = scope['load'](exported)
    assert names == list(end.class_names)
    images, labels = data.tensors
    assert labels.tolist() == np.arange(6).repeat(3).tolist()
    model = scope['Model'](exported, name).eval()
    logits = model(images).detach().numpy()
    variables = {'model': end.variables, 'finetuned': end.finetuned}[name]
    expected = logits_of(end, variables, kept(end))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    'changes',
    [
        {'name': 'convnet', 'final_relu': True, 'method': 'icarl'},
        {'name': 'resnet8', 'head': 'linear', 'transfer': True},
        {'name': 'resnet20', 'method': 'bic', 'transfer': True},
        {'name': 'resnet32', 'final_relu': True},
        {'name': 'resnet18', 'method': 'podnet', 'head': 'local_similarity'},
    ],
    ids=lambda changes: changes['name'],
)
def test_torch_has_all_networks_heads_and_their_wrappers(
    end, tmp_path, changes
):
    """Each with arrays drawn at random, so that none has its initial value."""
    scope = torch_code()
    config = config_dict.ConfigDict(end.config.to_dict())
    with config.unlocked():
        config.method = {'name': changes.get('method', 'lucir')}
        config.backbone.name = changes['name']
        config.backbone.final_relu = changes.get('final_relu', False)
        config.backbone.head = changes.get('head', 'cosine')
        config.weight_transfer = changes.get('transfer', False)
    config = config_dict.FrozenConfigDict(config)
    config = finished.config_of(config_lib.to_json(config))
    plan = end.plan._replace(image_shape=(32, 32, 3))
    model = finished.build_model(config, plan)
    random = np.random.default_rng(0)

    def redraw(leaf):
        # Kernels begin at random, all else at 0 or 1.
        drawn = random.uniform(0.5, 1.5, leaf.shape)
        return np.asarray(leaf if leaf.std() else drawn, np.float32)

    variables = jax.tree.map(redraw, jax.jit(model.init)(jax.random.key(0)))
    phase = end._replace(
        config=config,
        plan=plan,
        num_seen=4,
        backbone=model,
        variables=variables,
        finetuned=variables,
    )
    export.export(phase, 'cnn', tmp_path)
    # Of several colours: pixels alone at random are all alike on average.
    images = random.random((4, 32, 32, 3)) * random.random((4, 1, 1, 3))
    images = images.astype(np.float32)
    expected = jax.jit(model.apply)(variables, images)[0].logits[:, :4]
    torch = scope['torch']
    found = scope['Model'](tmp_path).eval()(
        torch.from_numpy(images).permute(0, 3, 1, 2)
    )
    assert found.shape == (4, 4)
    assert np.ptp(expected, axis=0).min() > 1e-3  # Images differ.
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)


def test_the_orbax_checkpoint_holds_the_same_arrays(exported, end):
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(exported.absolute() / 'finetuned')
    expected = {
        'params': end.finetuned.params,
        'batch_stats': end.finetuned.batch_stats,
    }
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_folders_of_exemplars_are_sorted_as_the_outputs_are(exported, end):
    folders = sorted((exported / 'exemplars').iterdir())
    names = json.loads((exported / 'class_names.json').read_text())
    assert names == list(end.class_names)
    assert sorted(names) == sorted(saved_runs.NAMES.values())
    assert len(folders) == 6
    for label, folder in enumerate(folders):
        assert folder.name == export.folder_name(label, 6, names[label])
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == [
            '000.png',
            '001.png',
            '002.png',
        ]
        for rank, file in enumerate(files):
            np.testing.assert_array_equal(
                np.asarray(PIL.Image.open(file)),
                np.asarray(end.exemplars.images)[label, rank],
            )


def test_names_of_folders_are_safe_and_unique():
    names = ['red fox', 'a/b', '..', 'B\u00e4r', 'x' * 300, '\u00e4' * 300]
    names += ['a?b', 'nul\0', '$(rm)', '-r', ' ', '\u72d0' * 300]
    found = [export.folder_name(i, 12, name) for i, name in enumerate(names)]
    assert found[:5] == ['00_red_fox', '01_a_b', '02', '03_B\u00e4r', found[4]]
    assert sorted(found) == found
    assert len({name.casefold() for name in found}) == 12
    for name in found:
        assert len(name.encode()) < 255
        assert re.fullmatch(r'\d\d(_[\w-]+)?', name)


def test_an_earlier_phase_is_exported_with_its_own_classes(
    saved_run, tmp_path, capsys
):
    export.main([str(saved_run.workdir), '--phase=1', f'--out={tmp_path}'])
    assert 'phase 1: 4 classes, 12 exemplars' in capsys.readouterr().out
    names = json.loads((tmp_path / 'class_names.json').read_text())
    assert names == list(saved_run.parts.plan.classes[:4])
    with np.load(tmp_path / 'exemplars.npz') as found:
        images, labels = found['images'], found['labels']
    with np.load(saved_run.workdir / 'exemplars/phase_1.npz') as expected:
        np.testing.assert_array_equal(
            images.reshape(4, 3, 8, 8, 3), expected['images']
        )
    assert labels.max() == 3


@pytest.mark.parametrize('library', ['safetensors', 'flatbuffers'])
def test_without_a_library_an_export_is_refused(
    saved_run, tmp_path, monkeypatch, library
):
    monkeypatch.setitem(sys.modules, library, None)
    out = f'--out={tmp_path / "out"}'
    done = call(lambda: export.main([str(saved_run.workdir), out]))
    assert_refused(done, "pip install 'mnemonics-jax[export]'")
    assert list(tmp_path.iterdir()) == []
