"""Lines on a run's phases and memory that are printed when it starts."""

from collections.abc import Sequence

from mnemonics_jax.core.text import counted
from mnemonics_jax.exemplars import memory, strategies
from mnemonics_jax.experiment import components

# The most names in a line.
_MOST = 8


def phases_in_words(bounds: Sequence[tuple[int, int]]) -> str:
    """'3 phases', or '4 phases of 3, 2, 4, 1' if later ones differ in size."""
    sizes = [high - low for low, high in bounds]
    text = counted(len(sizes), 'phase')
    if len(set(sizes[1:])) < 2:
        return text
    return f'{text} of {", ".join(map(str, sizes))}'


def small_classes(parts: components.Components) -> str | None:
    """Which classes have fewer images than exemplars at the end of a run.

    Returns:
        A line with the smallest of them; None if there are none.
    """
    ex = parts.config.exemplars
    if not strategies.keeps(ex.strategy):
        return None
    wanted = memory.share(
        per_class=ex.per_class,
        total=ex.total,
        num_seen=parts.source.num_classes,
    )
    sizes = parts.class_sizes()
    few = [int(k) for k in sizes.argsort(kind='stable') if sizes[k] < wanted]
    if not few:
        return None
    names = [f'{parts.source.class_names[k]} ({sizes[k]})' for k in few[:_MOST]]
    more = ', ...' if len(few) > _MOST else ''
    return (
        f'{len(few)} of {counted(len(sizes), "class")} have fewer training '
        f'images than the {wanted} exemplars that a class may have, and keep '
        f'all: {", ".join(names)}{more}'
    )
