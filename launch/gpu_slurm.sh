#!/usr/bin/env bash
# A run on the GPUs of a SLURM cluster, one process per GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/commands.sh
source launch/commands.sh

usage() {
  cat <<'END'
usage: launch/gpu_slurm.sh [--dry-run] [--SETTING=VALUE ...] -- flags of the run

Submits a run to SLURM, one process per GPU, for example

  launch/gpu_slurm.sh --gpus=8 --time=12:00:00 -- \
    --config=configs/cifar100.py --workdir=runs/cifar100

The work directory and the checkout must be on a disk that all nodes share. The
run gets SIGTERM when it is preempted and a minute before its time limit. It
saves a checkpoint, is queued again and resumes.

--dry-run prints the script and the command that submits it, and runs nothing.

settings, also as environment variables (GPUS=8):
  --name=mnemonics   name of the job
  --nodes=1          number of nodes
  --gpus=8           GPUs, and so processes, per node
  --cpus=8           CPU cores per process
  --time=24:00:00    time limit, after which the run is queued again
  --python=.venv/bin/python
                     Python with the package, installed by
                     pip install -e '.[cuda]'
For other options set sbatch's variables: SBATCH_PARTITION, SBATCH_ACCOUNT, ...
END
}

# The script that SLURM runs on the first node:
# - All processes of a node see all of its GPUs (--gpu-bind=none), so that GPUs
#   can copy to each other. JAX takes the i-th GPU for the i-th process.
# - --signal without B: signals the processes of the run, not this script. A
#   preemption may signal it too, and it must outlive the run (trap).
# - When a process fails, the others end by themselves; --wait ends those that
#   hang.
# - 75 is the exit status of a run that saved a checkpoint on a signal.
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
    fail "NAME=$NAME TIME=$TIME: must be letters, digits, and _ . : -"
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
  fail 'sbatch: missing; run this on a SLURM cluster, or add --dry-run'
fi
if ! command -v "$PYTHON" >/dev/null; then
  fail "PYTHON=$PYTHON: must be a Python with the package"
fi
mkdir -p runs/slurm
job="$(job_script | sbatch --parsable)"
# sbatch appends the name of the cluster if there are several.
job="${job%%;*}"
echo "job $job; its log: tail -F runs/slurm/$NAME-$job.log"
