"""Writes the record of a benchmark: command, environment and figures."""

import json
import os
import pathlib
import platform
from typing import Any

from mnemonics_jax.experiment import run_config


def write(
    out: pathlib.Path, command: str, figures: dict[str, Any]
) -> dict[str, Any]:
    """Writes figures with command and environment as JSON, and prints them.

    Args:
        out: the file; its folder is created.
        command: command that reproduces the figures.
        figures: figures, JSON serializable.

    Returns:
        The written content.
    """
    report = {
        'command': command,
        'cores': os.cpu_count(),
        'machine': platform.machine(),
        'versions': run_config.versions(),
        'commit': run_config.commit(),
        **figures,
    }
    text = json.dumps(report, indent=1) + '\n'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(text)
    return report
