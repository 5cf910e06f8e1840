"""Commands on files, one stage at a time: sample, score, select, train, winrate."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.commands.output import only_results
from posttrain.commands.token_view import render_tokens, view_for
from posttrain.core.errors import DataError
from posttrain.core.files import read_rows, write_jsonl
from posttrain.core.formats import read_checked_rows
from posttrain.core.model_files import check_model_dir, resolve


def sample(args: Namespace) -> None:
    """Draw K completions for every prompt of a file."""
    if args.engine == "scripted":
        from posttrain.scripted import sample_file
    else:
        from posttrain.sampling import sample_file  # loads torch

    with only_results():  # vLLM and a Ray cluster print, and that is no part of the summary
        summary = sample_file(args, _progress("samples"))
    if not summary["num_completions"]:
        raise DataError(f"{args.prompts} has no prompt that can be used ({_first_rejects(args.out) or 'it is empty'})")
    print(json.dumps(summary, indent=1, ensure_ascii=False))


def _first_rejects(out: str) -> str:
    rejects = read_rows(Path(out) / "rejects.jsonl")
    return "; ".join(f"line {reject['line']}: {reject['reason']}" for reject in rejects[:5])


def score(args: Namespace) -> None:
    """Score completions with a reward model."""
    from posttrain.config import Execution  # here and below: it takes half of what a command needs to start
    from posttrain.engines import device_of
    from reward.score_files import ScoreJob, score_with_workers

    check_model_dir(args.reward_model)
    job = ScoreJob(
        reward_model=args.reward_model,
        completions=args.completions,
        out=args.out,
        date=args.date,
        dtype=args.dtype,
        device=args.device if args.ray else device_of(Execution(device=args.device)),
    )
    with only_results():
        summary = score_with_workers(job, args.workers, _progress("rows"), args.ray)
    _refuse_nothing(args.completions, summary["completions"])
    if not summary["scored"]:
        raise DataError(f"{args.completions} has no completion that can be scored ({_first_rejects(args.out)})")
    print(json.dumps(summary, indent=1, ensure_ascii=False))


def select(args: Namespace) -> None:
    """Choose SFT rows and DPO pairs among scored completions."""
    from reward.select import select_file

    summary = select_file(
        args.scored,
        args.out,
        rule=args.rule,
        margin=args.margin,
        min_score=args.min_score,
        num_pairs=args.num_pairs,
        length_penalty=args.length_penalty,
    )
    _refuse_nothing(args.scored, summary["completions"])
    if not summary["prompts"]:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in summary["drop_reasons"].items())
        raise DataError(f"{args.scored} has no row that can be used ({reasons}); give what `posttrain score` wrote")
    print(json.dumps(summary, indent=1, ensure_ascii=False))


def _refuse_nothing(path: str, num_rows: int) -> None:
    if not num_rows:
        raise DataError(f"{path} holds no rows; expected completion rows, as `posttrain sample` writes them")


def train(args: Namespace) -> None:
    """Train a model on the rows of a file."""
    from posttrain.config import Execution
    from posttrain.settings import read_settings
    from posttrain.train.run import CONFIGS, train

    kind = args.kind.replace("-", "_")
    given = {item.partition("=")[0] for item in args.overrides}
    config = read_settings(CONFIGS[kind], args.overrides, {} if given & {"epochs", "max_steps"} else {"epochs": 1.0})
    rows = _training_rows(kind, args.data)
    if args.show_tokens:
        from posttrain.train.tokens import show_tokens

        model = resolve(args.model)
        check_model_dir(model)
        _print_tokens(kind, show_tokens(kind, model, rows, config), args.token_view)
        return
    if args.out is None:
        raise DataError("train needs --out DIR for the trained model")
    Path(args.out).mkdir(parents=True, exist_ok=True)  # a place that cannot be written shows before anything is loaded
    teacher = None if args.teacher is None else resolve(args.teacher)
    seed = 0 if config.seed is None else config.seed
    model = resolve(args.model)
    with only_results():  # trackers print, and that is no part of the metrics
        execution = Execution(device=args.device)
        metrics = train(kind, model, rows, args.out, config, seed, execution, teacher, _progress("steps"))
    print(json.dumps(metrics, indent=1, ensure_ascii=False))


def _training_rows(kind: str, path: str) -> list[dict[str, Any]]:
    """Read rows with every fault named by its line; a reward model's file may mix pairs and rankings."""
    rows = read_rows(path)
    first = rows[0] if rows else {}
    if kind in ("sft", "distill"):
        return read_checked_rows(path, "completion" if first.get("messages") is None else "messages")
    forms = {"preference" if row.get("completions") is None or kind == "dpo" else "ranking" for row in rows}
    return rows if len(forms) == 2 else read_checked_rows(path, "ranking" if forms == {"ranking"} else "preference")


