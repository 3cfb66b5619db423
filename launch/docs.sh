#!/usr/bin/env bash
# The documentation as a site in docs/_build/html. Extra arguments go to Sphinx.
EXTRAS="${EXTRAS:+$EXTRAS,}docs"
# shellcheck source=launch/environment.sh
source "$(dirname "$0")/environment.sh"

.venv/bin/python -m sphinx -W --keep-going -q docs docs/_build/html "$@"
echo 'site: docs/_build/html/index.html'
