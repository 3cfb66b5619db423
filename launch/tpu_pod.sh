#!/usr/bin/env bash
# A run on a Cloud TPU slice, from requesting it to the report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh [--dry-run] [--SETTING=VALUE ...] -- flags of the run

Does a run on all hosts of a Cloud TPU slice, for example

  launch/tpu_pod.sh --zone=us-central2-b --type=v4-32 --spot=true -- \
    --config=configs/cifar100.py --workdir=gs://BUCKET/cifar100

Requests the slice if it does not exist, waits for it, installs this checkout,
starts the run, follows its log and copies the report to runs/NAME. A preempted
slice is requested again, and the run resumes. Ctrl-C stops following the log,
not the run; rerun the command to follow it again. The slice is kept and billed
until you delete it; the last line printed says how.

--dry-run prints the commands, runs nothing and needs no gcloud.

settings, also as environment variables (ZONE=us-central2-b):
  --name=mnemonics  name of the request and of the slice
  --zone            zone of the slice, such as us-central2-b
  --project         project; default: the one that gcloud is set to
  --type=v4-32      type of the slice
  --version         version of its software; default: the one for the type
  --spot=false      true: cheaper, and may be preempted

Needed once: gcloud auth login, and ssh-add ~/.ssh/google_compute_engine, since
gcloud connects to several hosts only with a key from an ssh agent.
END
}

say() {
  echo "$(date +%H:%M:%S) $*" >&2
}

tpus() {
  run gcloud compute tpus "$@" "--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"}
}

on_host() {
  tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2"
}

request_state() {
  tpus queued-resources describe "$NAME" '--format=value(state.state)'
}

slice_state() {
  tpus tpu-vm describe "$NAME" '--format=value(state)'
}

request() {
  tpus queued-resources create "$NAME" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$VERSION" \
    ${spot[@]+"${spot[@]}"}
}

delete() {
  tpus queued-resources delete "$NAME" --force --quiet
}

# The script that each host runs.
job() {
  cat <<END
$(quote "${main[@]}") >run.log 2>&1
echo \$? >run.status
END
}

# Replaces the checkout on all hosts by this one and updates their .venv, with a
# newer Python than that of their image. It is called in a condition, where bash
# does not stop at errors, hence the returns.
install() {
  run mkdir -p "runs/$NAME" || return
  if "$dry_run"; then
    echo "cat >runs/$NAME/run.sh <<'END'"
    job
    echo END
  else
    job >"runs/$NAME/run.sh"
  fi
  run tar -czf "runs/$NAME/checkout.tar.gz" --exclude='./.venv*' \
    --exclude=./runs --exclude=./.jax_cache --exclude=__pycache__ . \
    -C "runs/$NAME" run.sh || return
  tpus tpu-vm scp "runs/$NAME/checkout.tar.gz" "$NAME:checkout.tar.gz" \
    --worker=all || return
  on_host all 'set -e
mkdir -p mnemonics_jax
cd mnemonics_jax
find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
tar -xzf ../checkout.tar.gz
if ! [ -x ~/.local/bin/uv ]; then
  curl -LsSf https://astral.sh/uv/install.sh | sh
fi
~/.local/bin/uv venv --quiet --allow-existing --python=3.12 .venv
~/.local/bin/uv pip install --quiet --python=.venv/bin/python -e ".[tpu,gcs]"'
}

# Starts the run on all hosts, where it survives a broken connection.
# shellcheck disable=SC2016  # The host expands these.
start() {
  on_host all 'set -e
cd mnemonics_jax
rm -f run.status
setsid bash run.sh </dev/null >/dev/null 2>&1 &
echo $! >run.pid'
}

# Prints the script of the run if it is running.
# shellcheck disable=SC2016
running() {
  on_host 0 'cd mnemonics_jax 2>/dev/null || exit 0
if kill -0 "$(cat run.pid)"; then cat run.sh; fi 2>/dev/null'
}

# Shows the log from the first line (+1) or the last ones (20), until the run
# ends.
follow() {
  on_host 0 "cd mnemonics_jax
tail --lines=$1 --follow=name --retry --pid=\"\$(cat run.pid)\" run.log"
}

# Prints the exit status of the run if it has ended.
exit_status() {
  on_host 0 'cat mnemonics_jax/run.status 2>/dev/null || true'
}

fetch() {
  run gcloud storage cp "${workdir%/}/report.html" \
    "${workdir%/}/results.json" "runs/$NAME/"
}

plan() {
  echo '# The slice, until both are ACTIVE and READY:'
  request_state
  slice_state
  echo '# If it does not exist:'
  request
  echo '# If it was preempted or its request failed, before the next request:'
  delete
  echo '# If the run is not running yet:'
  running
  install
  start
  echo '# Until the run has ended:'
  follow +1
  exit_status
  echo '# If it succeeded:'
  fetch
  echo '# When you are done with the slice:'
  delete
}

