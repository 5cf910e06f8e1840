"""Commands on files, one stage at a time: sample, score, select, train, winrate."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from posttrain.config import DistillConfig, DPOConfig, Execution, RewardModelConfig, SFTConfig, TrainConfig
from posttrain.core.errors import DataError
from posttrain.core.files import read_rows, write_jsonl
from posttrain.core.formats import read_prompts
from posttrain.core.model_files import check_model_dir, resolve

CONFIGS: dict[str, type[TrainConfig]] = {
    "sft": SFTConfig,
    "dpo": DPOConfig,
    "reward-model": RewardModelConfig,
    "distill": DistillConfig,
}


def sample(args: Namespace) -> None:
    """Draw K completions for every prompt of a file."""
    rows, rejects = read_prompts(args.prompts)
    if not rows:
        shown = "; ".join(f"line {reject['line']}: {reject['reason']}" for reject in rejects[:5])
        raise DataError(f"{args.prompts} has no prompt that can be used ({shown or 'it is empty'})")
    sampling = {
        "num_completions": args.num_completions,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "max_completion_tokens": args.max_completion_tokens,
    }
    from posttrain.sampling import sample_file

    summary = sample_file(rows, rejects, sampling, args, progress=_progress("samples"))
    print(json.dumps(summary, indent=1, ensure_ascii=False))


def score(args: Namespace) -> None:
    """Score completions with a reward model."""
    from posttrain.engines import device_of
    from reward.score_files import ScoreJob, score_with_workers

    check_model_dir(args.reward_model)
    job = ScoreJob(
        reward_model=args.reward_model,
        completions=args.completions,
        out=args.out,
        dtype=args.dtype,
        device=device_of(Execution(device=args.device)),
    )
    print(json.dumps(score_with_workers(job, args.workers, _progress("rows")), indent=1, ensure_ascii=False))


def select(args: Namespace) -> None:
    """Choose SFT rows and DPO pairs among scored completions."""
    from reward.select import select_file

    summary = select_file(args.scored, args.out, rule=args.rule, margin=args.margin)
    print(json.dumps(summary, indent=1, ensure_ascii=False))


def train(args: Namespace) -> None:
    """Train a model on the rows of a file."""
    from posttrain.settings import read_settings
    from posttrain.train.run import show_tokens, train_file

    defaults = (
        {"epochs": 1.0} if not {"epochs", "max_steps"} & {item.partition("=")[0] for item in args.overrides} else {}
    )
    config = read_settings(CONFIGS[args.kind], args.overrides, defaults)
    model = resolve(args.model)
    check_model_dir(model)
    if args.show_tokens:
        show_tokens(args.kind, model, Path(args.data), config)
        return
    if args.out is None:
        raise DataError("train needs --out DIR for the trained model")
    if args.kind == "distill" and args.teacher is None and config.identity()["method"] != "sequence":
        raise DataError("train distill needs --teacher DIR (a Hugging Face folder), or method=sequence")
    teacher = None if args.teacher is None else resolve(args.teacher)
    metrics = train_file(
        args.kind, model, Path(args.data), Path(args.out), config, teacher, Execution(), _progress("steps")
    )
    print(json.dumps(metrics, indent=1, ensure_ascii=False))


def winrate(args: Namespace) -> None:
    """Compare the completions of two models, joined by prompt_id."""
    from posttrain.core.files import atomic_write
    from posttrain.evaluate.compare import compare
    from posttrain.evaluate.win_rate import win_rate

    verdicts = compare(read_rows(args.a), read_rows(args.b), args.judge)
    result = win_rate(verdicts, args.seed)
    out = Path(args.out)
    write_jsonl(out / "verdicts.jsonl", verdicts)
    atomic_write(out / "win_rate.json", json.dumps(result, indent=1) + "\n")
    if args.json:
        print(json.dumps(result, indent=1))
        return
    controlled = result["length_controlled"]["win_rate"]
    print(
        f"win rate of A over B: {result['win_rate']:.3f}  95 % interval [{result['low']:.3f}, {result['high']:.3f}]\n"
        f"{result['num_pairs']} prompts: {result['wins']} wins, {result['ties']} ties, {result['losses']} losses; "
        f"{result['unreadable']} unreadable verdicts"
    )
    if controlled is not None:
        print(f"length-controlled: {controlled:.3f}")


def _progress(unit: str) -> Callable[[int, int], None]:
    """Return a counter that redraws one line on a terminal and stays silent elsewhere."""
    if not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{done:,} of {total:,} {unit}", end=end, file=sys.stderr, flush=True)

    return show
