"""The documentation: a site without a warning, links, fields, commands."""

import json
import pathlib
import re
import statistics
import subprocess
import sys

import pytest
from readme_test import DOCUMENTS, README, TEXTS, TOP, blocks, prose, table

from mnemonics_jax import methods
from mnemonics_jax.config import presets, tables
from mnemonics_jax.config.fields import (
    FIELDS,
    default_config,
    preset,
    with_settings,
)
from mnemonics_jax.data.sources import folder

DOCS = TOP / 'docs'
# One screen and a half.
MAX_LINES = 135


def headings(text):
    """Anchors of a page's headings, as GitHub and the site make them."""
    found = re.findall(r'^#+ (.+)$', prose(text), re.MULTILINE)
    return [
        re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        for heading in found
    ]


def links(text):
    """Targets of all links and pictures outside of code."""
    text = re.sub(r'`[^`\n]*`', '', prose(text))
    return re.findall(r'\]\(([^)]*)\)', text)


def fault_of(name, link):
    """What is wrong with a link in a document; None for nothing."""
    if re.match(r'\w+:', link):
        right = re.fullmatch(
            r'https://[\w-]+(\.[\w-]+)+(/[\w./~%#?=&-]*)?', link
        )
        return None if right else 'no address'
    path, _, anchor = link.partition('#')
    target = (TOP / name).parent / path if path else TOP / name
    if not target.is_file():
        return 'no such file'
    if anchor and anchor not in headings(target.read_text()):
        return f'no heading {anchor}'
    return None


def leaves(section, prefix=''):
    for name, value in section.items():
        if hasattr(value, 'items'):
            yield from leaves(value, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}'


