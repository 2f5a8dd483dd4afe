#!/usr/bin/env bash
# Submits a run to Slurm: one process per GPU, or per node without GPUs; queued again when it is
# preempted or reaches its time limit, and then it goes on.
#
#   scripts/launch/slurm.sh --nodes 2 --gpus 8 [--time 24:00:00] [--cpus 8] [--partition p]
#     [--setup 'module load cuda'] [--dry-run] -- --config configs/x.py --workdir /shared/runs/x
#
# --gpus is per node, --cpus per process. The workdir must be seen by all nodes. With --dry-run it
# prints the batch script.
set -euo pipefail
nodes=1 gpus=0 time=24:00:00 cpus=8 partition='' setup=:
flags='dry_run' options='nodes gpus time cpus partition setup'
. "$(dirname "$0")/options.sh"

tasks=$((gpus > 0 ? gpus : 1))
script() {
  echo "#!/usr/bin/env bash"
  echo "#SBATCH --job-name=\"$(basename "$workdir")\""
  echo "#SBATCH --nodes=$nodes"
  echo "#SBATCH --ntasks-per-node=$tasks"
  echo "#SBATCH --cpus-per-task=$cpus"
  [ "$gpus" -eq 0 ] || echo "#SBATCH --gpus-per-node=$gpus"
  [ -z "$partition" ] || echo "#SBATCH --partition=$partition"
  cat <<EOF
#SBATCH --time=$time
#SBATCH --requeue
#SBATCH --signal=USR1@180
#SBATCH --open-mode=append
#SBATCH --output="$workdir/slurm-%j.log"
export PATH=\$PWD/.venv/bin:\$PATH
$setup
code=0
srun --kill-on-bad-exit=1 $command || code=\$?
# 75: saved and asked to be started again, or a node was lost. Above 128: ended by a signal, as the
# processes beside one that left are.
if [ \$code -eq 75 ] || [ \$code -gt 128 ]; then
  if [ "\${SLURM_RESTART_COUNT:-0}" -lt 1000 ]; then
    scontrol requeue "\$SLURM_JOB_ID"
  fi
fi
exit \$code
EOF
}
if [ -n "$dry_run" ]; then
  script
else
  mkdir -p "$workdir"
  script | sbatch
fi
