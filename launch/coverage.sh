#!/usr/bin/env bash
# The tests with coverage; fails below the limit in pyproject.toml. Extra
# arguments go to pytest.
set -euo pipefail

exec "$(dirname "$0")/test.sh" -m '' --cov --cov-report=term:skip-covered \
  --cov-report=html:.coverage_html "$@"
