#!/usr/bin/env bash
# A run on a Cloud TPU slice that exists, from installing to the report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh [--dry-run] [--SETTING=VALUE ...] --
         [VARIABLE=VALUE ...] flags of the run

Does a run on all hosts of a Cloud TPU slice that exists, for example

  launch/tpu_pod.sh --zone=us-central2-b -- \
    --config=configs/cifar100.py --workdir=gs://BUCKET/cifar100

Installs this checkout, starts the run, follows its log and copies the report to
runs/NAME. Ctrl-C stops following the log, not the run. Rerun the command to
follow it again, or to resume a run that has ended. The slice is neither
requested nor deleted: docs/devices.md has the commands, and launch/sky.yaml
does both by itself. Compiled programs are cached beside the work directory.

--dry-run prints the commands, runs nothing and needs no gcloud.

settings, also as environment variables (ZONE=us-central2-b):
  --name=mnemonics  name of the slice
  --zone            zone of the slice, such as us-central2-b
  --project         project; default: the one that gcloud is set to
  --connect         further flags of gcloud's ssh and scp, such as --internal-ip,
                    separated by spaces
  --prepare         shell command for each host before the run, such as one that
                    mounts a disk; it may be repeated on a host

Needed once: gcloud auth login, and ssh-add ~/.ssh/google_compute_engine, since
gcloud connects to several hosts only with a key from an ssh agent.
END
}

say() {
  echo "$(date +%H:%M:%S) $*" >&2
}

tpus() {
  run gcloud compute tpus tpu-vm "$@" "--zone=$ZONE" \
    ${PROJECT:+"--project=$PROJECT"}
}

# A host that vanishes closes no connection: after two minutes of silence, ssh
# does.
on_host() {
  tpus ssh "$NAME" --worker="$1" --command="$2" \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4 \
    ${connect[@]+"${connect[@]}"}
}

slice_state() {
  tpus describe "$NAME" '--format=value(state)'
}

# The script that each host runs.
job() {
  cat <<END
echo \$\$ >run.pid
$(quote "${main[@]}") >run.log 2>&1
echo \$? >run.status
END
}

# Replaces the checkout on all hosts by this one and updates their .venv. A host
# may still be doing a run that another one has left; that ends within two
# minutes. The function is called in a condition, where bash does not stop at
# errors, hence the returns.
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
  tpus scp "runs/$NAME/checkout.tar.gz" "$NAME:checkout.tar.gz" --worker=all \
    ${connect[@]+"${connect[@]}"} || return
  on_host all "set -e
flock --wait 150 run.lock true
mkdir -p mnemonics_jax
cd mnemonics_jax
find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
tar -xzf ../checkout.tar.gz
bash launch/install_host.sh tpu,gcs,tfds${PREPARE:+
$PREPARE}"
}

# Starts the run on all hosts, where it survives a broken connection. gcloud may
# repeat the command: a host that holds the lock does the run already.
# shellcheck disable=SC2016  # The host expands these.
start() {
  on_host all 'cd mnemonics_jax
setsid flock --nonblock ../run.lock bash run.sh </dev/null >/dev/null 2>&1 &
until [ -s run.pid ]; do sleep 0.1; done'
}

# Prints the script of the run if it is running.
running() {
  on_host 0 'cd mnemonics_jax 2>/dev/null || exit 0
flock --nonblock ../run.lock true || cat run.sh'
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
  run gcloud storage cp "$workdir/report.html" "$workdir/results.json" \
    "runs/$NAME/"
}

plan() {
  echo '# The slice has to be READY:'
  slice_state
  echo '# If the run is not running yet:'
  running
  install
  start
  echo '# Until the run has ended:'
  follow +1
  running
  exit_status
  echo '# If it succeeded:'
  fetch
}

# Ends the script unless the slice is ready.
check_slice() {
  local found errors="runs/$NAME/gcloud.log"
  found="$(slice_state 2>"$errors")" || fail "gcloud: $(tail -n 1 "$errors")"
  if [ "$found" != READY ]; then
    fail "NAME=$NAME: the slice is $found, must be READY; request it as in" \
      'docs/devices.md, then rerun the command, and the run resumes'
  fi
}

# Follows the run, through lost connections, and sets `ended` to its exit status.
wait_for_end() {
  local from="$1" lost=0 found
  while [ "$lost" -lt 5 ]; do
    follow "$from" || true
    from=20
    if found="$(running)" && ended="$(exit_status)"; then
      lost=0
      if [ -n "$found" ]; then continue; fi
      if [ -n "$ended" ]; then return; fi
      fail "NAME=$NAME: the run was killed; rerun the command to resume"
    fi
    lost=$((lost + 1))
    # A preempted slice may still look ready for a while.
    sleep 60
    check_slice
  done
  fail "NAME=$NAME: READY, but host 0 does not answer; see above"
}

# Installs and starts the run unless it is running, and follows it to its end.
work() {
  local found from=20 ended=''
  found="$(running)" || fail "NAME=$NAME: host 0 does not answer; see above"
  if [ -z "$found" ]; then
    if ! { install && start; }; then
      fail "NAME=$NAME: the run cannot be started; see above"
    fi
    from=+1
  elif [ "$found" != "$(job)" ]; then
    found="$(sed -n 's/ >run.log 2>&1$//p' <<<"$found")"
    fail "NAME=$NAME: does another run: $found"
  fi
  wait_for_end "$from"
  if [ "$ended" != 0 ]; then
    say "the run ended with status $ended; rerun the command to resume"
    exit "$ended"
  fi
}

: "${NAME:=mnemonics}" "${ZONE:=}" "${PROJECT:=}" "${CONNECT:=}" "${PREPARE:=}"
read_settings 'NAME ZONE PROJECT CONNECT PREPARE' "$@"
case "$NAME" in
  [!a-z]* | *[!a-z0-9-]* | '')
    fail "NAME=$NAME: must be lower-case letters, digits and -, a letter first"
    ;;
esac
if [ -z "$ZONE" ]; then
  fail 'ZONE: missing; must be the zone of the slice, as --zone=us-central2-b'
fi
read -ra connect <<<"$CONNECT"
workdir=''
for flag in ${flags[@]+"${flags[@]}"}; do
  case "$flag" in
    --workdir=*) workdir="${flag#*=}" ;;
  esac
done
workdir="${workdir%/}"
case "$workdir" in
  gs://?*/?*) ;;
  *)
    fail "--workdir=$workdir: must be gs://BUCKET/FOLDER, since all hosts" \
      'write to it and a preempted host loses its disk'
    ;;
esac
# Variables of the run come before its flags, as they do for `env`.
main=(env "MNEMONICS_JAX_CACHE=${workdir%/*}/.jax_cache")
while [[ "${flags[0]}" =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; do
  main+=("${flags[0]}")
  flags=("${flags[@]:1}")
done
main+=(.venv/bin/python -m mnemonics_jax.main "${flags[@]}")

if "$dry_run"; then
  plan
  exit
fi
if ! command -v gcloud >/dev/null; then
  fail 'gcloud: missing; install the Google Cloud CLI, or add --dry-run'
fi
mkdir -p "runs/$NAME"
trap 'say "the run continues; rerun the command to follow it"; exit 130' INT
check_slice
work
fetch
say "report: runs/$NAME/report.html; the slice is billed until you delete it"
