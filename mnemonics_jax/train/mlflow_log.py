"""A log in MLflow: local unless `MLFLOW_TRACKING_URI` is set."""

import logging
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from mnemonics_jax.core.text import flatten

EXPERIMENT = 'mnemonics_jax'
_MOST_PARAMS = 100  # In one call.
_MOST_LETTERS = 500  # Of a parameter's value.


class Mlflow:
    """A run of MLflow; see `logs.Log`."""

    def __init__(
        self, workdir: pathlib.Path, run: str | None, config: Mapping[str, Any]
    ) -> None:
        """Starts a run, or continues one.

        Args:
            workdir: has the local store, `mlflow.db` and images in `mlruns`.
            run: id of the run to continue; None for a new one.
            config: configuration as JSON.
        """
        import mlflow  # An extra.

        # It reports the tables that it creates.
        logging.getLogger('mlflow').setLevel(logging.WARNING)
        self._entities = mlflow.entities
        workdir = workdir.resolve()
        images, server = None, os.environ.get('MLFLOW_TRACKING_URI')
        if not server:
            images = (workdir / 'mlruns').as_uri()
            server = f'sqlite:///{workdir}/mlflow.db'
        self._client = mlflow.MlflowClient(server)
        if run is None:
            run = self._create(workdir.name, images, config)
        else:
            self._client.update_run(run, status='RUNNING')
        self.run = run

    def scalars(
        self, step: int, values: Mapping[str, float], axis: str
    ) -> None:
        """See `logs.Log`."""
        del axis  # Each metric has steps of its own.
        now = int(1000 * time.time())
        found = [
            self._entities.Metric(tag, value, now, step)
            for tag, value in values.items()
        ]
        self._client.log_batch(self.run, metrics=found)

    def image(
        self, step: int, tag: str, png: bytes, shape: tuple[int, int, int]
    ) -> None:
        """See `logs.Log`."""
        del shape  # The file has it.
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, f'phase_{step}.png')
            path.write_bytes(png)
            self._client.log_artifact(self.run, str(path), tag)

    def close(self, *, finished: bool) -> None:
        """See `logs.Log`."""
        status = 'FINISHED' if finished else 'KILLED'
        self._client.set_terminated(self.run, status)

    def _create(
        self, name: str, images: str | None, config: Mapping[str, Any]
    ) -> str:
        """Creates a run with the configuration as parameters.

        Args:
            name: of the run.
            images: where a new experiment has images; None for the server's
                choice.
            config: configuration as JSON.

        Returns:
            Its id.
        """
        title = os.environ.get('MLFLOW_EXPERIMENT_NAME', EXPERIMENT)
        experiment = self._client.get_experiment_by_name(title)
        where = (
            self._client.create_experiment(title, images)
            if experiment is None
            else experiment.experiment_id
        )
        run = self._client.create_run(where, run_name=name).info.run_id
        params = [
            self._entities.Param(field, str(value)[:_MOST_LETTERS])
            for field, value in flatten(config).items()
        ]
        for first in range(0, len(params), _MOST_PARAMS):
            some = params[first : first + _MOST_PARAMS]
            self._client.log_batch(run, params=some)
        return run
