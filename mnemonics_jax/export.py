"""Exports the results of a finished phase for use elsewhere.

    python -m mnemonics_jax.export WORKDIR --phase=-1 --out=DIR

writes exemplars, models, a program that classifies images, and class names;
docs/export.md says how to load them.
"""

import argparse
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from mnemonics_jax.core import dependencies

with dependencies.explained():
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from mnemonics_jax import config as config_lib
    from mnemonics_jax.core import cli, parallel, plugins
    from mnemonics_jax.data import encoded
    from mnemonics_jax.data.device_batch import to_float
    from mnemonics_jax.exemplars import memory
    from mnemonics_jax.experiment import components, finished, inference
    from mnemonics_jax.report.figures.images import as_png
    from mnemonics_jax.train import evaluation
    from mnemonics_jax.types import Variables

# A name may have 255 bytes, and a letter takes up to four.
_MAX_LETTERS = 48


def folder_name(position: int, num_classes: int, name: str) -> str:
    """The name of a class's folder, such as `007_red_fox`.

    Names are unique, sort as the model's outputs do, and are safe on any file
    system: letters, digits, `-` and `_`.

    Args:
        position: position of the class, 0..num_classes - 1.
        num_classes: number of classes.
        name: name of the class.
    """
    digits = len(str(num_classes - 1))
    words = re.sub(r'[^\w-]+', '_', name)[:_MAX_LETTERS].strip('_')
    return f'{position:0{digits}}_{words}'.rstrip('_')


def exemplars_of(phase: finished.FinishedPhase) -> dict[str, np.ndarray]:
    """The exemplars as flat arrays, by class and rank.

    Returns:
        'images' [n, H, W, C], uint8 or float32 in [0, 1] as stored, 'labels'
        int64[n], 'ranks' int64[n] within the class, 0 is best, and
        'class_names'.
    """
    seen = slice(phase.num_seen)
    labels, ranks = np.nonzero(np.asarray(phase.exemplars.mask)[seen])
    return {
        'images': np.asarray(phase.exemplars.images)[labels, ranks],
        'labels': labels,
        'ranks': ranks,
        'class_names': np.array(phase.class_names),
    }


def image_files(
    phase: finished.FinishedPhase, images: np.ndarray
) -> tuple[list[bytes], str]:
    """Files of exemplars, and their suffix.

    Compressed exemplars are written as they are stored, others as PNG, float32
    rounded to 8 bits.

    Args:
        phase: a phase with exemplars.
        images: 'images' of `exemplars_of`, grey or RGB.
    """
    if phase.encoded is None:
        pixels = np.asarray(memory.to_storage(to_float(images), 'uint8'))
        return [as_png(image) for image in pixels], '.png'
    codec = components.make_storage(phase.config, phase.plan.image_shape)
    streams = [each for row in encoded.split(phase.encoded) for each in row]
    return [codec.file(stream) for stream in streams], codec.suffix


def write_images(
    found: dict[str, np.ndarray],
    files: tuple[list[bytes], str],
    folder: pathlib.Path,
) -> None:
    """Writes exemplars to one folder per class.

    Args:
        found: result of `exemplars_of`.
        files: result of `image_files`.
        folder: parent folder, which is created.
    """
    names, suffix = found['class_names'], files[1]
    for content, label, rank in zip(
        files[0], found['labels'], found['ranks'], strict=True
    ):
        target = folder / folder_name(label, len(names), str(names[label]))
        target.mkdir(parents=True, exist_ok=True)
        (target / f'{rank:03}{suffix}').write_bytes(content)


def describe(phase: finished.FinishedPhase) -> dict[str, Any]:
    """All that is needed to rebuild the model, as a dict for JSON."""
    return {
        'phase': phase.phase,
        'num_seen': phase.num_seen,
        'predictor': phase.predictor,
        'plan': phase.plan._asdict(),
        'config': config_lib.to_json(phase.config),
    }


