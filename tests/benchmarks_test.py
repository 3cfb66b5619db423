"""What the benchmarks say is what they measured, and none hides another."""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import made_runs
import numpy as np
import optax
import pytest
from absl import flags
from ml_collections import config_flags

from mnemonics_jax import bilevel, losses
from mnemonics_jax import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / 'benchmarks'))

import growth_page
import hypergradients
import parts
import readme_picture
import run
import tables
import targets
import timing

QUIET = {'platform': 'cpu', 'quick': False, 'seconds': 700.0, 'cores': 2}
QUIET |= {'all_parts': True, 'load_average': [0.1, 1.0]}


def a_part(scale):
    seconds = {
        'ours': {'median': 3.0, 'min': 2.0},
        timing.PEER: {'median': 2.0, 'min': 1.0},
    }
    assert scale == parts.QUICK
    return {'rows': [timing.row_of('a step', seconds, {'losses': 1e-6})]}


def a_part_that_fails(scale):
    raise RuntimeError('no\nmore')


def a_part_that_is_skipped(scale):
    parts.need('numpy', 'no_such_module')


FAKE = {
    'fails': a_part_that_fails,
    'works': a_part,
    'skips': a_part_that_is_skipped,
}


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """What a command with a part that fails leaves."""
    monkeypatch.setattr(parts, 'PARTS', FAKE)
    assert run.main(['--quick', f'--out={tmp_path}']) == 1
    output = capsys.readouterr()
    assert 'failed: fails: RuntimeError: no' in output.err
    content = json.loads((tmp_path / 'cpu.json').read_text())
    assert tables.section(content) in output.out
    return content


def test_a_part_that_fails_is_named_and_loses_no_other_figures(report):
    assert report['failed'] == {'fails': 'RuntimeError: no'}
    assert report['skipped'] == {'skips': 'no_such_module missing'}
    (row,) = report['parts']['works']['rows']
    assert (row['ours'], row['peer'], row['ratio']) == (3, 2, 1.5)
    assert row['ratio_of_least'] == 2
    assert '| a step | 3 s | 2 s | 1.50 |' in tables.section(report)
    assert report['command'] == 'python -m benchmarks.run --quick'


def test_some_parts_alone_may_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, 'PARTS', FAKE)
    assert run.main(['--quick', f'--out={tmp_path}', '--only', 'works']) == 0
    content = json.loads((tmp_path / 'cpu.json').read_text())
    assert list(content['parts']) == ['works']
    assert content['command'].endswith("--only 'works'")


