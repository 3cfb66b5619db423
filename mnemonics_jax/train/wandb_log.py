"""A log in Weights & Biases; offline unless `WANDB_MODE` is set."""

import io
import os
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

import PIL.Image

PROJECT = 'mnemonics_jax'


class Wandb:
    """A run of W&B; see `logs.Log`."""

    def __init__(
        self, workdir: pathlib.Path, run: str | None, config: Mapping[str, Any]
    ) -> None:
        """Starts a run, or continues one.

        Args:
            workdir: files are written to its folder `wandb`.
            run: id of the run to continue; None for a new one.
            config: configuration as JSON.
        """
        import wandb  # An extra.

        self._wandb = wandb
        self.run = run or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', PROJECT),
            name=os.environ.get('WANDB_NAME', workdir.resolve().name),
            id=self.run,
            resume='allow',
            mode=os.environ.get('WANDB_MODE', 'offline'),
            dir=str(workdir),
            config=dict(config),
            # What a run prints is its own.
            settings=wandb.Settings(console='off', silent=True),
        )
        self._axis_of: dict[str, str] = {}

    def scalars(
        self, step: int, values: Mapping[str, float], axis: str
    ) -> None:
        """See `logs.Log`."""
        self._use(axis, values)
        self._run.log({axis: step, **values})

    def image(
        self, step: int, tag: str, png: bytes, shape: tuple[int, int, int]
    ) -> None:
        """See `logs.Log`."""
        del shape  # The file has it.
        self._use('phase', [tag])
        picture = self._wandb.Image(PIL.Image.open(io.BytesIO(png)))
        self._run.log({'phase': step, tag: picture})

    def close(self, *, finished: bool) -> None:
        """See `logs.Log`."""
        self._run.finish(exit_code=0 if finished else 1)

    def _use(self, axis: str, tags: Any) -> None:
        """Has the charts of tags drawn over an axis.

        W&B's own step counts calls of `log`, whatever they log.
        """
        for tag in tags:
            if tag not in self._axis_of:
                self._axis_of[tag] = axis
                self._run.define_metric(tag, step_metric=axis)
