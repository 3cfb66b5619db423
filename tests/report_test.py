"""Tests of the lines, the table, the figures and the page of a run."""

import html.parser
import json
import pathlib
import re
import shutil
import struct

import numpy as np
import pytest

from mnemonics_jax import report

VOID_TAGS = {'meta', 'img'}
NAMES = ('cnn', 'nme', 'finetuned')
SECTIONS = ('phases', 'averages', 'figures', 'time', 'config', 'versions')
FIGURES = {'accuracy.png', 'confusion.png', 'exemplars.png', 'learning.png'}


def named(*values):
    return dict(zip(NAMES, values, strict=True))


def make_phase(index, num_seen, right):
    """A phase with `right` of 10 images a class right, the rest called 0."""
    counts = np.zeros((num_seen, num_seen), int)
    np.fill_diagonal(counts, right)
    counts[:, 0] += 10 - right
    accuracy = float(np.trace(counts) / counts.sum())
    return {
        'phase': index,
        'num_old': num_seen - 2,
        'num_seen': num_seen,
        'accuracy': named(accuracy, 0.5, 0.25),
        'confusion': named(*[counts.tolist()] * 3),
        'exemplars': {
            'count': 3 * num_seen,
            'bytes': 48 * num_seen,
            'drift_grey_levels': 9.84,
            'held_out_loss_before': 0.412,
            'held_out_loss_after': 0.333,
        },
        'seconds': {'train': 10.0, 'learn': 2.3, 'total': 12.3},
    }


def make_results():
    """Three phases of two classes each, of six in all."""
    return {
        'config': {
            'seed': 7,
            'data': {'source': '<i>&"', 'pad': None},
            'backbone': {'name': 'convnet'},
            'method': {'name': 'lucir', 'imprint': True},
            'exemplars': {
                'strategy': 'mnemonics',
                'per_class': 3,
                'total': 0,
                'storage': 'uint8',
            },
        },
        'complete': True,
        'class_order': [5, 0, 3, 4, 2, 1],
        'class_names': ['zero', '<b>&', 'two', '$x$', 'four', 'five'],
        'predictor': 'cnn',
        'phases': [make_phase(i, 2 * i + 2, 9 - i) for i in range(3)],
        'average_incremental_accuracy': named(0.9016, 0.5, 0.25),
        'forgetting': named(0.1234, 0.0, -0.05),
        'max_forgetting': named(0.0777, 0.01, 0.02),
    }


def make_records():
    """Four records of two stages in each of three phases."""
    return [
        {'global_step': 8 * phase + i, 'phase': phase, **record}
        for phase in range(3)
        for i in range(4)
        for record in (
            {'stage': 'train', 'epoch': i, 'loss': 2.0 - i},
            {'stage': 'learn', 'step': 5 * i, 'outer_loss': 1.0},
            {'stage': 'other', 'value': 1},
        )
    ]


def fill(workdir: pathlib.Path, results=None) -> pathlib.Path:
    """Writes what a run writes."""
    results = results or make_results()
    last = results['phases'][-1]
    (workdir / 'exemplars').mkdir(parents=True)
    (workdir / 'results.json').write_text(json.dumps(results))
    (workdir / 'metrics.jsonl').write_text(
        ''.join(json.dumps(record) + '\n' for record in make_records())
    )
    setup = {'versions': {'jax': '1.2.3'}, 'commit': None, 'started': 'now'}
    (workdir / 'config.json').write_text(json.dumps(setup))
    np.savez_compressed(
        workdir / 'exemplars' / f'phase_{last["phase"]}.npz',
        images=np.zeros((last['num_seen'], 3, 4, 4, 1), np.uint8),
        mask=np.ones((last['num_seen'], 3), bool),
    )
    return workdir


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
        self.words += data


@pytest.fixture(name='written', scope='module')
def _written(tmp_path_factory):
    workdir = fill(tmp_path_factory.mktemp('run') / 'run')
    return report.write(workdir)


@pytest.fixture(name='no_figures')
def _no_figures(monkeypatch):
    """Drawing takes its time, and some tests read words alone."""
    monkeypatch.setattr(report, 'draw', lambda *unused: {})


def test_phase_line():
    phase = make_phase(1, 4, 8)
    start = 'phase 1: 4 classes, CNN 85.0 %, NME 50.0 %, fine-tuned 25.0 %, '
    learned = 'drift 9.8 grey levels, held-out loss 0.412 -> 0.333, '
    assert report.phase_line(phase) == start + learned + '12.3 s'
    phase['exemplars'] = {'count': 6, 'bytes': 96, 'drift_grey_levels': 0.0}
    assert report.phase_line(phase) == start + '12.3 s'


def test_table():
    lines = report.table(make_results()).splitlines()
    assert max(map(len, lines)) == 80
    assert ' '.join(lines[1].split()) == (
        'phase classes seen CNN* NME fine-tuned images bytes seconds'
    )
    assert [line.split() for line in lines[3:6]] == [
        ['0', '2', '95.0', '50.0', '25.0', '6', '96', '12.3'],
        ['1', '4', '85.0', '50.0', '25.0', '12', '192', '12.3'],
        ['2', '6', '75.0', '50.0', '25.0', '18', '288', '12.3'],
    ]
    assert [line.split() for line in lines[7:10]] == [
        ['average', 'incremental', 'accuracy', '90.2', '50.0', '25.0'],
        ['forgetting', '12.3', '0.0', '-5.0'],
        ['max', 'forgetting', '7.8', '1.0', '2.0'],
    ]
    assert lines[10] == '* the classifier by which lucir is judged'
    assert len(lines) == 13


