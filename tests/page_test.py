"""The report in a real browser: a headless Chromium of the system."""

import itertools
import shutil

import pytest

from mnemonics_jax import report
from mnemonics_jax.report import confusion
from tests.made_runs import fill, make_results

sync_api = pytest.importorskip(
    'playwright.sync_api', reason='playwright is not installed'
)
NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f'no browser: none of {", ".join(NAMES)}'
)

WIDTHS = (390, 1280)
SCHEMES = ('light', 'dark')
# Elements that reach beyond the window without scrolling by themselves.
BEYOND = """() => [...document.querySelectorAll('body *')].filter(
  (e) => !e.closest('.wide') && e.getClientRects().length
    && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map((e) => e.outerHTML.slice(0, 80))"""
# Luminance as WCAG has it.
CONTRAST = """([front, back]) => {
  const light = (name) => {
    const probe = document.body.appendChild(document.createElement('i'));
    probe.style.color = `var(${name})`;
    const rgb = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number);
    probe.remove();
    const [r, g, b] = rgb.map((c) => c / 255).map(
      (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [light(front), light(back)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""
OPEN_ALL = """() => document.querySelectorAll('details').forEach(
  (e) => { e.open = true; })"""
STOPS = 'a, select, input, summary, [tabindex]'
PAINTED = "() => document.getElementById('matrix-canvas').toDataURL()"
PAIRS = "() => document.querySelector('#pairs tbody').innerText"
STATE = "() => document.getElementById('matrix-state').textContent"
CELL = "() => document.getElementById('matrix-cell').textContent"


@pytest.fixture(name='results', scope='module')
def _results():
    return make_results(), make_results(strategy='herding')


@pytest.fixture(name='path', scope='module')
def _path(tmp_path_factory, results):
    """A page that compares two runs."""
    root = tmp_path_factory.mktemp('runs')
    second = results[1]['phases'][2]['confusion']
    second['cnn'], second['nme'] = second['cnn'][::-1], second['cnn']
    for name, content in zip('ab', results, strict=True):
        fill(root / name, content)
    assert report.main([str(root / 'a'), str(root / 'b')]) == 0
    return root / 'comparison' / 'report.html'


@pytest.fixture(name='browser', scope='module')
def _browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=['--no-sandbox']
        )
        yield browser
        browser.close()


@pytest.fixture(name='visit')
def _visit(browser):
    """Opens a page and afterwards holds that it kept to itself."""
    heard, asked, contexts = [], [], []

    def visit(path, width=1280, scheme='light', **more):
        context = browser.new_context(
            viewport={'width': width, 'height': 900},
            color_scheme=scheme,
            **more,
        )
        contexts.append(context)
        page = context.new_page()
        page.on('console', lambda message: heard.append(message.text))
        page.on('pageerror', lambda error: heard.append(str(error)))
        page.on('request', lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert heard == []
    assert len([url for url in asked if url.startswith('file:')]) == len(
        contexts
    )
    assert {url.partition(':')[0] for url in asked} <= {'file', 'data'}


def test_every_figure_is_loaded(visit, path):
    page = visit(path)
    page.evaluate(OPEN_ALL)
    sizes = page.evaluate(
        '[...document.images].map((e) => e.complete ? e.naturalWidth : 0)'
    )
    # Five of both, three and four of exemplars, losses of each.
    assert len(sizes) == 5 + 3 + 4 + 2
    assert min(sizes) > 100
    words = page.evaluate('[...document.images].map((e) => e.alt)')
    assert min(map(len, words)) > 20


@pytest.mark.parametrize('scheme', SCHEMES)
@pytest.mark.parametrize('width', WIDTHS)
def test_nothing_reaches_beyond_the_window(visit, path, width, scheme):
    page = visit(path, width, scheme)
    page.evaluate(OPEN_ALL)
    assert page.evaluate('document.documentElement.scrollWidth') == width
    assert page.evaluate(BEYOND) == []


def test_light_and_dark_are_legible(visit, path):
    seen = {}
    for scheme in SCHEMES:
        page = visit(path, scheme=scheme)
        for front, back in itertools.product(
            ('--ink', '--soft', '--accent'), ('--page', '--card')
        ):
            assert page.evaluate(CONTRAST, [front, back]) >= 4.5, (front, back)
        style = 'getComputedStyle(document.body).backgroundColor'
        seen[scheme] = page.evaluate(style), page.evaluate(PAINTED)
    assert len({color for color, _ in seen.values()}) == 2
    assert len({painted for _, painted in seen.values()}) == 2


def test_the_matrix_follows_a_change_of_scheme(visit, path):
    page = visit(path)
    before = page.evaluate(PAINTED)
    page.emulate_media(color_scheme='dark')
    # It is told a moment later.
    page.wait_for_function(f'(before) => ({PAINTED})() !== before', arg=before)


def test_the_slider_changes_matrix_and_pairs(visit, path):
    page = visit(path)
    states = [(page.evaluate(STATE), page.evaluate(PAINTED))]
    pairs = [page.evaluate(PAIRS)]
    page.locator('#matrix-phase').focus()
    for _ in range(2):
        page.keyboard.press('ArrowLeft')
        states.append((page.evaluate(STATE), page.evaluate(PAINTED)))
        pairs.append(page.evaluate(PAIRS))
    assert [text.split(',')[0] for text, _ in states] == [
        'Phase 2: 6 classes',
        'Phase 1: 4 classes',
        'Phase 0: 2 classes',
    ]
    assert len({painted for _, painted in states}) == 3
    assert len(set(pairs)) == 3
    page.keyboard.press('End')
    assert (page.evaluate(STATE), page.evaluate(PAINTED)) == states[0]
    # What was there before the script is what the script makes.
    assert page.evaluate(PAIRS) == pairs[0]
    words = page.locator('#matrix-phase').get_attribute('aria-valuetext')
    assert words.startswith('Phase 2: 6 classes')


def test_run_and_classifier_are_chosen(visit, path):
    page = visit(path)
    first = page.evaluate(PAINTED)
    page.locator('#matrix-run').select_option('1')
    second = page.evaluate(PAINTED)
    page.locator('#matrix-head').select_option('1')
    assert page.evaluate(STATE).endswith('(NME)')
    third = page.evaluate(PAINTED)
    assert second not in (first, third)
    assert first == third  # As the fixture has it.


def test_fields_are_read_by_keyboard_and_by_pointer(visit, path, results):
    page = visit(path)
    counts = results[0]['phases'][2]['confusion']['cnn']
    names = ['five', 'zero', '$x$', 'four', 'two', '<b>&']

    def said(t, p):
        share = 100 * counts[t][p] / sum(counts[t])
        return (
            f'true {names[t]}, predicted {names[p]}: {counts[t][p]} of '
            f'{sum(counts[t])} images ({share:.1f} %)'
        )

    page.locator('#matrix-canvas').focus()
    for key, place in (
        ('ArrowDown', (0, 0)),
        ('ArrowDown', (1, 0)),
        ('ArrowRight', (1, 1)),
        ('ArrowUp', (0, 1)),
        ('ArrowUp', (0, 1)),
    ):
        page.keyboard.press(key)
        assert page.evaluate(CELL) == said(*place)
    box = page.locator('#matrix-canvas').bounding_box()
    corner = {'x': box['width'] - 8, 'y': box['height'] - 8}
    page.locator('#matrix-canvas').hover(position=corner)
    assert page.evaluate(CELL) == said(5, 5)


def test_everything_is_reached_by_tab(visit, path):
    page = visit(path)
    wanted = page.evaluate(f"document.querySelectorAll('{STOPS}').length")
    page.evaluate(OPEN_ALL)
    reached = set()
    for _ in range(wanted):
        page.keyboard.press('Tab')
        reached.add(
            page.evaluate(
                '() => { const e = document.activeElement;'
                ' return e.id || e.outerHTML.slice(0, 200); }'
            )
        )
        assert (
            page.evaluate(
                'getComputedStyle(document.activeElement).outlineStyle'
            )
            != 'none'
        )
    ids = {f'matrix-{name}' for name in ('run', 'head', 'phase', 'canvas')}
    assert ids <= reached
    assert any(text.startswith('<summary>') for text in reached)
    assert any('Scrollable figure' in text for text in reached)


def test_without_scripts_the_last_matrices_are_shown(visit, path):
    page = visit(path, java_script_enabled=False)
    images = page.locator('noscript img')
    assert images.count() == 2
    assert images.first.is_visible()
    assert not page.locator('#matrix').is_visible()


def test_matrices_as_pictures_are_leafed_through(visit, tmp_path, monkeypatch):
    monkeypatch.setattr(confusion, 'MAX_NUMBERS', 10)
    workdir = fill(tmp_path / 'run')
    shutil.rmtree(workdir / 'features')  # t-SNE takes its time.
    page = visit(report.write(workdir))
    # A picture is decoded in its own time.
    page.wait_for_selector('[data-shown^="Phase 2: 6 classes"]')
    painted, pairs = page.evaluate(PAINTED), page.evaluate(PAIRS)
    page.locator('#matrix-phase').press('ArrowLeft')
    page.wait_for_selector('[data-shown^="Phase 1: 4 classes"]')
    assert page.evaluate(PAINTED) != painted
    assert page.evaluate(PAIRS) != pairs
    assert page.evaluate(STATE).startswith('Phase 1: 4 classes')
