#!/usr/bin/env bash
# Starts a run on all workers of a Cloud TPU VM slice by one command, and again where it asks for it.
#
#   scripts/launch/tpu_vm.sh --tpu my-v5e-16 --zone us-west4-a [--project p] [--folder mtl_vision]
#     [--dry-run] -- --config configs/x.py --workdir /shared/runs/x
#
# --folder is where the code and its .venv lie on every worker, seen from the home folder. The
# workdir must be one folder for all workers, such as a mounted Filestore. With --dry-run it prints
# the command.
set -euo pipefail
tpu='' zone='' project='' folder=mtl_vision
flags='dry_run' options='tpu zone project folder'
. "$(dirname "$0")/options.sh"
[ -n "$tpu" ] && [ -n "$zone" ] || fail "--tpu and --zone are needed; see --help."

# Exit code 75: saved and asked to be started again, or another worker was lost. Above 128: a signal.
remote="cd $(printf %q "$folder") && export PATH=\$PWD/.venv/bin:\$PATH MTL_VISION_POD=1 && \
for try in \$(seq 1000); do code=0; $command || code=\$?; \
[ \$code -eq 75 ] || [ \$code -gt 128 ] || exit \$code; sleep 10; done; exit \$code"
run=(gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all)
[ -z "$project" ] || run+=(--project="$project")
run+=(--command="$remote")
if [ -n "$dry_run" ]; then
  printf '%q ' "${run[@]}"
  echo
else
  exec "${run[@]}"
fi
