#!/usr/bin/env bash
# The tests, two files at a time: tests of a file share fixtures and compiled
# programs. Extra arguments go to pytest. Installs the extra dev.
EXTRAS="${EXTRAS:+$EXTRAS,}dev"
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

if [[ " $* " != *' -m '* ]]; then
  echo "without the slow tests; all of them: ./launch/test.sh -m ''"
  set -- -m 'not slow' "$@"
fi
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
