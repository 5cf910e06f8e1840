"""The command line: `posttrain VERB …`. Prints our errors without a traceback.

Exit codes: 0 done, 1 our error (message only), 2 usage; anything else is our bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from posttrain.core.atomic import tells_of_no_room
from posttrain.core.errors import PosttrainError

# What the system refuses because of a path that was given, not because of a fault of ours.
REFUSED_PATHS = frozenset(
    {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}
)
DATE = "what a template that prints today's date shall print, '26 Jul 2024'"
MODEL = "Hugging Face folder; with --engine openai the served name; with scripted FILE.py:FUNCTION, or echo"
WORKERS = "processes, each with a model of its own; with openai 32 requests under way for each"
DOUBTFUL = (
    "with --engine openai, the largest share of answers that may begin with their prompt or have more words than the "
    "server counted tokens; 1 takes all"
)
LOCAL_COPY = "with --engine openai, a folder with the model that is served: compare log-probs before the first sample"
UNCHECKED = "with --engine vllm, do not compare its log-probs with those of a plain forward pass at start"
DIALECT = "parameters that a server understands: extended (vLLM, SGLang, llama.cpp), openai, transformers; else guessed"
RAY = "let the workers run on a Ray cluster: auto, host:port or ray://host:port"
TOKEN_VIEW = "how --show-tokens shows them (default: color or marks on a terminal, else json)"
JUDGES = (
    "reward_model:DIR | verifier:FILE.py:FUNCTION | llm:DIR-or-URL | rubric:DIR-or-URL | labels:FILE; "
    "llm compares two answers, rubric rates each alone"
)
LENGTH_PENALTY = "subtracted from the score per character of the answer (default: 0)"
RULES = "best_of_k, max_min, …; see reward/pair_rules.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parse(argv)
    _keep_quiet()
    module, _, name = args.function.partition(":")
    try:
        function = getattr(importlib.import_module(f"posttrain.commands.{module}"), name)
        function(args)
    except PosttrainError as error:
        print(f"posttrain {args.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"posttrain {args.verb}: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, head for example, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        told = _refusal_of_the_system(error, args)
        if told is None:
            raise
        print(f"posttrain {args.verb}: {told}", file=sys.stderr)
        return 1
    return 0


def _refusal_of_the_system(error: Exception, args: argparse.Namespace) -> str | None:
    """Return what to tell of an error that is the disk's or a given path's, None where it is a fault of ours."""
    if tells_of_no_room(error):
        last = " ".join(str(error).split())[-200:]
        return f"no room to write ({last}). Finished stages are whole. Free some space and run the same command again."
    if isinstance(error, OSError) and error.errno in REFUSED_PATHS:
        return f"{error.filename or 'a file'}: {error.strerror}; give another place, or mend this one"
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str) and _is_given(error.filename, args):
        return f"{error.filename}: it is not there and cannot be made; give another place"
    return None


def _is_given(path: str, args: argparse.Namespace) -> bool:
    """Tell whether a path, or what it lies in, was typed: others are ours, and their lack a fault of ours."""
    given = [value for value in vars(args).values() if isinstance(value, str) and os.sep in value]
    return any(path == value or value.startswith(path + os.sep) or path.startswith(value + os.sep) for value in given)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; a row's id and key=value items may stand behind options, which argparse alone does not allow."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if getattr(args, "row_id", "") is None and rest and not rest[0].startswith("-"):  # options before the row's id
        args.row_id = rest.pop(0)
    values = getattr(args, "overrides", None)
    wrong = [item for item in rest if item.startswith("-") or "=" not in item or values is None]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if args.verb == "trace" and (args.row_id is None) == (args.model is None):
        parser.error("trace follows one thing: give the id of a row, or --model with what rows trained")
    if values is not None:
        args.overrides = [*values, *rest]
    return args


def _keep_quiet() -> None:
    """Keep libraries from sending telemetry, drawing their own bars or warning in our output."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|trl|peft|torch)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="posttrain", description="Llama-3.1-style alignment rounds from one recipe.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_loop(verbs)
    _add_inspection(verbs)
    _add_files(verbs)
    return parser


