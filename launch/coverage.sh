#!/usr/bin/env bash
# The tests with the lines that they run counted; fails below the floor that
# pyproject.toml sets. Extra arguments go to pytest.
set -euo pipefail

exec "$(dirname "$0")/test.sh" --cov --cov-report=term:skip-covered \
  --cov-report=html:.coverage_html "$@"
