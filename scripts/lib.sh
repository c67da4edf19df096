# Sourced by the other scripts: where things are and how progress is said.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '== %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
  exit 3
}

# The same folder as the program's own: the user's cache directory.
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
  command -v go >/dev/null || die "Go is not installed" "install Go 1.26 or newer; its toolchain fetches the exact version by itself"
  say "building empo2 (the first time takes a minute or two)"
  mkdir -p "$cache/bin"
  go build -o "$empo2" ./orchestrator/cmd/empo2
}
