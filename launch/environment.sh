# shellcheck shell=bash
# Sourced by the other scripts: installs the package into .venv, once and after
# every change of setup.py. PYTHON is the interpreter (>= 3.11).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make_environment() {
  local python="${PYTHON:-python3}"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: PYTHON=$python: must be Python 3.11 or newer" >&2
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
