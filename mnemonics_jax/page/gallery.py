"""Which pictures a page has."""

from collections.abc import Callable, Sequence

from mnemonics_jax.page import history, pictures, spaces
from mnemonics_jax.page.pictures import Picture
from mnemonics_jax.runs import Run


def draw(
    runs: Sequence[Run],
) -> tuple[dict[str, Picture], dict[str, list[str]]]:
    """All pictures by name, and by section what cannot be shown.

    Names of pictures of one run end in its position where there are several.

    Args:
        runs: at least one; without results there are few pictures.
    """
    done = [run for run in runs if run.phases]
    found: dict[str, Picture] = {}
    notes: dict[str, list[str]] = {'exemplars': [], 'space': []}
    several = len(runs) > 1

    def add(name: str, picture: Picture | None) -> None:
        if picture is not None:
            found[name] = picture

    def each(
        listed: Sequence[Run], name: str, make: Callable[[Run], Picture | None]
    ) -> None:
        for i, run in enumerate(listed):
            add(f'{name}_{i}' if several else name, make(run))

    if done:
        add('accuracy', pictures.accuracy(done))
        each(done, 'confusion', pictures.confusion)
        for i, run in enumerate(done):
            missing: list[str] = []
            ending = f'_{i}' if several else ''
            for stage, picture in history.pictures(run, missing).items():
                found[f'exemplars_{stage}{ending}'] = picture
            prefix = f'{run.name}: ' if several else ''
            notes['exemplars'] += [prefix + text for text in missing]
        add('drift', history.drift(done, notes['exemplars']))
        add('tsne', spaces.tsne(done, notes['space']))
        add('border', spaces.border(done))
    each(runs, 'losses', pictures.losses)
    return found, notes