def _print_tokens(kind: str, lines: list[dict[str, Any]], asked: str) -> None:
    """Print tokens with their mask: for a person on a terminal, JSON lines elsewhere."""
    view = view_for(sys.stdout, asked)
    if view == "json":
        for line in lines:
            print(json.dumps(line, ensure_ascii=False))
    else:
        print("\n".join(render_tokens(kind, lines, view)))


def winrate(args: Namespace) -> None:
    """Compare the completions of two models, joined by prompt_id."""
    from posttrain.core.files import atomic_write
    from posttrain.evaluate.compare import compare, judge_identity
    from posttrain.evaluate.pairing import pair_rows
    from posttrain.evaluate.win_rate import told_left_out, win_rate
    from reward.judges.asking import JOURNAL

    rows_a, rows_b = read_rows(args.a), read_rows(args.b)
    for path, rows in ((args.a, rows_a), (args.b, rows_b)):
        _refuse_nothing(path, len(rows))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)  # a place that cannot be written should not cost the judging first
    names = (f"A ({args.a})", f"B ({args.b})")
    alone = pair_rows(rows_a, rows_b, names).alone
    longest = args.max_completion_tokens
    judge = judge_identity(args.judge, args.judge_template, longest)
    _refuse_another_judge(out / "win_rate.json", judge)
    asked = _progress("replies", is_told=True)
    with only_results():
        verdicts = compare(
            rows_a, rows_b, args.judge, args.judge_template, args.seed, out, names, longest, judge, asked, args.dialect
        )
    write_jsonl(out / "verdicts.jsonl", verdicts)  # first: where no verdict is readable, the replies say why
    (out / JOURNAL).unlink(missing_ok=True)
    result = {**win_rate(verdicts, alone), "judge": judge}
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
    if told := told_left_out(result):
        print(f"left out: {told}")
    if controlled is not None:
        print(f"length-controlled: {controlled:.3f}")
    if "flip_rate" in result:
        print(f"verdicts that changed with the order of the answers: {result['flip_rate']:.3f}")


def _refuse_another_judge(path: Path, judge: dict[str, Any]) -> None:
    """Refuse to write a win rate over that of another judge; one that cannot be read is no win rate of anybody."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["judge"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    from reward.verifiers.record import differences

    if changed := differences(there, judge):
        raise DataError(
            f"{path} holds the win rate of another judge ({'; '.join(changed)}) - give another --out, or remove it"
        )


LINE_SECONDS = 10.0
"""Between two lines of progress where standard error is no terminal."""


def _progress(unit: str, is_told: bool = False) -> Callable[[int, int], None]:
    """Return a counter that redraws one line on a terminal.

    Args:
        is_told: elsewhere, write a line now and then; else stay silent there.
    """
    if not sys.stderr.isatty():
        return _lines_of_progress(unit) if is_told else lambda done, total: None

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{done:,} of {total:,} {unit}", end=end, file=sys.stderr, flush=True)

    return show


def _lines_of_progress(unit: str) -> Callable[[int, int], None]:
    """Return a counter that writes a line at the start, at the end and every few seconds between."""
    last = -LINE_SECONDS

    def tell(done: int, total: int) -> None:
        nonlocal last
        if done >= total or time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print(f"{done:,} of {total:,} {unit}", file=sys.stderr, flush=True)

    return tell
