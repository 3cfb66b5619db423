"""Defaults that presets and methods fill in; a user's values win over them."""

from typing import Any, NamedTuple


class ByMethod(NamedTuple):
    """The default of a field that a method may change, in its `DEFAULTS`.

    Attributes:
        usual: the default with all other methods.
    """

    usual: Any


class Presets(NamedTuple):
    """The default of a field that the preset fills in: its value in each.

    Attributes:
        paper: the paper's constants (its section 5.1). Where it is silent: K =
            5 inner steps, minibatches and queries of 128. Measured, this moves
            pixels by about a tenth of a grey level or less: exemplars stay what
            they were drawn as.
        bilevel: the paper's problem, with a start and rates that move pixels to
            some end.
        tuned: the best recipe measured so far: that problem with exemplars
            augmented in inner steps, and means of features matched beside it
            (see objectives.py).
        compact: that recipe with pixels learned through JPEG, so that many more
            images fit into the same bytes; None: as in `tuned`.
    """

    paper: Any
    bilevel: Any
    tuned: Any
    compact: Any = None

    def value(self, name: str) -> Any:
        """The value in a preset."""
        found = getattr(self, name)
        return self.tuned if found is None else found


def resolve(
    exemplars: dict[str, Any], preset: dict[str, Any]
) -> dict[str, Any]:
    """The section `exemplars` with every None replaced by its preset's value.

    Adjustment is the preset's choice for learned exemplars only; real ones stay
    as they are unless `adjust` is set.

    Args:
        exemplars: the section.
        preset: the values of its preset.
    """
    # Loads jax, which `--help` does without.
    from mnemonics_jax.exemplars import strategies

    values = dict(preset)
    values['adjust'] &= strategies.learns(exemplars['strategy'])
    given = {
        name: value
        for name, value in exemplars.items()
        if value is not None or name not in values
    }
    if given.get('outer_steps') and 'outer_epochs' not in given:
        values['outer_epochs'] = 0
        values['adjust_steps'] = values['adjust_steps'] or given['outer_steps']
    if given.get('outer_epochs') and 'outer_steps' not in given:
        values['outer_steps'] = 0
    return {**values, **given}
