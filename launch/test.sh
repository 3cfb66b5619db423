#!/usr/bin/env bash
# The tests, two files at a time: tests of a file share fixtures and compiled
# programs. Extra arguments go to pytest.
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
