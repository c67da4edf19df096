"""The command line: `serve` the trainer, or be the `companion` of one elsewhere; convert a base to
`gguf`, `merge` an adapter into it."""

import argparse
import json
import os
import sys
from pathlib import Path

from empo2_trainer.follow import follow
from empo2_trainer.process import Fatal, accompany, configure_logging, explained, serve


def formats(text: str) -> tuple[str, ...]:
    """A comma list of export formats. For merged, nothing more is written: another command merges
    the adapter, and a module that it could not merge is refused at once."""
    chosen = tuple(part for part in text.split(",") if part)
    if not chosen or not set(chosen) <= {"peft", "gguf", "merged"}:
        raise argparse.ArgumentTypeError("a comma list of peft, gguf and merged")
    return chosen


def whole(text: str) -> int:
    """A whole number that is not negative."""
    if not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError("a whole number, 0 or more")
    return int(text)


def ranks(text: str) -> int:
    """A number of ranks: 1 or more."""
    count = whole(text)
    if not 1 <= count <= 1024:
        raise argparse.ArgumentTypeError("a whole number from 1 to 1024")
    return count


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("a number above 0 and at most 1")
    return value


def parser() -> argparse.ArgumentParser:
    """All commands and flags."""
    top = argparse.ArgumentParser(prog="empo2_trainer", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("serve", help="answer training requests until stdin ends")
    run.add_argument("--model", required=True, help="Hugging Face model directory")
    run.add_argument("--root", required=True, help="run directory for adapters and checkpoints")
    run.add_argument("--host", default="127.0.0.1")
    run.add_argument("--port", type=int, default=0, help="0: any free one")
    run.add_argument(
        "--threads", type=int, default=0, help="0: one, or all cores where they are faster"
    )
    run.add_argument(
        "--deterministic",
        action="store_true",
        help="only algorithms with equal results in every run",
    )
    run.add_argument("--seed", type=int, default=0, help="of adapters created without a seed")
    run.add_argument("--formats", type=formats, default=("peft", "gguf"))
    run.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    run.add_argument(
        "--quantize", choices=("none", "nf4"), default="none", help="4-bit base; needs a GPU"
    )
    run.add_argument(
        "--micro-batch-tokens",
        type=whole,
        default=0,
        help="limit of a micro-batch; longer rows train alone; 0: chosen from the free memory",
    )
    run.add_argument(
        "--memory-share",
        type=share,
        default=1.0,
        help="part of the usual memory of a micro-batch; less after the system killed a trainer",
    )
    run.add_argument(
        "--gap-wait", type=float, default=10.0, help="seconds to wait for a missing seq_id"
    )
    run.add_argument("--gpus", type=ranks, default=1, help="GPUs, or processes with --device cpu")
    run.add_argument(
        "--parallel",
        choices=("auto", "data", "fsdp2"),
        default="auto",
        help="how several GPUs share the model: data: each has all of it; fsdp2: each has a part "
        "of every layer; auto: data if the model leaves enough memory",
    )
    run.add_argument(
        "--rank-timeout",
        type=float,
        default=1800.0,
        help="seconds that a rank waits for the others, within a pass too",
    )
    rank = commands.add_parser("follow", help="a further rank; serve starts it")
    rank.add_argument("rank", type=int)
    beside = commands.add_parser("companion", help="tokenizer and files beside a remote trainer")
    beside.add_argument("--model", required=True)
    beside.add_argument("--root", required=True, help="run directory")
    beside.add_argument("--formats", type=formats, default=("peft", "gguf"))
    convert = commands.add_parser("gguf", help="convert a model directory to one GGUF file")
    convert.add_argument("--model", required=True)
    convert.add_argument("--out", required=True)
    merged = commands.add_parser("merge", help="merge a LoRA adapter into a new model directory")
    merged.add_argument("--model", required=True)
    merged.add_argument("--adapter", required=True)
    merged.add_argument("--out", required=True)
    merged.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    merged.add_argument("--about", type=json.loads, default={}, help="JSON for warmstart.json")
    return top


def convert(model: str, out: str) -> None:
    """Write the GGUF file, float32, whole or not at all."""
    with explained():
        from empo2_trainer.model_dir import check_directory
        from empo2_trainer.protocol import UserError

        configure_logging()
        check_directory(model)
        from empo2_trainer.gguf_export import write_model

        try:
            write_model(model, Path(out))
        except UserError as e:
            hint = (
                "name a GGUF file of this model in sampler.llamacpp.gguf, "
                'or use sampler.backend = "vllm" or "sglang"'
            )
            raise Fatal(f"model {model}: {e}", hint) from e


def merge(args: argparse.Namespace) -> None:
    """Merge an adapter into its base, whole or not at all."""
    with explained():
        from empo2_trainer.model_dir import check_directory

        configure_logging()
        check_directory(args.model)
        from empo2_trainer import merge
        from empo2_trainer.protocol import UserError

        paths = [Path(p) for p in (args.model, args.adapter, args.out)]
        try:
            merge.merge(paths[0], paths[1], paths[2], args.dtype, args.about)
        except UserError as e:
            hint = "merge into the base that the adapter was trained on, not quantised"
            raise Fatal(f"model {args.model}: {e}", hint) from e


def main() -> int:
    """Run a command; a start that fails is one JSON line on stderr and exit code 1."""
    args = parser().parse_args()
    try:
        if args.command == "serve":
            serve(args)
        elif args.command == "companion":
            accompany(args)
        elif args.command == "merge":
            merge(args)
        elif args.command == "follow":
            follow(args.rank)
        else:
            convert(args.model, args.out)
    except Fatal as e:
        line = {"event": "fatal", "error": str(e), "hint": e.hint}
    except Exception as e:
        line = {"event": "fatal", "error": f"{type(e).__name__}: {e}", "hint": "report this"}
    else:
        return 0
    sys.stderr.write(json.dumps(line) + "\n")
    if args.command == "follow" or getattr(args, "gpus", 1) > 1:
        sys.stderr.flush()
        os._exit(1)  # torch.distributed would wait for the other ranks
    return 1


if __name__ == "__main__":
    sys.exit(main())
