#!/usr/bin/env bash
# The tests with the lines that they run counted; fails below the floor that
# pyproject.toml sets. Extra arguments go to pytest.
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

exec .venv/bin/python -m pytest -n 2 --cov --cov-report=term:skip-covered \
  --cov-report=html:.coverage_html "$@"
