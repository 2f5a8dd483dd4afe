#!/usr/bin/env bash
# Makes .venv, installs what the tests need, runs them. Safe to run again.
# usage: [WORKERS=2] scripts/test.sh [--browser] [pytest arguments]
# `-m slow` runs the tests that are otherwise left out because they compile or render long.
# --browser also opens the HTML pages in Debian's Chromium, which it installs if absent (as root).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_venv.sh requirements-dev.txt
if [ "${1:-}" = --browser ]; then
  shift
  export MTL_VISION_BROWSER=1
  if ! command -v chromium chromedriver >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      chromium chromium-driver >/dev/null
  fi
fi
ruff format --check --quiet .
ruff check --quiet .
exec python -m pytest -n "${WORKERS:-auto}" --dist loadfile --no-loadscope-reorder "$@"