# Prints the states of the request and of its slice, such as ACTIVE/READY. For
# some seconds the request may have no slice.
state() {
  local found slice='' errors="runs/$NAME/gcloud.log"
  if ! found="$(request_state 2>"$errors")"; then
    grep -q NOT_FOUND "$errors" || fail "gcloud: $(tail -n 1 "$errors")"
    found=NONE
  elif [ "$found" = ACTIVE ]; then
    slice="$(slice_state 2>"$errors")" || slice=''
  fi
  echo "$found/$slice"
}

# Waits until the slice is ready, and requests it if needed.
make_ready() {
  local now before='' requested=false
  while :; do
    now="$(state)"
    if [ "$now" != "$before" ]; then
      say "$NAME: $now"
      before="$now"
    fi
    case "$now" in
      ACTIVE/READY) return ;;
      NONE/)
        request
        requested=true
        ;;
      FAILED/)
        if "$requested"; then
          fail "$NAME: the request has failed; for the reason, run" \
            "gcloud compute tpus queued-resources describe $NAME"
        fi
        delete
        ;;
      SUSPENDED/ | ACTIVE/PREEMPTED | ACTIVE/TERMINATED) delete ;;
      ACTIVE/STOPPED) fail "NAME=$NAME: STOPPED; start it or set another" ;;
      *) sleep 30 ;;
    esac
  done
}

# Installs and starts the run unless it is running, and follows its log. A run
# that was `started` before and is not running ended without a connection.
work() {
  local found from=20
  found="$(running)" || return
  if [ -z "$found" ] && ! "$started"; then
    install && start || return
    started=true
    from=+1
  elif [ -n "$found" ] && [ "$found" != "$(job)" ]; then
    fail "NAME=$NAME: runs ${found%% >run.log*}; set another name"
  fi
  follow "$from" || true
}

# Does the run to its end, through preemptions and lost connections.
main_loop() {
  local ended lost=0 started=false
  while :; do
    make_ready
    ended=''
    lost=$((lost + 1))
    if work && ended="$(exit_status)"; then
      lost=0
      if [ -z "$ended" ]; then started=false; fi
    fi
    if [ "$ended" = 0 ]; then
      return
    fi
    # A preempted slice may still look ready for a while.
    sleep 60
    if [ "$(state)" != ACTIVE/READY ]; then
      lost=0 started=false
    elif [ "$ended" = 75 ]; then # Saved on a signal, but not preempted.
      started=false
    elif [ -n "$ended" ]; then
      say "the run ended with status $ended; rerun the command to resume"
      exit "$ended"
    elif [ "$lost" -ge 5 ]; then
      fail "$NAME: READY, but the run cannot be started; see above"
    fi
  done
}

: "${NAME:=mnemonics}" "${ZONE:=}" "${PROJECT:=}" "${TYPE:=v4-32}"
: "${VERSION:=}" "${SPOT:=false}"
read_settings 'NAME ZONE PROJECT TYPE VERSION SPOT' "$@"
case "$NAME" in
  [!a-z]* | *[!a-z0-9-]* | '')
    fail "NAME=$NAME: must be lower-case letters, digits and -, a letter first"
    ;;
esac
if [ -z "$ZONE" ]; then
  fail 'ZONE: missing; must be a zone with TPUs, such as --zone=us-central2-b'
fi
spot=()
case "$SPOT" in
  true) spot=(--spot) ;;
  false) ;;
  *) fail "SPOT=$SPOT: must be true or false" ;;
esac
if [ -z "$VERSION" ]; then
  case "$TYPE" in
    v2-* | v3-* | v4-*) VERSION=tpu-ubuntu2204-base ;;
    v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
    v5p-*) VERSION=v2-alpha-tpuv5 ;;
    v6e-*) VERSION=v2-alpha-tpuv6e ;;
    *) fail "VERSION: missing; there is no default for TYPE=$TYPE" ;;
  esac
fi
workdir=''
for flag in ${flags[@]+"${flags[@]}"}; do
  case "$flag" in
    --workdir=*) workdir="${flag#*=}" ;;
  esac
done
case "$workdir" in
  gs://?*) ;;
  *)
    fail "--workdir=$workdir: must be gs://BUCKET/FOLDER, since all hosts" \
      'write to it and a preempted host loses its disk'
    ;;
esac
main=(.venv/bin/python -m mnemonics_jax.main "${flags[@]}")

if "$dry_run"; then
  plan
  exit
fi
if ! command -v gcloud >/dev/null; then
  fail 'gcloud: missing; install the Google Cloud CLI, or add --dry-run'
fi
mkdir -p "runs/$NAME"
trap 'say "the run continues; rerun the command to follow it"; exit 130' INT
main_loop
fetch
say "report: runs/$NAME/report.html"
dry_run=true
say "to delete the slice: $(delete)"
