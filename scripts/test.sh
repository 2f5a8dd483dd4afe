#!/usr/bin/env bash
# Makes .venv, installs what the tests need, runs them. Safe to run again.
# usage: [WORKERS=2] scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_venv.sh requirements-dev.txt
ruff format --check --quiet .
ruff check --quiet .
exec python -m pytest -n "${WORKERS:-auto}" --dist loadfile --no-loadscope-reorder "$@"
