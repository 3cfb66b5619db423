"""Classifies images by a finished phase of a run.

    python -m mnemonics_jax.predict WORKDIR IMAGE_OR_FOLDER [...]

prints the five likeliest classes of each image, without the run's data.
"""

import argparse
import csv
import io
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mnemonics_jax.core import dependencies

with dependencies.explained():
    import jax
    import numpy as np

    from mnemonics_jax.core import cli, compilation_cache, parallel
    from mnemonics_jax.core.regular import regular
    from mnemonics_jax.core.workdir import write_atomically
    from mnemonics_jax.data import decode
    from mnemonics_jax.data.pillow import SUFFIXES
    from mnemonics_jax.experiment import finished
    from mnemonics_jax.train import evaluation

# The score of each classifier: softmax over the classes seen, or cosine
# similarity with the class mean.
SCORES = {'cnn': 'probability', 'nme': 'cosine', 'finetuned': 'probability'}


def find_images(
    paths: Sequence[str],
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The images that are named, and those in folders and their subfolders.

    Returns:
        The images, in the order of the paths, and the other files of folders.

    Raises:
        ValueError: see `_find`.
    """
    found = [_find(pathlib.Path(path)) for path in paths]
    images, others = zip(*found, strict=True)
    return [*itertools.chain(*images)], [*itertools.chain(*others)]


def _find(
    path: pathlib.Path,
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The image itself, or all images in a folder and its subfolders.

    Files count as images by their suffix, as in `data.sources.folder`; hidden
    files do not count.

    Returns:
        The images, sorted, and what else there is, sorted. A link that leads
        nowhere is an image if its name is; one to a folder is not followed.

    Raises:
        ValueError: there is no image.
    """
    if not path.is_dir():
        if not path.exists():
            raise ValueError(f'{path}: no such file or folder')
        return [path], []
    found: list[pathlib.Path] = []
    others: list[pathlib.Path] = []
    for file in sorted(path.rglob('*')):
        hidden = any(p.startswith('.') for p in file.relative_to(path).parts)
        if hidden or (file.is_dir() and not file.is_symlink()):
            continue
        readable = file.is_file() or not file.exists()
        is_image = readable and file.name.lower().endswith(SUFFIXES)
        (found if is_image else others).append(file)
    if not found:
        raise ValueError(
            f'{path}: no image in it; names of images must end in '
            f'{", ".join(SUFFIXES)}'
        )
    return found, others


def read_images(
    files: Sequence[pathlib.Path], phase: finished.FinishedPhase
) -> np.ndarray:
    """Reads images as evaluation does, uint8[n, H, W, C].

    Raises:
        ValueError: a file cannot be read.
    """
    height, width, _ = phase.plan.image_shape
    return decode.decode_many(
        lambda row: regular(files[row]).read_bytes(),
        lambda row: str(files[row]),
        len(files),
        phase.plan.image_shape,
        resize=height == width,
        shorter=phase.config.data.eval_resize,
    )


def score_images(
    phase: finished.FinishedPhase,
    classifier: str,
    files: Sequence[pathlib.Path],
) -> Iterator[np.ndarray]:
    """Yields scores f32[b, S] over the classes seen for batches of files.

    Args:
        phase: finished phase.
        classifier: one of the phase's classifiers.
        files: image files.

    Raises:
        ValueError: a file cannot be read.
    """
    placement = parallel.make_placement(jax.local_devices()[:1])
    evaluator = evaluation.make_evaluator(
        phase.backbone, placement, mirror=phase.config.data.flip
    )
    models = finished.models_of(phase, evaluator, placement)
    row = evaluation.CLASSIFIERS.index(classifier)
    size = min(phase.config.evaluate.batch_size, len(files))
    for start in range(0, len(files), size):
        pixels = read_images(files[start : start + size], phase)
        count = len(pixels)
        # The same shape for all batches, so that one program is compiled.
        pixels = np.pad(pixels, ((0, size - count), *((0, 0),) * 3))
        scores, _ = evaluator.score(
            models, {'image': pixels}, np.int32(phase.num_seen)
        )
        values = np.asarray(scores)[row, :count, : phase.num_seen]
        yield (
            values
            if classifier == 'nme'
            else np.asarray(jax.nn.softmax(values))
        )


def predict(
    phase: finished.FinishedPhase,
    classifier: str,
    files: Sequence[pathlib.Path],
    top: int,
) -> list[dict[str, Any]]:
    """The classes with the highest scores for each file.

    Args:
        phase: finished phase.
        classifier: one of the phase's classifiers.
        files: image files.
        top: the most classes to return.

    Returns:
        For each file 'image', its path, and 'top', a list of dicts with 'class'
        and the name of the score in `SCORES`, the likeliest class first.

    Raises:
        ValueError: a file cannot be read.
    """
    kind, names = SCORES[classifier], phase.class_names
    scores = np.concatenate(list(score_images(phase, classifier, files)))
    best = np.argsort(-scores, axis=1, kind='stable')[:, :top]
    return [
        {
            'image': str(file),
            'top': [
                {'class': names[k], kind: round(float(values[k]), 6)}
                for k in order
            ],
        }
        for file, values, order in zip(files, scores, best, strict=True)
    ]


def as_csv(found: Sequence[dict[str, Any]], kind: str) -> str:
    """CSV with a line for each image and class: image, rank, class, score."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['image', 'rank', 'class', kind])
    for one in found:
        for rank, guess in enumerate(one['top'], start=1):
            writer.writerow([one['image'], rank, guess['class'], guess[kind]])
    return file.getvalue()


def run(arguments: argparse.Namespace) -> None:
    """Runs the command; see `cli.answer` for errors."""
    if arguments.top < 1:
        raise ValueError(f'--top={arguments.top}: must be an integer >= 1')
    parallel.check_devices()
    phase = finished.restore_phase(
        arguments.workdir, arguments.phase, switch_precision=True
    )
    cli.warn(phase.warning)
    classifier = finished.choose_classifier(phase, arguments.classifier)
    files, skipped = find_images(arguments.images)
    for file in skipped:
        print(f'skipped {file}: not an image by its name', file=sys.stderr)
    compilation_cache.keep_programs(arguments.workdir)
    found = predict(phase, classifier, files, arguments.top)
    text = as_csv(found, SCORES[classifier])
    if arguments.format == 'json':
        content = {
            'phase': phase.phase,
            'classifier': classifier,
            'images': found,
            'skipped': list(map(str, skipped)),
        }
        text = json.dumps(content, indent=1) + '\n'
    if arguments.out is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_atomically(pathlib.Path(arguments.out), text)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, by default the process's, and runs it."""
    parser = cli.Parser(
        prog='python -m mnemonics_jax.predict',
        description='Classifies images by a finished phase of a run.',
    )
    parser.add_argument('workdir', metavar='WORKDIR', help='of the run')
    parser.add_argument('images', metavar='IMAGE_OR_FOLDER', nargs='+')
    parser.add_argument(
        '--phase', type=int, default=-1, help='default: the last one'
    )
    parser.add_argument(
        '--classifier',
        choices=evaluation.CLASSIFIERS,
        help='default: the one that the method is evaluated by',
    )
    parser.add_argument('--top', type=int, default=5, help='classes per image')
    parser.add_argument('--format', choices=('csv', 'json'), default='csv')
    parser.add_argument('--out', help='a file; default: the terminal')
    # Flags may stand between images.
    arguments = parser.parse_intermixed_args(argv)
    cli.answer(lambda: run(arguments))


if __name__ == '__main__':
    main()
