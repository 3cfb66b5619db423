"""Studies: their cases, their data, and one from its command line."""

import argparse
import json
import pathlib
import subprocess
import sys
import types

import compiling
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from experiments import (
    flags,
    full_memory,
    images,
    protocol,
    recipe,
    replication,
    results_parts,
    runner,
    tables,
)


def test_cases_differ_and_say_all_that_they_set():
    for cases in (
        replication.cases('digits'),
        replication.cases('images'),
        replication.cases('cifar100'),
        recipe.cases('digits'),
        recipe.cases('images'),
        full_memory.cases('digits'),
        full_memory.cases('images'),
        protocol.cases('cifar100_all'),
    ):
        names = [tuple(case.labels.items()) for case in cases]
        assert len(set(names)) == len(cases)
        settings = [tuple(sorted(case.settings.items())) for case in cases]
        assert len(set(settings)) == len(cases)


def test_classes_are_dealt_out_once_and_images_used_once():
    choose, confirm = images.split_classes(10, 4)
    assert len(choose) == 4
    assert sorted([*choose, *confirm]) == list(range(10))
    labels = {'train': np.array([0, 1, 0, 0, 0]), 'test': np.array([0, 1, 0])}
    train, test, rest = images.pick(labels, 0, 2, 3)
    assert train.tolist() == [0, 2]
    assert test.tolist() == [0, 2]
    assert rest.tolist() == [3]
    with pytest.raises(ValueError, match='class 1: 1 training and 1 test'):
        images.pick(labels, 1, 2, 3)


