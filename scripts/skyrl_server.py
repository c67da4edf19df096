"""SkyRL's Tinker server for tests, in the environment that scripts/setup-skyrl makes.

skyrl_server.py model FROM TO      the policy of the vault as a Llama, which SkyRL's JAX backend knows
skyrl_server.py serve FLAGS        the server, without uv, on any Python from 3.11
"""

import json
import shutil
import sys
import typing
from pathlib import Path


def model(source: Path, target: Path) -> None:
    """Qwen2 is Llama with biases in the attention. Without them the policy still pulls levers."""
    from safetensors.numpy import load_file, save_file

    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32"}
    config |= {"attention_bias": False, "mlp_bias": False}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    weights = load_file(source / "model.safetensors")
    kept = {n: w.astype("float32") for n, w in weights.items() if not n.endswith(".bias")}
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, target)


def serve() -> None:
    """SkyRL starts its engine with `uv run`. Here the same interpreter runs it."""
    import argparse

    import uvicorn
    from skyrl.tinker import api
    from skyrl.tinker.config import EngineConfig, add_model, config_to_argv

    def engine(_parent: object, config: EngineConfig) -> list[str]:
        return [sys.executable, __file__, "engine", *config_to_argv(config)]

    api._build_uv_run_cmd_engine = engine
    parser = argparse.ArgumentParser()
    add_model(parser, EngineConfig)
    parser.add_argument("--port", type=int, required=True)
    args = vars(parser.parse_args())
    fields = {k: v for k, v in args.items() if k in EngineConfig.model_fields}
    api.app.state.engine_config = EngineConfig.model_validate(fields)
    uvicorn.run(api.app, host="127.0.0.1", port=args["port"], access_log=False)


def main() -> None:
    """Run a command."""
    command = sys.argv.pop(1)
    if command == "model":
        model(Path(sys.argv[1]), Path(sys.argv[2]))
        return
    import typing_extensions

    typing.TypedDict = typing_extensions.TypedDict  # pydantic refuses typing's before Python 3.12
    if command == "engine":
        import runpy

        runpy.run_module("skyrl.tinker.engine", run_name="__main__")
    else:
        serve()


if __name__ == "__main__":
    main()