def _verb(verbs: argparse._SubParsersAction, name: str, function: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(function=function)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least 1")
    return int(text)


def _add_loop(verbs: argparse._SubParsersAction) -> None:
    for name, text in (
        ("run", "run what is not there yet; ends with the table of rounds"),
        ("plan", "list every stage as hit or run, with counts of rows and tokens"),
    ):
        parser = _verb(verbs, name, f"loop:{name}", text)
        parser.add_argument("recipe", help="recipe file (.yaml)")
        parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.dpo.beta=0.05")
        parser.add_argument("--root", default=".", help="folder that holds artifacts/ and runs/ (default: here)")
        if name == "plan":
            parser.add_argument("--json", action="store_true", help="print JSON")
    parser = _run_verb(verbs, "status", "status:status", "show where a run is, stage by stage")
    parser.add_argument("--watch", action="store_true", help="go on until the run ends")
    parser = _run_verb(verbs, "why", "loop:why", "show which fields made a stage of a run run again")
    parser.add_argument("stage", help="label (round_2/dpo) or stage name (dpo)")


def _run_verb(verbs: argparse._SubParsersAction, name: str, function: str, text: str) -> argparse.ArgumentParser:
    parser = _verb(verbs, name, function, text)
    parser.add_argument("run", help="name of a run, or its folder")
    parser.add_argument("--root", default=".", help="folder that holds artifacts/ and runs/ (default: here)")
    return parser


def _add_inspection(verbs: argparse._SubParsersAction) -> None:
    parser = _run_verb(verbs, "report", "inspection:report", "write the HTML page, or print the same as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = _run_verb(
        verbs, "trace", "lineage:trace", "follow a row to the checkpoints that it trained, or a checkpoint to its rows"
    )
    parser.add_argument("row_id", nargs="?", help="prompt_id or its beginning, or prompt_id:sample_index")
    parser.add_argument("--model", help="what trained it: best, round_2, round_2/sft, a student's name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", metavar="FILE.parquet", help="with --model, write every answer that trained it")
    parser.add_argument("--text", action="store_true", help="with --out, add prompts and completions")
    _run_verb(verbs, "verify", "inspection:verify", "compare every artifact's bytes with its manifest")
    parser = _run_verb(verbs, "export", "inspection:export", "copy a model of a run as a plain Hugging Face folder")
    parser.add_argument("--model", required=True, help="best, base, round_2, round_2/sft, or a student's name")
    parser.add_argument("--out", required=True, help="folder to make")
    parser = _verb(verbs, "chat", "inspection:chat", "talk to a checkpoint in the terminal")
    parser.add_argument("model", metavar="DIR", help="Hugging Face folder")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--max-completion-tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)


def _add_files(verbs: argparse._SubParsersAction) -> None:
    _add_sample(verbs)
    _add_score(verbs)
    _add_select(verbs)
    _add_train(verbs)
    _add_winrate(verbs)
    _add_evaluate(verbs)
    _add_labelling(verbs)


def _add_sample(verbs: argparse._SubParsersAction) -> None:
    parser = _verb(verbs, "sample", "files:sample", "draw K completions for every prompt of a file")
    parser.add_argument("--model", required=True, help=MODEL)
    parser.add_argument("--prompts", required=True, help="JSON Lines or Parquet")
    parser.add_argument("--num-completions", type=int, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, default=0, help="0: off")
    parser.add_argument("--max-completion-tokens", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True, help="folder")
    parser.add_argument("--date", help=DATE)
    parser.add_argument("--engine", choices=("transformers", "openai", "vllm", "scripted"), default="transformers")
    parser.add_argument("--base-url", help="server of --engine openai, ending in /v1")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY", help="environment variable that holds the key")
    parser.add_argument("--dialect", choices=("extended", "openai", "transformers"), help=DIALECT)
    parser.add_argument("--local-copy", metavar="DIR", help=LOCAL_COPY)
    parser.add_argument("--max-doubtful-share", type=float, default=0.5, metavar="SHARE", help=DOUBTFUL)
    parser.add_argument("--unchecked", action="store_true", help=UNCHECKED)
    parser.add_argument("--workers", type=_count, default=1, help=WORKERS)
    parser.add_argument("--ray", metavar="ADDRESS", help=RAY)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="auto")


def _add_score(verbs: argparse._SubParsersAction) -> None:
    parser = _verb(verbs, "score", "files:score", "score completions with a reward model")
    parser.add_argument("--reward-model", required=True, help="Hugging Face folder")
    parser.add_argument("--completions", required=True, help="JSON Lines or Parquet")
    parser.add_argument("--date", help=DATE)
    parser.add_argument("--out", required=True, help="folder")
    parser.add_argument("--workers", type=_count, default=1, help="processes, each with a model of its own")
    parser.add_argument("--ray", metavar="ADDRESS", help=RAY)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="auto")


