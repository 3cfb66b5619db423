"""Study E: raw, compressed and learned exemplars at equal bytes.

    python -m experiments.by_the_byte --data=runs/images [--jobs=2]
    python -m experiments.by_the_byte --data=runs/cifar100

A class has the bytes of 2, 5 or 20 images as they are; how many compressed ones
fit into them is the storage's affair. `repeated` is a control: herding's two
raw images, shown as often in an epoch as about 30 compressed ones. It writes
`results/by_the_byte_<data>.json` and `.md`.
"""

import sys
from collections.abc import Sequence

from experiments import comparison, flags, runner

# Raw images of which a class has the bytes.
SIZES = ('2', '5', '20')
METHODS = ('lucir', 'icarl')
STRATEGIES = {
    'random': {'exemplars.strategy': 'random'},
    'herding': {'exemplars.strategy': 'herding'},
    'tuned': {'exemplars.strategy': 'mnemonics', 'exemplars.preset': 'tuned'},
}
STORAGES = {
    'uint8': {'exemplars.storage': 'uint8'},
    'jpeg 50': {'exemplars.storage': 'jpeg', 'exemplars.quality': '50'},
    'jpeg 25': {'exemplars.storage': 'jpeg', 'exemplars.quality': '25'},
    'webp 50': {'exemplars.storage': 'webp', 'exemplars.quality': '50'},
}
# Those of all cases, so that they share the model of phase 0.
PLUGINS = {'plugins': 'experiments/small_network.py,experiments/repeated.py'}
# About as many as jpeg of quality 50 has in the bytes of two.
REPEATED = '30'
# Bytes of an image as it is, on digits and on images.
RAW_BYTES = {'digits': 64}
RAW_BYTES_OF_IMAGES = 3 * 32**2
# Holm's correction is over the rows that share these labels.
FAMILY = ('exemplars', 'stored')
REFERENCES = {
    'raw herding': {'exemplars': 'herding', 'stored': 'uint8'},
    'herding so stored': {'exemplars': 'herding'},
}


def cases(data: str) -> list[runner.Case]:
    """All cases on `data`: 'digits', or the name of a folder of images."""
    found = [
        case_of(data, name, stored, method, size)
        for method in METHODS
        for size in SIZES
        for stored in STORAGES
        for name in STRATEGIES
        # Pixels cannot be learned through WebP.
        if not (stored.startswith('webp') and name == 'tuned')
    ]
    return [*found, *(control(method) for method in METHODS)]


def case_of(
    data: str, name: str, stored: str, method: str, size: str
) -> runner.Case:
    """A case; a class has the bytes of `size` raw images."""
    num_bytes = int(size) * RAW_BYTES.get(data, RAW_BYTES_OF_IMAGES)
    settings = {
        **PLUGINS,
        **STRATEGIES[name],
        **STORAGES[stored],
        'method.name': method,
        'exemplars.per_class': '0',
        'exemplars.bytes_per_class': str(num_bytes),
        'exemplars.adjust': 'false',
    }
    return runner.Case(labels_of(name, stored, method, size), settings)


def control(method: str) -> runner.Case:
    """Two raw images a class, shown as often as compressed ones."""
    settings = {
        **PLUGINS,
        'exemplars.strategy': 'repeated',
        'exemplars.storage': 'uint8',
        'method.name': method,
        'exemplars.per_class': REPEATED,
        'exemplars.adjust': 'false',
    }
    return runner.Case(labels_of('repeated', 'uint8', method, '2'), settings)


def labels_of(name: str, stored: str, method: str, size: str) -> dict[str, str]:
    """The labels of a case."""
    return {
        'exemplars': name,
        'stored': stored,
        'method': method,
        'raw images': size,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study and returns the exit status."""
    args = flags.parse(
        'by_the_byte', __doc__, argv, seeds='0,1,2,3,4', part='confirm'
    )
    every = cases(args.data.name)
    chosen = runner.select(args, every)
    if args.quick:
        chosen = [
            case
            for case in chosen
            if case.labels['raw images'] == '2'
            and case.labels['method'] == 'lucir'
        ]
        args.seeds = args.seeds[:1]
    records = runner.run(args, chosen, every)
    found = comparison.rows(records, REFERENCES, FAMILY)
    remark = (
        'A class has the bytes of as many raw images as the column says; those '
        'of `repeated` are two, each shown 15 times an epoch, and its bytes '
        'count all copies. PSNR is that of new exemplars against the real '
        'images that they come from. Bytes are those of all classes after the '
        'last phase, with the header.'
    )
    text = comparison.page(
        'Exemplars at equal bytes', args, remark, records, found
    )
    runner.write(args, 'by_the_byte', {'rows': found, 'runs': records}, text)
    return 0


if __name__ == '__main__':
    sys.exit(main())
