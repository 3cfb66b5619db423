#!/usr/bin/env bash
# Several processes on this machine's CPU, in place of several machines.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

usage() {
  cat <<'END'
usage: launch/local_processes.sh [--dry-run] N [flags of mnemonics_jax.main]

Does one run with N processes on this machine's CPU, for example

  launch/local_processes.sh 2 --config=configs/digits.py --workdir=runs/two

SIGTERM and SIGINT are passed on to all processes. When one fails, the others
end by themselves within two minutes, or are killed. The exit status is that of
the first process that failed.

--dry-run prints the commands and runs nothing.

environment:
  DEVICES_PER_PROCESS  simulated devices per process, default 1
  GRACE_SECONDS        time to end after another process failed, default 120
  PYTHON               Python with the package; default .venv/bin/python, which
                       is installed if it is missing
END
}

free_port() {
  local port
  for _ in {1..100}; do
    # Below the range that systems use for outgoing connections.
    port=$((20000 + RANDOM % 10000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  fail 'no free port found'
}

# Sets `command` for process $1, with the flags that follow.
set_command() {
  local id="$1" devices="--xla_force_host_platform_device_count"
  shift
  command=(
    env JAX_PLATFORMS=cpu
    "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }$devices=$DEVICES_PER_PROCESS"
    "JAX_COORDINATOR_BIND_ADDRESS=$address"
    "$python" -m mnemonics_jax.main --coordinator="$address"
    --num_processes="$num" --process_id="$id" "$@"
  )
}

pass_on() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do
    kill -s "$1" "$pid" 2>/dev/null || true
  done
}

# Removes ended processes from `pids`; the first failure sets `status`.
collect() {
  local pid code left=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      left+=("$pid")
      continue
    fi
    code=0
    wait "$pid" || code=$?
    if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then
      status="$code"
      deadline=$((SECONDS + GRACE_SECONDS))
    fi
  done
  pids=(${left[@]+"${left[@]}"})
}

case "${1:-}" in
  --help | -h)
    usage
    exit 0
    ;;
  --dry-run)
    dry_run=true
    shift
    ;;
esac
: "${DEVICES_PER_PROCESS:=1}" "${GRACE_SECONDS:=120}"
num="${1:-}"
case "$num" in
  '' | *[!0-9]* | 0*) fail "N=$num: must be an integer >= 1; see --help" ;;
esac
shift
check_count DEVICES_PER_PROCESS
check_count GRACE_SECONDS

python="${PYTHON:-.venv/bin/python}"
address="127.0.0.1:$(free_port)"
if "$dry_run"; then
  for ((id = 0; id < num; id++)); do
    set_command "$id" "$@"
    run "${command[@]}"
  done
  exit
fi
if [ -z "${PYTHON:-}" ]; then
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
fi

pids=()
status=0
deadline=0
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
# Starts each in its own process group: otherwise they would ignore SIGINT, and
# Ctrl-C would reach them twice.
set -m
for ((id = 0; id < num; id++)); do
  set_command "$id" "$@"
  # Not a function: the process to wait for must be the command itself.
  "${command[@]}" </dev/null &
  pids+=("$!")
done
set +m

while [ "${#pids[@]}" -gt 0 ]; do
  collect
  if [ "$deadline" -gt 0 ] && [ "$SECONDS" -ge "$deadline" ]; then
    pass_on KILL
  fi
  sleep 0.2
done
exit "$status"
