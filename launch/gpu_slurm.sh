#!/usr/bin/env bash
# A run on the GPUs of a SLURM cluster, one process a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

usage() {
  cat <<'END'
usage: launch/gpu_slurm.sh [--dry-run] [--SETTING=VALUE ...] -- flags of the run

Submits a run to SLURM, one process a GPU, as in

  launch/gpu_slurm.sh --gpus=8 --time=12:00:00 -- \
    --config=configs/cifar100.py --workdir=runs/cifar100

The work directory and the checkout have to be on a disk that all nodes share.
A minute before its time is up, and when it is preempted, the run gets SIGTERM,
saves, and is queued again; it goes on where it was.

--dry-run prints the script and the command that submits it, and runs nothing.

settings, also as environment variables (GPUS=8):
  --name=mnemonics   of the job
  --nodes=1          machines
  --gpus=8           GPUs, so processes, of each machine
  --cpus=8           processor cores of each process
  --time=24:00:00    limit, after which the run is queued again
  --python=.venv/bin/python
                     Python that has the package, installed by
                     pip install -e '.[cuda]'
The rest are sbatch's own variables: SBATCH_PARTITION, SBATCH_ACCOUNT, ...
END
}

# What SLURM runs on the first node. Why it is so:
# - All processes of a node see all of its GPUs (--gpu-bind=none), and JAX takes
#   the i-th for the i-th, which also lets them copy to each other directly.
# - --signal without B: reaches the processes of the run, not this script. A
#   preemption may reach it too, and it has to outlive the run.
# - The processes end by themselves when one of them fails; --wait is for those
#   that cannot.
# - 75 is what a run exits with that has saved on a signal.
job_script() {
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --cpus-per-task=$CPUS
#SBATCH --time=$TIME
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm/%x-%j.log
set -euo pipefail
trap : TERM
cd $(quote "$PWD")
status=0
srun --ntasks-per-node=$GPUS --cpus-per-task=$CPUS --gpu-bind=none \\
  --kill-on-bad-exit=0 --wait=120 \\
  $(quote "$PYTHON" -m mnemonics_jax.main ${flags[@]+"${flags[@]}"}) ||
  status=\$?
if [ "\$status" -eq 75 ]; then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
END
}

: "${NAME:=mnemonics}" "${NODES:=1}" "${GPUS:=8}" "${CPUS:=8}"
: "${TIME:=24:00:00}" "${PYTHON:=.venv/bin/python}"
read_settings 'NAME NODES GPUS CPUS TIME PYTHON' "$@"
check_count NODES
check_count GPUS
check_count CPUS
case "$NAME$TIME" in
  *[!A-Za-z0-9_.:-]*)
    fail "NAME=$NAME TIME=$TIME: allowed: letters, digits, and _ . : -"
    ;;
esac

if "$dry_run"; then
  run mkdir -p runs/slurm
  echo "sbatch --parsable <<'END'"
  job_script
  echo 'END'
  exit
fi
if ! command -v sbatch >/dev/null; then
  fail 'sbatch: missing; run this where SLURM is, or add --dry-run'
fi
if ! command -v "$PYTHON" >/dev/null; then
  fail "PYTHON=$PYTHON: missing; allowed: Python that has the package"
fi
mkdir -p runs/slurm
job="$(job_script | sbatch --parsable)"
# With the name of a cluster behind it where there are several.
job="${job%%;*}"
echo "job $job; its log: tail -F runs/slurm/$NAME-$job.log"
