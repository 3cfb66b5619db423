# shellcheck shell=bash
# Sourced by the other scripts: makes .venv with the package in it, once, and
# again whenever setup.py has changed. PYTHON names the interpreter (>= 3.11).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make_environment() {
  local python="${PYTHON:-python3}"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $python: Python 3.11 or newer is needed; set PYTHON" >&2
    exit 2
  fi
  local stamp=.venv/.installed
  if [ -f "$stamp" ] && cmp -s setup.py "$stamp"; then
    return
  fi
  echo 'installing into .venv (about a minute on a good connection)'
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -e '.[dev]'
  cp setup.py "$stamp"
}

make_environment
