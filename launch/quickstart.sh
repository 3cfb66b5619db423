#!/usr/bin/env bash
# From a fresh clone to a report: installs what the run needs, then learns
# exemplars of digits. Extra arguments go to the run, and EXTRAS adds extras:
# EXTRAS=cuda launch/quickstart.sh --config.seed=1
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

exec .venv/bin/python -m mnemonics_jax.main \
  --config=configs/digits.py --workdir=runs/digits "$@"