@pytest.mark.parametrize('name', DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(name):
    faults = {link: fault_of(name, link) for link in links(TEXTS[name])}
    assert not any(faults.values()), faults


def test_a_broken_link_is_found():
    assert links('[a](b.md) `[c](d)` ![e](f.png)') == ['b.md', 'f.png']
    faults = {
        'docs/absent.md': 'no such file',
        'docs/data.md#absent': 'no heading absent',
        '#absent': 'no heading absent',
        'https://a b': 'no address',
        'http:/a.b': 'no address',
        'docs/data.md#tiny-imagenet': None,
        '#two-commands': None,
        'https://arxiv.org/abs/2002.10211': None,
    }
    assert {link: fault_of('README.md', link) for link in faults} == faults


def test_the_readme_is_short_and_links_to_every_page():
    assert len(README.splitlines()) < MAX_LINES
    pages = {f'docs/{path.name}' for path in DOCS.glob('*.md')}
    found = {link.partition('#')[0] for link in links(README)}
    found |= {f'docs/{link}' for link in links(TEXTS['docs/using.md'])}
    assert pages - found == {'docs/index.md'}
    toctree = ''.join(blocks(TEXTS['docs/index.md'], '{toctree}'))
    named = set(re.findall(r'^(\w+)$', toctree, re.MULTILINE))
    assert {f'docs/{name}.md' for name in named} == pages - {'docs/index.md'}


def rows_of(text):
    """Cells of a table below its header."""
    rows = [line.strip('|').split('|') for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_field_is_in_the_table_with_a_text_and_what_it_may_be():
    rows = {row[0].strip('`'): row[1:] for row in rows_of(tables.as_markdown())}
    assert set(rows) == set(leaves(default_config()))
    for name, field in with_settings(methods.method_names()).items():
        assert rows[name][1:] == [field.rule.must_be(), field.text]
    assert rows['exemplars.per_class'][0] == '`20`'
    assert rows['train.milestones'][0] == '`80,120`'
    assert rows['data.flip'][0] == '`false`'
    assert rows['exemplars.outer_lr'][0] == '[preset](presets.md)'
    assert rows['method.lwf.temperature'][0] == '`2.0`'


def test_the_table_of_presets_has_their_values():
    rows = rows_of(tables.presets_as_markdown())
    for i, name in enumerate(presets.Presets._fields, start=1):
        shown = {row[0].strip('`'): row[i] for row in rows}
        assert shown == {
            field: str(value).lower() for field, value in preset(name).items()
        }


def test_help_lists_the_fields_and_loads_no_jax():
    code = (
        'import sys; from mnemonics_jax import main\n'
        'try: main.command()\n'
        'finally: print([m for m in sys.modules if m.startswith("jax")])'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, '--help'],
        capture_output=True,
        text=True,
        cwd=TOP,
    )
    *shown, modules = done.stdout.splitlines()
    assert modules == '[]', done.stderr
    for name in FIELDS:
        assert any(line.startswith(f'  --config.{name}: ') for line in shown)
    words = 'default: 20; must be an integer >= 0 and <= 1000000'
    assert f'    ({words})' in shown


def test_tiny_imagenet_sorted_as_shown_is_a_folder_of_images(tmp_path):
    root = tmp_path / 'tiny-imagenet-200'
    rows = []
    for i, name in enumerate(('n01', 'n02')):
        (root / 'train' / name / 'images').mkdir(parents=True)
        for k in range(3):
            (root / f'train/{name}/images/{name}_{k}.JPEG').touch()
        rows += [f'val_{i}.JPEG\t{name}\t0\t0\t62\t57\n']
    (root / 'val' / 'images').mkdir(parents=True)
    (root / 'test' / 'images').mkdir(parents=True)
    for i in range(2):
        (root / f'val/images/val_{i}.JPEG').touch()
    (root / 'val' / 'val_annotations.txt').write_text(''.join(rows))
    [script] = blocks(TEXTS['docs/data.md'], 'bash')
    subprocess.run(
        ['bash', '-euc', script], cwd=tmp_path, check=True, capture_output=True
    )
    source = folder.make({'dir': str(root), 'image_size': 64})
    assert source.class_names == ('n01', 'n02')
    assert len(source.labels['train']) == 6
    assert source.labels['test'].tolist() == [0, 1]


def spread(name, classifier, **settings):
    """Average accuracy over seeds as pages show it, from runs of a sweep."""
    path = TOP / 'benchmarks' / 'results' / f'digits_{name}.json'
    values = [
        run['metrics'][classifier]['average_incremental_accuracy']
        for run in json.loads(path.read_text())['runs']
        if settings.items() <= run['settings'].items()
    ]
    assert len(values) == 3
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f'{100 * mean:.1f} ± {100 * deviation:.1f}'


def test_the_tables_of_digits_are_what_the_sweeps_wrote():
    page = 'docs/measurements.md'
    header = (
        '| method | classifier | average incremental accuracy '
        '| last accuracy | forgetting F |'
    )
    rows = table(page, header)
    results = TOP / 'benchmarks' / 'results'
    written = '\n'.join(
        (results / f'digits_{name}.md').read_text()
        for name in ('methods', 'no_memory')
    ).replace(' (3)', '')
    assert len(rows) == 9
    for method, *values in rows:
        name, _, missing = method.replace('`', '').partition(', ')
        assert f'| {name} | {" | ".join(values)} |' in written
        source = 'no_memory' if missing else 'methods'
        found = spread(source, values[0], **{'method.name': name})
        assert values[1] == found
    header = '| strategy | adjusted | CNN, average | NME, average | fine-tuned,'
    rows = table(page, f'{header} average |')
    assert len(rows) == 6
    for strategy, adjusted, *values in rows:
        settings = {
            'exemplars.strategy': strategy,
            'exemplars.adjust': {'no': 'false', 'yes': 'true'}[adjusted],
        }
        for classifier, value in zip(
            ('cnn', 'nme', 'finetuned'), values, strict=True
        ):
            assert value == spread('strategies', classifier, **settings)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The folder of the site, built as the command does."""
    for name in ('sphinx', 'furo', 'myst_parser'):
        pytest.importorskip(name, reason='the extra docs is not installed')
    command = (TOP / 'launch' / 'docs.sh').read_text()
    flags = re.search(r'-m sphinx (.*) docs docs/_build/html', command)[1]
    assert '-W' in flags.split()
    built = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', *flags.split(), 'docs', str(built)],
        cwd=TOP,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''
    return built


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_page(site):
    for path in DOCS.glob('*.md'):
        assert (site / f'{path.stem}.html').stat().st_size > 1000
    page = (site / 'configuration.html').read_text()
    for name in leaves(default_config()):
        assert name in page
    assert 'unroll+means' in (site / 'presets.html').read_text()
    method = (site / 'method.html').read_text()
    assert '<math' in method
    assert '$' not in re.sub(r'<[^>]*>', '', method)
    growth = (site / 'measurements.html').read_text()
    assert 'growth_cpu.png' in growth


@pytest.mark.slow
def test_the_reference_has_every_public_function(site):
    import mnemonics_jax

    page = (site / 'reference.html').read_text()
    for name in mnemonics_jax.__all__:
        value = getattr(mnemonics_jax, name)
        home = getattr(value, '__module__', None)
        ids = [f'mnemonics_jax.{name}', f'{home}.{name}']
        if not home:
            ids = [f'module-{value.__name__}', *ids]
        assert any(f'id="{each}"' in page for each in ids), name


@pytest.mark.slow
def test_pages_need_no_other_server(site):
    for path in pathlib.Path(site).glob('*.html'):
        sources = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(http[^"]*)"',
            path.read_text(),
        )
        assert not sources, path