def test_table_of_a_large_memory_is_as_wide():
    results = make_results()
    results['phases'][-1]['exemplars'] |= {'count': 20000, 'bytes': 3010560000}
    results['phases'][-1]['seconds']['total'] = 86400.04
    text = report.table(results)
    assert '20,000   3.01 GB  86400.0' in text
    assert max(map(len, text.splitlines())) == 80


def test_num_bytes():
    counts = (0, 9_999_999, 10_000_000, 61_440_000, 3 * 10**15)
    texts = ['0', '9,999,999', '10 MB', '61.4 MB', '3e+03 TB']
    assert [report.num_bytes(count) for count in counts] == texts


@pytest.mark.usefixtures('no_figures')
def test_an_unfinished_run_says_so(tmp_path):
    results = make_results()
    del results['phases'][2]
    results['complete'] = False
    note = 'Not finished: 2 phases done, 4 of 6 classes; '
    note += 'the same command goes on.'
    assert report.table(results).splitlines()[-1] == note
    page = Page(report.write(fill(tmp_path / 'run', results)).read_text())
    assert note in page.words


def test_page_has_every_section(written):
    page = Page(written.read_text())
    assert page.ids == list(SECTIONS)
    for words in (
        'lucir with mnemonics exemplars on <i>&"',
        'average incremental accuracy, CNN90.2 %',
        '6 classes in 3 phases (2 + 2 + 2); memory of 3 images a class',
        'held-out loss before',
        '0.412',
        '9.8',
        'the paper\u2019s F',
        'data.padnull',
        'jax1.2.3',
        'not run in a checkout',
        'all30.06.936.9',
        'share81.3 %18.7 %100.0 %',
    ):
        assert words in page.words, words
    assert 'Not finished' not in page.words


def test_page_needs_nothing_beside_itself(written):
    text = written.read_text(encoding='ascii')
    page = Page(text)
    assert page.targets
    assert all(re.match('data:image/png;base64,|#', t) for t in page.targets)
    assert not re.search(r'https?://|url\(|@import|<script|<link', text)
    assert 'prefers-color-scheme: dark' in text
    assert len(page.alts) == 4
    assert min(map(len, page.alts)) > 20


def test_figures_are_images(written):
    folder = written.parent / 'figures'
    assert {path.name for path in folder.iterdir()} == FIGURES
    for path in folder.iterdir():
        data = path.read_bytes()
        assert data[:8] == b'\x89PNG\r\n\x1a\n'
        assert min(struct.unpack('>II', data[16:24])) > 100


def test_what_is_missing_is_named(tmp_path):
    workdir = fill(tmp_path / 'run')
    shutil.rmtree(workdir / 'exemplars')
    (workdir / 'metrics.jsonl').unlink()
    (workdir / 'config.json').unlink()
    page = Page(report.write(workdir).read_text())
    assert 'exemplars/phase_2.npz is missing' in page.words
    assert 'metrics.jsonl is missing' in page.words
    assert 'config.json is missing' in page.words
    assert len(page.alts) == 2


def test_torn_exemplars_are_named(tmp_path):
    workdir = fill(tmp_path / 'run')
    path = workdir / 'exemplars' / 'phase_2.npz'
    path.write_bytes(path.read_bytes()[:100])
    assert 'phase_2.npz cannot be read' in report.write(workdir).read_text()


def test_text_is_escaped(written):
    text = written.read_text()
    assert 'exemplars on &lt;i&gt;&amp;&quot;</h1>' in text
    assert 'from five to &lt;b&gt;&amp;.' in text
    assert '<b>&' not in text
    assert '<i>&' not in text


@pytest.mark.usefixtures('no_figures')
def test_real_exemplars_have_no_columns_of_learning(tmp_path):
    results = make_results()
    results['config']['exemplars']['strategy'] = 'herding'
    for phase in results['phases']:
        del phase['exemplars']['held_out_loss_before']
        del phase['exemplars']['held_out_loss_after']
    page = Page(report.write(fill(tmp_path / 'run', results)).read_text())
    assert 'held-out' not in page.words
    assert 'drift' not in page.words


@pytest.mark.usefixtures('no_figures')
def test_main(tmp_path, capsys):
    workdir = fill(tmp_path / 'run')
    assert report.main([str(workdir)]) == 0
    assert capsys.readouterr().out == f'{workdir / "report.html"}\n'


@pytest.mark.parametrize(
    ('content', 'message'),
    [(None, 'no such file'), ('{', 'not JSON'), ('[]', 'not the results')],
)
def test_a_wrong_workdir_is_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / 'results.json').write_text(content)
    assert report.main([str(tmp_path)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ''
    assert streams.err.count('\n') == 1
    assert streams.err.startswith(f'error: {tmp_path / "results.json"}: ')
    assert message in streams.err
