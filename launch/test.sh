#!/usr/bin/env bash
# The tests, two at a time. Extra arguments go to pytest.
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

exec .venv/bin/python -m pytest -n 2 "$@"