def test_a_folder_becomes_two_files(tmp_path):
    from PIL import Image

    for split, num in (('train', 3), ('validation', 1)):
        for k in range(4):
            folder = tmp_path / 'in' / split / f'c{k}'
            folder.mkdir(parents=True)
            for i in range(num):
                pixels = np.full((8, 8, 3), 50 * k + i + 10 * num, np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.png')
    asked = ['--size=8', '--choose=1', '--train=2', '--test=2']
    out = tmp_path / 'out'
    assert images.main([str(tmp_path / 'in'), f'--out={out}', *asked]) == 0
    names = []
    for name, num in (('choose', 1), ('confirm', 3)):
        with np.load(out / f'{name}.npz') as file:
            assert file['train_images'].shape == (2 * num, 8, 8, 3)
            assert file['test_labels'].tolist() == sorted([*range(num)] * 2)
            names += file['class_names'].tolist()
            for row, k in enumerate(file['class_names']):
                base = 50 * int(k[1:])
                of_class = file['test_images'][file['test_labels'] == row]
                # One of the validation images, one that is not trained on.
                found = of_class[:, 0, 0, 0].tolist()
                assert found == [base + 10, base + 32]
    assert sorted(names) == ['c0', 'c1', 'c2', 'c3']


def test_each_seed_has_classes_that_no_other_has(tmp_path):
    labels = np.repeat(np.arange(5), 3).astype(np.int32)
    pixels = np.arange(15, dtype=np.uint8).repeat(12).reshape(15, 2, 2, 3)
    given = tmp_path / 'in.npz'
    np.savez(
        given,
        train_images=pixels,
        train_labels=labels,
        test_images=pixels + 100,
        test_labels=labels,
        class_names=np.array(list('abcde')),
    )
    out = tmp_path / 'small'
    asked = ['--disjoint=2', '--train=2', '--test=1', f'--out={out}']
    assert images.main([str(given), *asked]) == 0
    # The fifth class is left, since a third set lacks one.
    assert sorted(p.name for p in out.iterdir()) == [
        'confirm-0.npz',
        'confirm-1.npz',
    ]
    data = flags.find_data(str(out), 'confirm', [0, 1])
    assert data.name == 'small'
    assert data.settings['weight_transfer'] == 'false'
    names = []
    for seed in (0, 1):
        settings = data.of_seed(seed)
        assert settings['protocol.class_order_seed'] == str(seed)
        assert 'data.subset_seed' not in settings
        with np.load(settings['data.dir']) as file:
            names += file['class_names'].tolist()
            first = 3 * np.array(['abcde'.index(c) for c in names[-2:]])
            assert file['train_images'][:, 0, 0, 0].tolist() == [
                *(first[0], first[0] + 1, first[1], first[1] + 1)
            ]
            assert file['test_images'][:, 0, 0, 0].tolist() == [*(first + 100)]
    assert len(set(names)) == 4
    with pytest.raises(ValueError, match=r'no .*confirm-2\.npz'):
        flags.find_data(str(out), 'confirm', [0, 2])
    with pytest.raises(ValueError, match='--disjoint=6: must be in 1'):
        images.deal_classes(5, 6)
    with pytest.raises(ValueError, match='must have another name'):
        flags.find_data(str(tmp_path / 'digits'), 'confirm', [0])


def test_runs_of_a_seed_read_its_file_and_name_it_nowhere(tmp_path):
    for seed in (0, 1):
        (tmp_path / f'confirm-{seed}.npz').touch()
    args = argparse.Namespace(
        data=flags.find_data(str(tmp_path), 'confirm', [0, 1]),
        seeds=[0, 1],
        runs=tmp_path / 'runs',
        quick=False,
    )
    case = replication.case_of('cifar100', 'lucir', '2', 'herding', 'no')
    for seed, pair in enumerate(runner.plan(args, [case])):
        for run in pair:
            path = tmp_path / f'confirm-{seed}.npz'
            assert f'--config.data.dir={path.resolve()}' in run.command
            assert f'--config.seed={seed}' in run.command
            assert '--config.weight_transfer=false' in run.command
            assert 'confirm' not in run.name


def test_the_data_that_confirm_have_few_cases_and_the_whole_of_paper():
    cases = replication.cases('cifar100')
    assert {case.labels['adjusted'] for case in cases} == {'no'}
    whole = [c for c in cases if c.labels['exemplars'] == 'paper']
    assert len(whole) == 1
    assert whole[0].settings['exemplars.outer_epochs'] == '50'
    assert len(cases) - 1 == 2 * 3 * 3


def study(tmp_path, *given):
    return subprocess.run(
        [
            *(sys.executable, '-m', 'experiments.recipe', '--quick'),
            *(f'--runs={tmp_path / "runs"}', f'--out={tmp_path / "out"}'),
            *given,
        ],
        cwd=ROOT,
        env=compiling.one_device(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_study_from_its_command_line_resumes(tmp_path):
    first = study(tmp_path, '--only=herding,means')
    assert first.returncode == 0, first.stderr
    assert '1/1 ' in first.stdout  # The model of phase 0 of both.
    assert '2/2 ' in first.stdout
    content = json.loads((tmp_path / 'out/recipe_digits.json').read_text())
    assert {r['labels']['seed'] for r in content['runs']} == {'100'}
    herding, means = content['rows']
    assert herding['drift']['mean'] == 0
    assert means['drift']['mean'] > 0
    assert means['bytes'] == herding['bytes'] > 0
    learning = [r['learning'] for r in content['runs']]
    assert [x['strategy'] for x in learning] == ['herding', 'mnemonics']
    assert learning[1]['objective'] == 'means'
    assert '| means | 2 |' in (tmp_path / 'out/recipe_digits.md').read_text()
    # Nobody reads the pages of so many runs.
    assert not list(tmp_path.glob('runs/*/report.html'))
    again = study(tmp_path, '--only=herding,means')
    assert again.stdout.startswith('2 runs are already in the results')


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (['--data=nowhere'], '--data=nowhere: no nowhere/choose.npz'),
        (['--only=nothing'], 'must select a case of recipe: random, herding'),
        (['--where=a class=3'], 'must select a case of recipe: random'),
        (['--where=two'], '--where=two: must have the form'),
        (['--jobs=0'], '--jobs=0: must be an integer >= 1'),
        (['--seeds=a'], '--seeds=a: must be integers'),
    ],
)
def test_bad_flags_are_refused_in_one_line(given, said, capsys):
    with pytest.raises(SystemExit) as error:
        recipe.main(given)
    text = capsys.readouterr().err or str(error.value)
    assert said in text
    assert text.strip().count('\n') == 0


def test_a_field_that_only_some_runs_set_is_empty_in_the_others(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(runner.sweep, 'run_all', lambda *_: None)
    settings = {'a': {'x': '1'}, 'b': {'x': '1', 'y': '2'}}
    runs = [
        runner.sweep_grid.Run(name, labels, tmp_path / name, [])
        for name, labels in settings.items()
    ]
    data = types.SimpleNamespace(config='c.py', settings={})
    args = argparse.Namespace(data=data, runs=tmp_path, jobs=1)
    runner.do(args, tmp_path, runs)
    found = json.loads((tmp_path / 'sweep.json').read_text())['cells']
    assert [cell['settings'] for cell in found] == [
        {'x': '1', 'y': ''},
        {'x': '1', 'y': '2'},
    ]


@pytest.mark.parametrize(
    ('study', 'data'),
    [(recipe, 'digits'), (recipe, 'images'), (full_memory, 'images')],
)
def test_a_study_that_is_run_again_keeps_its_records(study, data):
    name = study.__name__.rpartition('.')[2]
    args = argparse.Namespace(
        out=tables.RESULTS,
        study=name,
        data=types.SimpleNamespace(name=data),
    )
    content = results_parts.load(tables.RESULTS, name, data)
    assert runner.earlier(args, study.cases(data)) == content['runs']
    changed = [c._replace(settings={}) for c in study.cases(data)]
    kept = runner.earlier(args, changed)
    assert kept
    assert all(map(runner.used_removed, kept))


@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda text: text[:-9], 'is damaged: must be JSON'),
        (lambda text: '\0' * len(text), 'is damaged: must be JSON'),
        (lambda text: '[]', 'is damaged: must be names with values, not []'),
        (lambda text: '{}', 'is damaged: runs: missing'),
        (
            lambda text: text.replace(
                '"learning": {', '"learning": [1], "x": {'
            ),
            'is damaged: runs[0].learning: must be names with values, not [1]',
        ),
    ],
)
def test_a_damaged_file_of_records_is_one_line(damage, words, tmp_path, capsys):
    path = tmp_path / 'recipe_digits.json'
    text = (tables.RESULTS / path.name).read_text()
    path.write_text(text)
    assert runner.load(path)['runs'] == json.loads(text)['runs']
    path.write_text(damage(text))
    args = argparse.Namespace(
        out=tmp_path,
        study='recipe',
        data=types.SimpleNamespace(name='digits'),
    )
    with pytest.raises(SystemExit, match=r'^2$'):
        runner.earlier(args, recipe.cases('digits'))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'error: {path} {words}')
    path.unlink()
    assert runner.earlier(args, []) == []
    path.mkdir()  # Something else in its place.
    with pytest.raises(SystemExit, match=r'^2$'):
        runner.earlier(args, [])
    assert 'is a folder' in capsys.readouterr().err
