#!/usr/bin/env bash
# A run on a Cloud TPU slice, from the request for it to the report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh [--dry-run] [--SETTING=VALUE ...] -- flags of the run

Does a run on all hosts of a Cloud TPU slice, as in

  launch/tpu_pod.sh --zone=us-central2-b --type=v4-32 --spot=true -- \
    --config=configs/cifar100.py --workdir=gs://BUCKET/cifar100

Requests the slice unless it is there, waits for it, installs this checkout,
starts the run, follows its log and fetches the report to runs/NAME. A slice
that is preempted is requested again, and the run goes on. Ctrl-C ends the
following, not the run; the same command follows it again. The slice is kept,
and costs, until you delete it; the last line printed says how.

--dry-run prints the commands, runs nothing and needs no gcloud.

settings, also as environment variables (ZONE=us-central2-b):
  --name=mnemonics  of the request and of the slice
  --zone            where, as in us-central2-b
  --project         by default the one that gcloud is set to
  --type=v4-32      of the slice
  --version         of its software, by default the one for the type
  --spot=false      true: cheaper, and may be preempted

Needed once: gcloud auth login, and ssh-add ~/.ssh/google_compute_engine, since
gcloud reaches several hosts at once by a key that an ssh agent holds.
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

# What each host does.
job() {
  cat <<END
$(quote "${main[@]}") >run.log 2>&1
echo \$? >run.status
END
}

# Replaces the checkout on all hosts by this one, and updates their .venv, with
# a newer Python than their image has. It is called in a condition, where bash
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

# Starts the run on all hosts. The connection may break without harm.
# shellcheck disable=SC2016  # The host is to expand these.
start() {
  on_host all 'set -e
cd mnemonics_jax
rm -f run.status
setsid bash run.sh </dev/null >/dev/null 2>&1 &
echo $! >run.pid'
}

# Prints what is running, or nothing.
# shellcheck disable=SC2016
running() {
  on_host 0 'cd mnemonics_jax 2>/dev/null || exit 0
if kill -0 "$(cat run.pid)"; then cat run.sh; fi 2>/dev/null'
}

# Shows the log, all of it (+1) or from its last lines on (20), until the run
# has ended.
follow() {
  on_host 0 "cd mnemonics_jax
tail --lines=$1 --follow=name --retry --pid=\"\$(cat run.pid)\" run.log"
}

# Prints the status that the run has ended with, or nothing.
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
  echo '# If there is none:'
  request
  echo '# If it was preempted, or its request has failed before; then anew:'
  delete
  echo '# If the run is not running yet:'
  running
  install
  start
  echo '# Until the run has ended:'
  follow +1
  exit_status
  echo '# If it ended well:'
  fetch
  echo '# When you are done with the slice:'
  delete
}

# Prints the state of the request and of its slice, as ACTIVE/READY. There may
# be no slice yet, or no longer, for some seconds.
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

# Waits for a slice that can be used, and requests it where that is needed.
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
          fail "$NAME: the request has failed; why is said by" \
            "gcloud compute tpus queued-resources describe $NAME"
        fi
        delete
        ;;
      SUSPENDED/ | ACTIVE/PREEMPTED | ACTIVE/TERMINATED) delete ;;
      ACTIVE/STOPPED) fail "$NAME: STOPPED; start it, or take another name" ;;
      *) sleep 30 ;;
    esac
  done
}

# Installs and starts the run unless it is running, and follows it. One that
# was `started` before has ended while the connection was broken.
work() {
  local found from=20
  found="$(running)" || return
  if [ -z "$found" ] && ! "$started"; then
    install && start || return
    started=true
    from=+1
  elif [ -n "$found" ] && [ "$found" != "$(job)" ]; then
    fail "NAME=$NAME: does ${found%% >run.log*}; allowed: another name"
  fi
  follow "$from" || true
}

# The run, over preemptions and lost connections, to its end.
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
    # A slice that is taken away may look well for a while.
    sleep 60
    if [ "$(state)" != ACTIVE/READY ]; then
      lost=0 started=false
    elif [ "$ended" = 75 ]; then # Told to stop, it has saved; the slice stays.
      started=false
    elif [ -n "$ended" ]; then
      say "the run has ended with status $ended; the same command goes on"
      exit "$ended"
    elif [ "$lost" -ge 5 ]; then
      fail "$NAME: cannot be worked on, though it is READY; see above"
    fi
  done
}

: "${NAME:=mnemonics}" "${ZONE:=}" "${PROJECT:=}" "${TYPE:=v4-32}"
: "${VERSION:=}" "${SPOT:=false}"
read_settings 'NAME ZONE PROJECT TYPE VERSION SPOT' "$@"
case "$NAME" in
  [!a-z]* | *[!a-z0-9-]* | '')
    fail "NAME=$NAME: allowed: small letters, digits and -, a letter first"
    ;;
esac
if [ -z "$ZONE" ]; then
  fail 'ZONE: missing; allowed: a zone with TPUs, as in --zone=us-central2-b'
fi
spot=()
case "$SPOT" in
  true) spot=(--spot) ;;
  false) ;;
  *) fail "SPOT=$SPOT: allowed: true, false" ;;
esac
if [ -z "$VERSION" ]; then
  case "$TYPE" in
    v2-* | v3-* | v4-*) VERSION=tpu-ubuntu2204-base ;;
    v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
    v5p-*) VERSION=v2-alpha-tpuv5 ;;
    v6e-*) VERSION=v2-alpha-tpuv6e ;;
    *) fail "VERSION: missing; no default is known for TYPE=$TYPE" ;;
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
    fail "--workdir=$workdir: allowed: --workdir=gs://BUCKET/FOLDER, since" \
      'all hosts write there and a preempted one loses its disk'
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
trap 'say "the run goes on; the same command follows it again"; exit 130' INT
main_loop
fetch
say "report: runs/$NAME/report.html"
dry_run=true
say "to delete the slice: $(delete)"
