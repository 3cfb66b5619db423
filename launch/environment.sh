# shellcheck shell=bash
# Sourced by the other scripts: installs the package into .venv, once, after
# every change of setup.py, and when an extra is wanted that is not there.
# PYTHON is the interpreter (>= 3.11), EXTRAS the extras of setup.py that are
# wanted, separated by commas. Extras that were wanted before stay.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Whether the list $1, which commas separate, has the name $2.
has() {
  case ",$1," in *",$2,"*) ;; *) return 1 ;; esac
}

# The names in `extras_require` of setup.py, separated by commas.
extras_there_are() {
  sed -n "s/^        '\([a-z]*\)': \[.*/\1/p" setup.py | paste -sd, -
}

make_environment() {
  local python="${PYTHON:-python3}" stamp=.venv/.installed
  local extras='' there extra missing=false
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    2>/dev/null; then
    echo "error: PYTHON=$python: must be Python 3.11 or newer" >&2
    exit 2
  fi
  there="$(extras_there_are)"
  if [ -f .venv/.extras ]; then extras="$(cat .venv/.extras)"; fi
  for extra in $(tr ',' ' ' <<<"${EXTRAS:-}"); do
    if ! has "$there" "$extra"; then
      echo "error: EXTRAS=$EXTRAS: must be some of $there" >&2
      exit 2
    fi
    if ! has "$extras" "$extra"; then
      extras="${extras:+$extras,}$extra" missing=true
    fi
  done
  if ! "$missing" && [ -f "$stamp" ] && cmp -s setup.py "$stamp"; then
    return
  fi
  echo "installing${extras:+ with $extras} into .venv (a minute or two)"
  "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -e ".${extras:+[$extras]}"
  printf '%s\n' "$extras" >.venv/.extras
  cp setup.py "$stamp"
}

make_environment
