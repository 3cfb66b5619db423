"""Writing the record of a benchmark: what ran, on what, and its figures."""

import json
import os
import pathlib
import platform
from typing import Any

from mnemonics_jax.experiment import run_config


def write(
    out: pathlib.Path, command: str, figures: dict[str, Any]
) -> dict[str, Any]:
    """Writes figures as JSON, under where they come from, and prints them.

    Args:
        out: the file; its folder is made.
        command: that gives them.
        figures: as JSON takes them.

    Returns:
        All that was written.
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
