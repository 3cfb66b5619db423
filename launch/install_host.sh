#!/usr/bin/env bash
# Installs this checkout into .venv on a host in a cloud, with the extras $1, such
# as tpu,gcs: by uv, with the Python and the versions of launch/tested.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=~/.local/bin/uv

if ! [ -x "$uv" ]; then
  curl -LsSf https://astral.sh/uv/install.sh | sh
fi
"$uv" venv --quiet --allow-existing --python=3.11 .venv
"$uv" pip install --quiet --python=.venv/bin/python \
  --constraint=launch/tested.txt -e ".[$1]"