def test_the_command_runs_from_the_checkout():
    done = subprocess.run(
        [sys.executable, '-m', 'benchmarks.run', '--only', 'nonsense'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    for name in parts.PARTS:
        assert f'{name}' in done.stderr


WORDS = (
    *('CPU: model step', 'CPU: exemplar step', 'CPU: evaluation', 'CPU: feed'),
    *('CPU: first step', 'CPU: whole run'),
    *('images/s', 'accelerator: exemplar steps', 'protocol'),
    *('temporary', 'herding', '--quick'),
)


def judged(**figures):
    """Targets of a report, by a word of theirs."""
    rows = targets.rows({**QUIET, 'parts': {}, **figures})
    assert len(rows) == len(WORDS)
    found = dict(zip(WORDS, rows, strict=True))
    for word, row in found.items():
        assert word in row['target']
    return found


def rows_with_ratio(*ratios):
    rows = [
        {'ratio': ratio, 'ratio_of_least': ratio, 'inner': i}
        for i, ratio in enumerate(ratios)
    ]
    return {'rows': rows}


def test_what_was_not_measured_neither_holds_nor_fails():
    for row in judged().values():
        assert row['measured'] == targets.NOT_HERE
        assert row['holds'] is None
    alone = judged(parts={'model step': rows_with_ratio(None)})
    assert alone['CPU: model step']['holds'] is None


def test_targets_on_cpu_are_ratios_to_the_peer_on_idle_cores():
    ratios = {'model step': (9.0, 1.5), 'exemplar step': (0.8, 0.7)}
    ratios |= {'evaluation': (1.01,), 'feed': (0.9, 1.1)}
    found = {name: rows_with_ratio(*each) for name, each in ratios.items()}
    # Of inner steps on the head, nothing is asked.
    found['exemplar step']['rows'].append({'ratio': 9.0, 'scope': 'head'})
    rows = judged(parts=found)
    holds = [rows[f'CPU: {name}']['holds'] for name in ratios]
    assert holds == [True, True, False, False]
    # Of model steps, the last one counts: each core a device.
    assert rows['CPU: model step']['measured'] == '1.50 times'
    assert rows['CPU: feed']['measured'] == '0.90, 1.10 times'
    busy = judged(parts=found, load_average=[1.5, 2.0])['CPU: model step']
    assert busy['holds'] is None
    assert 'busy' in busy['measured']
    assert judged(parts=found, platform='gpu')['CPU: feed']['holds'] is None


@pytest.mark.parametrize(
    ('first', 'whole', 'holds'),
    [
        ((5.0, 2.5), (20.0, 10.0), [True, True]),
        ((5.1, 1.0), (10.0, 10.1), [False, False]),
    ],
)
def test_targets_of_the_digits_run_are_of_cold_and_warm_caches(
    first, whole, holds
):
    pairs = {
        name: dict(zip(('cold', 'warm'), each, strict=True))
        for name, each in (('first', first), ('whole', whole))
    }
    rows = judged(parts={'run': {'rows': [], **pairs}})
    words = ('CPU: first step', 'CPU: whole run')
    assert [rows[word]['holds'] for word in words] == holds
    shown = f'{first[0]:.3g} s, {first[1]:.3g} s'
    assert rows['CPU: first step']['measured'] == shown


def test_targets_of_accelerators_are_judged_there_alone():
    figures = [
        {'batch': 128, 'images_per_second': 90_000.0},
        {'batch': 128, 'images_per_second': 110_000.0},
        {'batch': 1024, 'images_per_second': 200_000.0},
    ]
    measured = {
        'model step': {'rows': [], 'figures': figures},
        'exemplar step': rows_with_ratio(0.2, 1 / 3),
        'protocol': {'rows': [], 'seconds': 800.0},
    }
    names = ('images/s', 'accelerator: exemplar steps', 'protocol')
    found = judged(parts=measured, platform='gpu')
    assert [found[name]['holds'] for name in names] == [True] * 3
    assert '110,000 at 128, 200,000 at 1024' in found['images/s']['measured']
    found = judged(parts=measured, platform='cpu')
    assert [found[name]['holds'] for name in names] == [None] * 3
    figures[1]['images_per_second'] = 99_000.0
    measured['exemplar step'] = rows_with_ratio(0.2, 0.34)
    measured['protocol']['seconds'] = 901.0
    found = judged(parts=measured, platform='gpu')
    assert [found[name]['holds'] for name in names] == [False] * 3


def test_memory_herding_and_the_quick_command_have_their_bounds():
    def found(growth, seconds, shape, whole):
        measured = {
            'temporaries': {'rows': [], 'growth': growth},
            'herding': {
                'rows': [],
                'shape': shape,
                'seconds_with_compiling': seconds,
            },
        }
        rows = judged(parts=measured, quick=True, seconds=whole)
        return [rows[w]['holds'] for w in ('temporary', 'herding', '--quick')]

    assert found(0.1, 59, [1000, 1300, 512], 599) == [True] * 3
    assert found(0.11, 61, [1000, 1300, 512], 601) == [False] * 3
    assert found(0.1, 1, [100, 1300, 512], 1)[1] is None


def test_the_protocol_is_that_of_the_paper_without_a_download():
    argv = ['run', parts.PROTOCOL[0].replace('configs', f'{ROOT}/configs')]
    argv += parts.PROTOCOL[1:]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    assert values(argv) == ['run']
    config = config_lib.resolve(values.config)
    assert (config.protocol.base_classes, config.protocol.phases) == (50, 5)
    assert config.train.epochs == 160
    assert config.exemplars.strategy == 'mnemonics'
    assert config.exemplars.adjust
    assert config.backbone.name == 'resnet32'
    assert config.data.source == 'synthetic'


def test_bytes_of_imagenet_follow_from_its_shapes():
    found = growth_page.imagenet()
    pixels = 224 * 224 * 3
    assert found['exemplars_uint8'] == 1000 * 20 * pixels
    assert found['exemplars_float32'] == 4 * found['exemplars_uint8']
    # Pixels and two moments, and two counts of steps.
    assert found['state_of_learning'] == 3 * found['learned_at_once'] + 8
    # ResNet-18 as torchvision has it, with the cosine head in its place: no
    # bias, a scale.
    assert found['params'] == 4 * (11_689_512 - 1000 + 1)


def test_the_page_of_growth_is_what_its_file_gives():
    path = tables.RESULTS / 'growth_cpu.json'
    figures = json.loads(path.read_text())
    picture = path.with_suffix('.png')
    shown = path.with_suffix('.md').read_text()
    assert shown == growth_page.page(figures, picture.name)
    assert picture.stat().st_size > 10_000
    points = figures['growth']['devices']
    sent = [growth_page.sent(p['training'], 'all-reduce') for p in points]
    # None on one device, and the same bytes on any other number of them.
    assert sent[0] == (0, 0)
    assert len({each for _, each in sent[1:]}) == 1


def test_hypergradients_are_measured_beside_the_exact_one(monkeypatch):
    """On a linear model, where truncation of one step of two is no more."""
    monkeypatch.setattr(hypergradients, 'TERMS', (1, 2))
    rng = np.random.default_rng(0)
    images, labels = jnp.asarray(rng.uniform(size=(6, 4))), np.arange(6) % 3
    problem = bilevel.InnerProblem(
        lambda kernel, x, y: losses.cross_entropy(x @ kernel, y, 3),
        optax.sgd(0.5),
    )
    query = bilevel.Query(images[::-1] + 1, labels, np.ones(6))
    indices = np.tile(np.arange(6), (2, 1))
    case = hypergradients.Case(
        'two steps', problem, (jnp.eye(4, 3), images, labels, indices, query)
    )
    found = hypergradients.measure(case, repeats=1)
    assert found['case'] == 'two steps'
    rows = {row['method']: row for row in found['rows']}
    assert len(rows) == 7
    for row in rows.values():
        assert row['seconds'] > 0
        assert row['temporary_bytes'] > 0
    for exact in ('unroll', 'truncated, 2 terms'):
        assert rows[exact]['relative_error'] < 1e-6
        assert rows[exact]['cosine'] == pytest.approx(1)
    for other in ('truncated, 1 terms', 'neumann, 1 terms', 'cg, 2 terms'):
        assert 1e-3 < rows[other]['relative_error'] < 100


def test_the_page_of_hypergradients_is_what_its_file_gives():
    results = ROOT / 'benchmarks' / 'results'
    report = json.loads((results / 'hypergradients_cpu.json').read_text())
    page = hypergradients.page(report)
    assert page == (results / 'hypergradients_cpu.md').read_text()
    assert 'rough' in hypergradients.page({**report, 'busy': True})
    assert 'rough' not in hypergradients.page({**report, 'busy': False})


def test_the_tables_of_the_page_are_those_of_the_files():
    text = tables.PAGE.read_text()
    assert 'cpu' in tables.names()
    for name in tables.names():
        assert tables.insert(text, name, tables.generated(name)) == text


def test_a_text_without_the_lines_is_refused():
    body = f'a\n{tables.begin("x")}\nold\n{tables.end("x")}\nb'
    assert 'old' not in tables.insert(body, 'x', 'new')
    with pytest.raises(ValueError, match='x: must have marker lines'):
        tables.insert('a text', 'x', 'new')


def test_rows_without_a_peer_leave_its_columns_empty():
    alone = timing.row_of('alone', {'ours': {'median': 0.25, 'min': 0.2}}, {})
    report = {'parts': {'it': {'rows': [alone]}}}
    assert '| alone | 250 ms |  |  |' in tables.work_table(report)
    pair = timing.Pair(
        timing.jitted_work(lambda: {'x': np.ones(1)}, ()), None, {'x': 0.1}
    )
    assert timing.time_pair('alone', pair, 1)['peer'] is None


def test_the_picture_of_the_readme_comes_from_a_work_directory(tmp_path):
    workdir = made_runs.fill(tmp_path / 'run')
    images = readme_picture.exemplars(workdir, num_phases=3)
    assert images.shape == (2, 6, 4, 4, 1)
    # Learning added 4 grey levels to each pixel.
    np.testing.assert_allclose(images[1] - images[0], 4 / 255, atol=1e-6)
    out = tmp_path / 'picture.png'
    assert readme_picture.main([str(workdir), f'--out={out}']) == 0
    assert out.stat().st_size > 10_000


def test_the_picture_of_the_readme_comes_from_committed_records(tmp_path):
    out = tmp_path / 'picture.png'
    assert readme_picture.main([f'--out={out}']) == 0
    assert out.stat().st_size > 10_000
    images = readme_picture.exemplars(readme_picture.COMMITTED, num_phases=4)
    assert images.shape == (2, 10, 8, 8, 1)
    assert np.abs(images[1] - images[0]).mean() > 0.01