def flatten(variables: Variables) -> dict[str, np.ndarray]:
    """Arrays by their path in the tree, such as 'params.head.kernel'."""
    tree = {'params': variables.params, 'batch_stats': variables.batch_stats}
    return {
        jax.tree_util.keystr(path, simple=True, separator='.'): np.array(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def write_model(variables: Variables, path: pathlib.Path) -> None:
    """Writes an Orbax checkpoint `path` and the file `path`.safetensors."""
    from safetensors.numpy import save_file

    save_file(flatten(variables), path.with_suffix('.safetensors'))
    tree = {'params': variables.params, 'batch_stats': variables.batch_stats}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), jax.tree.map(np.asarray, tree))


def write_program(
    phase: finished.FinishedPhase, classifier: str, folder: pathlib.Path
) -> dict[str, Any] | None:
    """Writes the program `inference.jax` of a classifier.

    Returns:
        Its description; None if a user's own network cannot be exported,
        which a warning says.
    """
    try:
        program, description = inference.program_of(phase, classifier)
    except Exception as e:
        if not phase.config.plugins:
            raise
        lines = str(e).splitlines() or ['']
        reason = plugins.explain(e) or f'{type(e).__name__}: {lines[0]}'
        cli.warn(f'inference.jax is left out: {reason}')
        return None
    (folder / 'inference.jax').write_bytes(program)
    return description


def check_packages() -> None:
    """Raises ValueError if a package of the extra `export` is missing."""
    try:
        import flatbuffers  # noqa: F401
        import safetensors  # noqa: F401
    except ImportError as e:
        raise ValueError(
            f"{e}; to install it: pip install 'mnemonics-jax[export]'"
        ) from e


def check_empty(folder: pathlib.Path) -> None:
    """Raises ValueError unless the folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f'--out={folder}: must be a new or empty folder')


def export(
    phase: finished.FinishedPhase, classifier: str, folder: pathlib.Path
) -> list[str]:
    """Writes all files to a folder; returns their names.

    Args:
        phase: a finished phase.
        classifier: the one of its classifiers that is written as a program.
        folder: where to, created if needed.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def write_json(name: str, content: Any) -> str:
        text = json.dumps(content, indent=1) + '\n'
        (folder / name).write_text(text)
        return name

    written = [
        write_json('class_names.json', list(phase.class_names)),
        write_json('model.json', describe(phase)),
    ]
    models = {'model': phase.variables}
    if 'finetuned' in phase.classifiers:
        models['finetuned'] = phase.finetuned
    for name, variables in models.items():
        write_model(variables, folder / name)
        written += [f'{name}/', f'{name}.safetensors']
    if description := write_program(phase, classifier, folder):
        written += [
            'inference.jax',
            write_json('inference.json', description),
        ]
    found: dict[str, Any] = exemplars_of(phase)
    if len(found['images']):
        np.savez_compressed(folder / 'exemplars.npz', **found)
        written.append('exemplars.npz')
        if found['images'].shape[-1] in (
            1,
            3,
        ):  # The channels that PNG supports.
            files = image_files(phase, found['images'])
            write_images(found, files, folder / 'exemplars')
            written.append('exemplars/')
    return written


def run(arguments: argparse.Namespace) -> None:
    """Runs the command; see `cli.answer` for errors."""
    parallel.check_devices()
    folder = pathlib.Path(arguments.out)
    check_packages()
    check_empty(folder)
    phase = finished.restore_phase(
        arguments.workdir, arguments.phase, switch_precision=True
    )
    cli.warn(phase.warning)
    classifier = finished.choose_classifier(phase, arguments.classifier)
    written = export(phase, classifier, folder)
    count = int(np.asarray(phase.exemplars.mask).sum())
    print(
        f'phase {phase.phase}: {phase.num_seen} classes, {count} exemplars -> '
        f'{folder}: {", ".join(written)}',
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line, by default the process's, and runs it."""
    parser = cli.Parser(
        prog='python -m mnemonics_jax.export',
        description='Exports exemplars and models for use elsewhere.',
    )
    parser.add_argument('workdir', metavar='WORKDIR', help='of the run')
    parser.add_argument(
        '--phase', type=int, default=-1, help='default: the last one'
    )
    parser.add_argument('--out', required=True, help='a new folder')
    parser.add_argument(
        '--classifier',
        choices=evaluation.CLASSIFIERS,
        help='of inference.jax; default: the one that the method is evaluated '
        'by',
    )
    arguments = parser.parse_args(argv)
    cli.answer(lambda: run(arguments))


if __name__ == '__main__':
    main()
