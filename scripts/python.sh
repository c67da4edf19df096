# Sourced after lib.sh. Sets EMPO2_PYTHON to an interpreter that has the trainer's
# packages, and PYTHONPATH to the test tools (pytest, ruff, mypy). Both are
# installed into the cache once.
EMPO2_PYTHON=${EMPO2_PYTHON:-$("$empo2" doctor --python)}
export EMPO2_PYTHON

test_tools() {
  "$EMPO2_PYTHON" - <<'PY'
import pathlib
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
project = tomllib.loads(pathlib.Path("trainer_bridge/trainer/pyproject.toml").read_text())
print("\n".join(project["project"]["optional-dependencies"]["test"]))
PY
}

wanted=$(test_tools)
tools=$cache/test-tools-$(printf '%s' "$wanted" | cksum | cut -d' ' -f1)
if [ ! -e "$tools/complete" ]; then
  say "installing the test tools: pytest, ruff, mypy"
  rm -rf "$tools"
  mkdir -p "$tools"
  printf '%s\n' "$wanted" >"$tools/requirements.txt"
  "$EMPO2_PYTHON" -m pip install --quiet --target "$tools" -r "$tools/requirements.txt"
  touch "$tools/complete"
fi
export PYTHONPATH=$tools