def _add_select(verbs: argparse._SubParsersAction) -> None:
    parser = _verb(verbs, "select", "files:select", "choose SFT rows and DPO pairs among scored completions")
    parser.add_argument("--scored", required=True, help="JSON Lines or Parquet")
    parser.add_argument("--rule", required=True, help=RULES)
    parser.add_argument("--margin", type=float, default=0.0, help="smallest score gap of a pair")
    parser.add_argument("--min-score", type=float, help="least score of an answer to train on (default: none)")
    parser.add_argument("--num-pairs", type=_count, default=1, help="most pairs of a prompt (default: 1)")
    parser.add_argument("--length-penalty", type=float, default=0.0, help=LENGTH_PENALTY)
    parser.add_argument("--out", required=True, help="folder")


def _add_train(verbs: argparse._SubParsersAction) -> None:
    parser = _verb(verbs, "train", "files:train", "train a model on rows of a file")
    parser.add_argument("kind", choices=("sft", "dpo", "reward-model", "distill"))
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--data", required=True, help="JSON Lines or Parquet")
    parser.add_argument("--out", help="folder; not needed with --show-tokens")
    parser.add_argument("--teacher", help="Hugging Face folder, for distill")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--show-tokens", action="store_true", help="train nothing; show the first rows with their masks"
    )
    parser.add_argument("--token-view", choices=("auto", "color", "marks", "json"), default="auto", help=TOKEN_VIEW)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example learning_rate=1e-5 epochs=1")


def _add_winrate(verbs: argparse._SubParsersAction) -> None:
    parser = _verb(verbs, "winrate", "files:winrate", "compare the completions of two models")
    parser.add_argument("--a", required=True, help="completions of A")
    parser.add_argument("--b", required=True, help="completions of B")
    parser.add_argument("--judge", required=True, help=JUDGES)
    parser.add_argument("--judge-template", metavar="FILE", help="question that llm or rubric asks (default: built in)")
    parser.add_argument("--out", required=True, help="folder")
    parser.add_argument("--max-completion-tokens", type=_count, help="longest reply of llm and rubric (default: 512)")
    parser.add_argument("--dialect", choices=("extended", "openai", "transformers"), help=DIALECT)
    parser.add_argument("--seed", type=int, default=0, help="of the calls of llm and rubric")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_evaluate(verbs: argparse._SubParsersAction) -> None:
    parser = _verb(verbs, "evaluate", "evaluation:evaluate", "run lm-evaluation-harness on a checkpoint")
    parser.add_argument("--model", required=True, help="Hugging Face folder; with --run a model of it")
    parser.add_argument("--harness", required=True, metavar="TASKS", help="names of tasks, with commas between")
    parser.add_argument("--run", help="name of a run, or its folder: its report shows the numbers")
    parser.add_argument("--root", default=".", help="folder that holds artifacts/ and runs/ (default: here)")
    parser.add_argument("--include-path", metavar="DIR", help="folder with further tasks, as YAML")
    parser.add_argument("--limit", type=_count, help="first documents of each task (default: all)")
    parser.add_argument("--num-fewshot", type=int, help="solved examples before each question (default: the task's)")
    parser.add_argument("--chat-template", action="store_true", help="ask in the model's chat template")
    parser.add_argument("--batch-size", type=_count, default=8, help="documents of one forward pass")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of solved examples")
    parser.add_argument("--out", help="folder for harness.json; not needed with --run")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_labelling(verbs: argparse._SubParsersAction) -> None:
    parser = _verb(verbs, "pairs", "labelling:pairs", "write pairs of answers for people to label, blind to the models")
    parser.add_argument("--a", required=True, help="completions of A; with --run a model: best, base, round_1/sft, …")
    parser.add_argument("--b", required=True, help="completions of B, or a model")
    parser.add_argument("--run", help="name of a run, or its folder: its answers to the held-out prompts")
    parser.add_argument("--root", default=".", help="folder that holds artifacts/ and runs/ (default: here)")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--num-samples", type=_count, default=1, help="most samples of a prompt (default: 1)")
    parser.add_argument("--num-pairs", type=_count, help="most pairs, drawn at random (default: all)")
    parser.add_argument("--out", required=True, help="folder")

    parser = _verb(verbs, "labels", "labelling:labels", "tell labels on pairs for A and B, as verdicts and preferences")
    parser.add_argument("--key", required=True, help="key.jsonl of posttrain pairs")
    parser.add_argument("--labels", required=True, help="JSON Lines or Parquet: pair_id and choice or preference")
    parser.add_argument("--out", required=True, help="folder")


if __name__ == "__main__":
    sys.exit(main())
