"""Settings of Sphinx, which makes a site of these pages: launch/docs.sh."""

import pathlib
import re
import sys

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import mnemonics_jax  # noqa: E402
from mnemonics_jax.config import tables  # noqa: E402

project = 'mnemonics_jax'
author = 'the authors of mnemonics_jax'
release = mnemonics_jax.__version__
extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
]
exclude_patterns = ['_build', '_generated']
html_theme = 'furo'
html_title = project
html_show_copyright = False
html_math_renderer = 'mathml'
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
# In docstrings `x` is code, as in Markdown.
default_role = 'code'
highlight_language = 'text'
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
# Annotations as they are written, not what they resolve to.
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
# Dashes are drawn, quotes and dots stay what they are.
smartquotes_action = 'D'


def literal_blocks(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list
) -> None:
    """Makes what docstrings indent, or draw as tables, literal.

    They are written for readers of the code: an indented block is an equation,
    and a bar is a bar.
    """
    del app, what, name, obj, options
    found, above = [], ''
    for line in lines:
        starts = line.startswith('    ') and not above.startswith('    ')
        is_row = line.startswith('|') and not above.startswith('|')
        if (starts and '>>>' not in line and not section(found)) or is_row:
            found += ['::', '']
        if line.startswith('|'):
            found.append(f'    {line}')
        elif line.startswith('    '):
            found.append(line)
        else:
            found.append(line.replace('|', r'\|'))
        if line:
            above = line
    lines[:] = found


def section(lines: list[str]) -> bool:
    """Whether the last line with text begins or belongs to a section."""
    texts = [line for line in lines if line]
    return bool(texts) and bool(
        re.match(r'(Args|Attributes|Returns|Raises|Example):$', texts[-1])
        or texts[-1].startswith('    ')
    )


def skip_fields(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leaves out fields of tuples, which the text of their class describes."""
    del app, what, name, skip, options
    return True if type(obj).__name__ == '_tuplegetter' else None


def write_tables(app: Sphinx) -> None:
    """Writes the tables that pages include."""
    del app
    folder = HERE / '_generated'
    folder.mkdir(exist_ok=True)
    texts = {
        'fields.md': tables.as_markdown(),
        'methods.md': tables.methods_as_markdown(),
        'presets.md': tables.presets_as_markdown(),
    }
    for name, text in texts.items():
        path = folder / name
        # Several builds at once may read it.
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def inline_math(visitor: object, node: nodes.math) -> None:
    """Writes a formula as MathML, which needs no script and no network."""
    visitor.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block_math(visitor: object, node: nodes.math_block) -> None:
    """The same for one on a line of its own."""
    visitor.body.append(latex2mathml.tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Registers the functions of this file."""
    app.add_html_math_renderer(
        'mathml', (inline_math, None), (block_math, None)
    )
    app.connect('builder-inited', write_tables)
    app.connect('autodoc-skip-member', skip_fields)
    # Before napoleon, which makes sections of the rest.
    app.connect('autodoc-process-docstring', literal_blocks, priority=400)
