"""Tests of the lines and the table of a run, and of the page of one or more."""

import html.parser
import io
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import PIL.Image
import pytest

from mnemonics_jax import report
from mnemonics_jax.core import text as text_lib
from mnemonics_jax.report import confusion, runs
from mnemonics_jax.report import page as page_lib
from mnemonics_jax.report.figures import style, tsne
from tests.made_runs import fill, make_phase, make_results

VOID_TAGS = {'meta', 'img', 'input'}
SECTIONS = [
    'accuracy',
    'phases',
    'averages',
    'confusion',
    'exemplars',
    'features',
    'losses',
    'time',
    'config',
    'versions',
]
FIGURES = {
    'accuracy',
    'border',
    'confusion',
    'drift',
    'exemplars_difference',
    'exemplars_last',
    'exemplars_learned',
    'exemplars_selected',
    'losses',
    'phases',
    'tsne',
}


class Page(html.parser.HTMLParser):
    """What a test asks of a page; raises if tags do not pair up."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.targets, self.alts = [], [], [], []
        self.words = ''
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs['id']] if 'id' in attrs else []
        self.targets += [attrs[n] for n in ('src', 'href') if n in attrs]
        self.alts += [attrs['alt']] if tag == 'img' else []
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ('script', 'style'):
            self.words += data


def read(path):
    page = Page(pathlib.Path(path).read_text(encoding='ascii'))
    assert len(set(page.ids)) == len(page.ids)
    # Links within the page lead somewhere.
    anchors = [t[1:] for t in page.targets if t.startswith('#')]
    assert set(anchors) <= set(page.ids)
    return page


def sections(page):
    return [t[1:] for t in page.targets if t.startswith('#')]


@pytest.fixture(name='written', scope='module')
def _written(tmp_path_factory):
    workdir = fill(tmp_path_factory.mktemp('run') / 'run')
    return report.write(workdir)


@pytest.fixture(name='compared', scope='module')
def _compared(tmp_path_factory):
    """Three runs, of which the second is another strategy in another order."""
    root = tmp_path_factory.mktemp('several')
    second = make_results(strategy='herding')
    second['class_order'] = [0, 5, 3, 4, 2, 1]
    third = make_results(seen=(2, 4), total=6)
    for name, results in (('a', None), ('b', second), ('c', third)):
        fill(root / name, results)
    paths = [str(root / name) for name in 'abc']
    assert report.main([*paths, str(root / 'gone')]) == 0
    return root / 'comparison' / 'report.html'


def without_figures(monkeypatch):
    notes = {'exemplars': [], 'features': []}
    monkeypatch.setattr(page_lib, 'draw', lambda _: ({}, notes))


@pytest.fixture(name='no_figures')
def _no_figures(monkeypatch):
    """Some tests read words alone."""
    without_figures(monkeypatch)


@pytest.fixture(name='quick')
def _quick(monkeypatch):
    """Figures are made, but not rendered, which takes its time."""
    pixel = io.BytesIO()
    PIL.Image.new('RGB', (1, 1)).save(pixel, 'PNG')
    monkeypatch.setattr(style, 'encoded', lambda *_: pixel.getvalue())
    monkeypatch.setattr(tsne, 'embed', lambda features: features[:, :2])


def test_phase_line():
    phase = make_phase(1, 2, 4, 10, np.random.default_rng(0))
    start = 'phase 1: 4 classes, CNN 100.0 %, NME 50.0 %, fine-tuned 25.0 %, '
    learned = 'drift 9.8 grey levels, held-out loss 0.412 -> 0.333, '
    assert report.phase_line(phase) == start + learned + '12.3 s'
    phase['exemplars'] = {'count': 6, 'bytes': 96, 'drift_grey_levels': 0.0}
    assert report.phase_line(phase) == start + '12.3 s'


def test_table():
    results = make_results()
    for phase, accuracy in zip(
        results['phases'], (0.95, 0.85, 0.75), strict=True
    ):
        phase['accuracy']['cnn'] = accuracy
    lines = report.table(results).splitlines()
    assert [' '.join(line.split()) for line in lines] == [
        'accuracy (%) CNN* NME fine-tuned exemplars bytes seconds',
        lines[1],
        'phase 0: 2 classes 95.0 50.0 25.0 6 96 12.3',
        'phase 1: 4 classes 85.0 50.0 25.0 12 192 12.3',
        'phase 2: 6 classes 75.0 50.0 25.0 18 288 12.3',
        lines[1],
        'average incremental accuracy 90.2 50.0 25.0',
        'forgetting 12.3 0.0 -5.0',
        'max forgetting 7.8 1.0 2.0',
        '* the classifier by which lucir is evaluated',
        *lines[-2:],
    ]
    assert set(lines[1]) == {'-'}


def test_a_wide_table_is_ascii_of_80_columns():
    """With a fourth classifier, a large memory and a long time."""
    results = make_results()
    results['phases'][-1]['exemplars'] |= {'count': 20000, 'bytes': 3010560000}
    results['phases'][-1]['seconds']['total'] = 86400.04
    keys = ('average_incremental_accuracy', 'forgetting', 'max_forgetting')
    for values in (
        *(phase['accuracy'] for phase in results['phases']),
        *(results[key] for key in keys),
    ):
        values['oracle'] = 0.5
    text = report.table(results)
    assert '20,000 3.01 GB 86400.0' in text
    assert max(map(len, text.splitlines())) == 80
    assert text.isascii()


def test_num_bytes():
    counts = (0, 9_999_999, 10_000_000, 61_440_000, 3 * 10**15)
    texts = ['0', '9,999,999', '10 MB', '61.4 MB', '3e+03 TB']
    assert [text_lib.num_bytes(count) for count in counts] == texts


@pytest.mark.usefixtures('no_figures')
def test_an_unfinished_run_says_so(tmp_path):
    results = make_results(seen=(2, 4), total=6)
    note = 'Not finished: 2 phases done, 4 of 6 classes; '
    note += 'rerun the command to resume.'
    assert report.table(results).splitlines()[-1] == note
    page = read(report.write(fill(tmp_path / 'run', results)))
    assert note in page.words


def test_page_has_every_section(written):
    page = read(written)
    assert sections(page) == SECTIONS
    for words in (
        'lucir with mnemonics exemplars on <i>&"',
        'average incremental accuracy, CNN90.2 %',
        '6 classes in 3 phases (2 + 2 + 2); memory of 3 images per class',
        'held-out loss before',
        '0.412',
        '9.8',
        'the paper\u2019s F',
        'data.padnull',
        'jax1.2.3',
        'commandrun it',
        'not run in a checkout',
        'all30.06.936.9',
        'share81.3 %18.7 %100.0 %',
        '262.550.037.525.087.575.0',
        '21.503.000.50',
    ):
        assert words in ''.join(page.words.split('\n')), words
    assert 'Not finished' not in page.words


def test_page_needs_nothing_beside_itself(written):
    text = written.read_text(encoding='ascii')
    page = read(written)
    held = r'data:(image/png|text/(csv|x-tex);charset=utf-8);base64,|#'
    assert all(re.match(held, t) for t in page.targets)
    assert not re.search(r'https?://|url\(|@import|<script src|<link', text)
    assert 'prefers-color-scheme: dark' in text
    assert len(page.alts) == len(FIGURES)
    assert min(map(len, page.alts)) > 20


def test_figures_are_images_and_drawings(written):
    folder = written.parent / 'figures'
    names = {f'{name}.{kind}' for name in FIGURES for kind in ('png', 'svg')}
    assert {path.name for path in folder.iterdir()} == names
    for path in folder.glob('*.png'):
        data = path.read_bytes()
        assert data[:8] == b'\x89PNG\r\n\x1a\n'
        assert min(struct.unpack('>II', data[16:24])) > 100
    for path in folder.glob('*.svg'):
        root = xml.etree.ElementTree.parse(path).getroot()
        assert root.tag.endswith('svg')


def test_the_same_files_give_the_same_page_and_figures(written, tmp_path):
    assert report.main([str(written.parent), f'--out={tmp_path}']) == 0
    again = {p.name: p.read_bytes() for p in (tmp_path / 'figures').iterdir()}
    folder = written.parent / 'figures'
    assert again == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert (tmp_path / 'report.html').read_bytes() == written.read_bytes()


def test_text_is_escaped(written):
    text = written.read_text()
    assert 'exemplars on &lt;i&gt;&amp;&#34;</h1>' in text
    assert 'from five to &lt;b&gt;&amp;' in text
    assert '<b>&' not in text
    assert '<i>&' not in text


def test_runs_are_compared_and_what_differs_is_named(compared):
    page = read(compared)
    words = ' '.join(page.words.split())
    assert sections(page) == ['differences', *SECTIONS]
    assert '3 runs compared: a, b, c' in words
    assert 'c: Not finished: 2 phases done, 4 of 6 classes' in words
    assert re.search(r'\S*/gone: no run there\.', words)
    table = words.split('fieldabc')[1].split('All other fields')[0]
    assert 'exemplars.strategymnemonicsherdingmnemonics' in table
    assert 'protocol.phases221' in table
    assert 'class order' in table
    assert 'method.name' not in table
    assert 'in different orders' in words


def test_a_comparison_has_pictures_of_each_run(compared):
    names = {path.stem for path in (compared.parent / 'figures').iterdir()}
    common = {'accuracy', 'border', 'drift', 'phases', 'tsne'}
    own = {f'{n}_{i}' for n in ('confusion', 'losses') for i in range(3)}
    assert common | own <= names
    assert {f'exemplars_selected_{i}' for i in range(3)} <= names
    # Real images are not learned.
    assert 'exemplars_learned_0' in names
    assert 'exemplars_learned_1' not in names


def test_where_a_page_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report.default_out(['runs/a']) == 'runs/a'
    assert report.default_out(['runs/a', 'runs/b/']) == 'runs/comparison'
    assert report.default_out(['runs/a', 'b']) == 'comparison'


def test_runs_of_the_same_name_are_told_apart():
    assert runs.label(['x/a/', 'y/a', 'y/b']) == ['x/a', 'y/a', 'y/b']
    assert runs.label(['x/a', 'x/b/']) == ['a', 'b']
    assert runs.label(['x/a', 'x/a']) == ['x/a (1)', 'x/a (2)']


def test_runs_of_a_sweep_are_called_by_what_differs():
    assert runs.label(['a/seed=0,lr=1', 'a/seed=0,lr=2']) == ['1', '2']
    names = ['seed=0,lr=1,k=5', 'seed=1,lr=2,k=5']
    assert runs.label(names) == ['seed=0,lr=1', 'seed=1,lr=2']
    assert runs.label(['seed=0', 'lr=1']) == ['seed=0', 'lr=1']
    assert runs.label(['seed=0,lr=1', 'seed=0']) == ['seed=0,lr=1', 'seed=0']
    assert runs.label(['a,b', 'a,c']) == ['a,b', 'a,c']


def test_differences_from_the_papers_protocol_are_listed_on_demand(
    tmp_path, no_figures
):
    text = report.write(fill(tmp_path / 'run')).read_text()
    (listed,) = re.findall(
        r'<details>\s*<summary>The paper&#8217;s curves are not drawn: (\d+) '
        r'differences</summary>(.*?)</details>',
        text,
        re.DOTALL,
    )
    assert listed[1].count('<tr>') == 1 + int(listed[0])
    words = Page(listed[1]).words.replace('\n', '')
    assert 'backboneconvnetresnet32' in words
    assert 'epochsnot recorded160' in words
    assert 'are not drawn, because the protocol differs' in words


# Files that a run may lack, with what the page then says.
LOSSES = {
    'config.json': 'config.json is missing: versions are unknown',
    'metrics.jsonl': 'metrics.jsonl is missing or holds no loss',
    'results.json': 'results.json is missing: no phase has been finished',
    'exemplars/phase_2.npz': 'exemplars/phase_2.npz is missing',
    'exemplars/selected_1.npz': 'exemplars/selected_1.npz is missing',
    'features/phase_0.npz': 'features/phase_0.npz is missing',
}


@pytest.mark.parametrize('name', LOSSES)
def test_what_is_missing_is_named(tmp_path, name, quick):
    workdir = fill(tmp_path / 'run')
    (workdir / name).unlink()
    assert LOSSES[name] in read(report.write(workdir)).words


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('content', ['torn', 'other'])
def test_what_cannot_be_read_is_named(tmp_path, name, content, quick):
    """Cut in the middle, and whole but something else."""
    workdir = fill(tmp_path / 'run')
    path = workdir / name
    data = path.read_bytes()
    if content == 'torn':
        # Of lines those before the tear are read.
        path.write_bytes(
            data[: 5 if name == 'metrics.jsonl' else len(data) // 2]
        )
    elif path.suffix == '.npz':
        np.savez(path, images=np.zeros(3), mask=np.zeros((2, 2), bool))
    else:
        path.write_text('[1, {"phase": "x"}]')
    page = read(report.write(workdir))
    is_metrics = name == 'metrics.jsonl'
    said = 'holds no loss' if is_metrics else f'{name} cannot be read'
    assert said in page.words


def test_a_run_killed_in_its_first_phase_has_a_page(tmp_path, quick):
    workdir = fill(tmp_path / 'run')
    (workdir / 'results.json').unlink()
    shutil.rmtree(workdir / 'exemplars')
    shutil.rmtree(workdir / 'features')
    page = read(report.write(workdir))
    assert sections(page) == ['losses', 'config', 'versions']
    assert 'lucir with mnemonics exemplars on' in page.words
    assert len(page.alts) == 1


def test_records_alone_make_a_page(tmp_path, quick):
    workdir = fill(tmp_path / 'run')
    (workdir / 'results.json').unlink()
    (workdir / 'config.json').unlink()
    page = read(report.write(workdir))
    assert 'A run without its configuration' in page.words


@pytest.mark.parametrize(
    'key', ['class_names', 'phases', 'config', 'predictor']
)
def test_results_that_lack_something_are_none(tmp_path, key, quick):
    results = make_results()
    workdir = fill(tmp_path / 'run', results)
    del results[key]
    (workdir / 'results.json').write_text(json.dumps(results))
    page = read(report.write(workdir))
    assert f'results.json cannot be read: {key}: missing.' in page.words


@pytest.mark.parametrize('key', sorted(make_results()['phases'][0]))
def test_phases_that_lack_something_cost_no_traceback(tmp_path, key, quick):
    results = make_results()
    workdir = fill(tmp_path / 'run', results)
    del results['phases'][1][key]
    (workdir / 'results.json').write_text(json.dumps(results))
    assert report.main([str(workdir)]) == 0


@pytest.mark.parametrize('value', [None, 'x', -1, [], {}, 0.5])
@pytest.mark.parametrize(
    'path',
    [
        ('forgetting',),
        ('phases', 0),
        ('phases', 1, 'confusion', 'nme'),
        ('phases', 2, 'seconds'),
        ('phases', 2, 'new_accuracy', 'cnn'),
        ('phases', 2, 'top5_accuracy'),
        ('backward_transfer', 'nme'),
    ],
)
def test_values_of_other_types_cost_no_traceback(tmp_path, path, value, quick):
    results = make_results()
    workdir = fill(tmp_path / 'run', results)
    node = results
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    (workdir / 'results.json').write_text(json.dumps(results))
    assert report.main([str(workdir)]) == 0


def test_skipped_images_and_resumptions_are_named(tmp_path, no_figures):
    results = make_results()
    results['skipped_images'] = [f'image_{i}.png' for i in range(30)]
    workdir = fill(tmp_path / 'run', results)
    setup = json.loads((workdir / 'config.json').read_text())
    moment = {'phase': 1, 'stage': 'learn', 'step': 40}
    setup['starts'].append({'time': '10:00', 'resumed': moment})
    moment = {'phase': 2, 'stage': None, 'step': None}
    setup['starts'].append({'time': '11:00', 'resumed': moment})
    (workdir / 'config.json').write_text(json.dumps(setup))
    words = read(report.write(workdir)).words
    assert 'Skipped 30 images that cannot be read: image_0.png, ' in words
    assert 'image_19.png and 10 more.' in words
    assert (
        'Resumed 2 times: phase 1, learn, after step 40 (10:00); '
        'phase 2 (11:00).'
    ) in words


@pytest.mark.usefixtures('no_figures')
def test_results_of_older_versions_have_a_page(tmp_path):
    """Without the measures that came later: no rows, and all others."""
    results = make_results()
    for phase in results['phases']:
        del phase['top5_accuracy'], phase['old_accuracy'], phase['new_accuracy']
    for key in ('backward_transfer', 'max_forgetting', 'last_accuracy'):
        del results[key]
    words = read(report.write(fill(tmp_path / 'run', results))).words
    assert 'backward transfer' not in words
    assert 'top 5' not in words
    assert 'top-5' not in words
    assert 'last accuracy (%)' in words
    assert 'forgetting (points)12.30.0-5.0' in ''.join(words.split('\n'))


@pytest.mark.usefixtures('no_figures')
def test_measures_are_shown_with_their_definitions(tmp_path):
    page = read(report.write(fill(tmp_path / 'run')))
    words = ''.join(page.words.split('\n'))
    assert 'backward transfer (points)-7.6-1.02.0' in words
    assert 'backward transfer: Accuracy of the last model on the' in words
    assert 'last top-5 accuracy (%)98.875.070.0' in words
    assert 'last top-5 accuracy: Share of test images' in words


@pytest.mark.usefixtures('no_figures')
def test_top_5_of_five_classes_is_not_shown(tmp_path):
    results = make_results(seen=(2, 5))
    words = read(report.write(fill(tmp_path / 'run', results))).words
    assert 'top 5' not in words
    assert 'top-5' not in words


@pytest.mark.usefixtures('no_figures')
@pytest.mark.parametrize('adjusted', [False, True])
def test_real_exemplars_that_were_adjusted_are_named_first(tmp_path, adjusted):
    paths = []
    for strategy in ('herding', 'mnemonics'):
        results = make_results(strategy=strategy)
        for phase in results['phases'][1:]:
            if adjusted:
                phase['exemplars']['adjust_drift_grey_levels'] = 3.0
        paths.append(str(fill(tmp_path / strategy, results)))
    out = report.write_anew(paths, str(tmp_path / 'out'))
    (start, *rest) = read(out).words.split('lucir on')
    said = 'herding: exemplars are selected real images, but their pixels were'
    assert (said in start) == adjusted
    assert 'were changed' not in ''.join(rest)


@pytest.mark.usefixtures('no_figures')
def test_real_exemplars_have_no_columns_of_learning(tmp_path):
    results = make_results(strategy='herding')
    page = read(report.write(fill(tmp_path / 'run', results)))
    assert 'held-out' not in page.words
    assert 'drift (grey levels)' not in page.words


def test_a_run_without_exemplars_has_a_page(tmp_path, quick):
    results = make_results(strategy='none')
    for phase in results['phases']:
        phase['exemplars'] = {'count': 0, 'bytes': 0, 'drift_grey_levels': 0.0}
    workdir = fill(tmp_path / 'run', results)
    shutil.rmtree(workdir / 'exemplars')
    page = read(report.write(workdir))
    assert 'lucir with no exemplars' in page.words
    assert 'exemplars' not in sections(page)


def test_numbers_of_a_large_matrix_stay_out_of_the_page(monkeypatch):
    """What does not fit is named; the judged classifier stays, as a picture."""
    run = runs.Run('big', None, {}, make_results(), {}, [], [])
    content, notes = confusion.collect([run])
    heads = content['runs'][0]['heads']
    assert [head['name'] for head in heads] == ['CNN', 'NME', 'fine-tuned']
    counts = run.phases[2]['confusion']['cnn']
    assert heads[0]['phases'][2]['counts'] == counts
    assert notes == []
    # 4 + 16 + 36 fields a classifier.
    monkeypatch.setattr(confusion, 'MAX_NUMBERS', 60)
    content, notes = confusion.collect([run])
    assert [head['name'] for head in content['runs'][0]['heads']] == ['CNN']
    assert 'the matrices of NME, fine-tuned are left out' in notes[0]
    monkeypatch.setattr(confusion, 'MAX_NUMBERS', 10)
    monkeypatch.setattr(confusion, 'MAX_IMAGES', 2)
    content, notes = confusion.collect([run])
    phases = content['runs'][0]['heads'][0]['phases']
    assert [phase['seen'] for phase in phases] == [2, 6]
    assert all(p['image'].startswith('data:image/png') for p in phases)
    assert 'Of 3 phases, 2 are shown' in notes[0]


def test_main(tmp_path, capsys, no_figures):
    workdir = fill(tmp_path / 'run')
    assert report.main([str(workdir)]) == 0
    assert capsys.readouterr().out == f'{workdir / "report.html"}\n'


def test_nothing_to_report_of_is_one_line(tmp_path, capsys):
    assert report.main([str(tmp_path), str(tmp_path / 'gone')]) == 2
    streams = capsys.readouterr()
    assert streams.out == ''
    assert streams.err.count('\n') == 1
    assert streams.err.startswith(f'error: {tmp_path}, {tmp_path}/gone: ')
    assert (
        'must be the work directory of a run, with a config.json' in streams.err
    )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    workdir = fill(tmp_path / 'run')
    (tmp_path / 'file').write_text('')
    assert report.main([str(workdir), f'--out={tmp_path / "file"}']) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {tmp_path / "file"}: ')
    assert error.count('\n') == 1


def test_the_command_as_it_is_typed(tmp_path):
    workdir = fill(tmp_path / 'run')
    (workdir / 'results.json').unlink()  # Few figures take little time.
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'mnemonics_jax.report'),
            *(str(workdir), '--out', str(tmp_path / 'out')),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    assert done.stdout == f'{tmp_path / "out" / "report.html"}\n'
    assert done.stderr == ''
    assert (tmp_path / 'out' / 'report.html').is_file()
