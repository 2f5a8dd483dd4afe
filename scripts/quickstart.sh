#!/usr/bin/env bash
# From nothing to a trained and evaluated nine-task model: makes .venv, installs, prepares
# SynthScenes, trains configs/quickstart.py, evaluates on the test split and prints the table.
# Safe to run again: prepared data and a finished or interrupted run are taken up.
# usage: scripts/quickstart.sh [--config.field=value ...]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_venv.sh requirements.txt
workdir=${WORKDIR:-runs/quickstart}
python scripts/prepare_data.py --dataset synth_pascal,synth_nyud --config quickstart --data_dir data
python scripts/train.py --config configs/quickstart.py --workdir "$workdir" "$@"
