# Sourced by quickstart.sh and test.sh: leaves `python` of a ready .venv first on PATH.
# usage: . scripts/setup_venv.sh requirements.txt
requirements=$1

find_python() {
  for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "error: no Python 3.11 to 3.13 found; install one or set PYTHON=/path/to/python." >&2
  return 1
}

stamp=.venv/ready-${requirements%.txt}
if ! cat requirements.txt "$requirements" pyproject.toml 2>/dev/null | cmp -s - "$stamp"; then
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    base=$(find_python) || exit 1
    echo "Making .venv with $base"
    rm -rf .venv
    "$base" -m venv .venv || exit 1
  fi
  echo "Installing $requirements into .venv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements" || exit 1
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e . || exit 1
  cat requirements.txt "$requirements" pyproject.toml > "$stamp"
fi
PATH=$PWD/.venv/bin:$PATH
export PATH
