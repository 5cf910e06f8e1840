"""Compare two files of completions by a judge named in one word: ``kind:target``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from posttrain.core.errors import DataError
from posttrain.core.files import read_text, sha256_file
from posttrain.core.model_files import check_model_dir, model_hash, resolve
from posttrain.evaluate.labels import labels_of_models, read_labels
from posttrain.evaluate.pairing import check_completions, mean_length, pair_rows, pair_scores
from posttrain.functions import function_content
from reward.judges.asking import JOURNAL
from reward.judges.quoting import read_template
from reward.verifiers.settings import parse_verifier
from synth.engines.chat_api import Dialect

Row = dict[str, Any]


@dataclass(frozen=True)
class Asking:
    """How a judge is asked; each takes of it what it needs.

    Attributes:
        template: file of the question that ``llm`` and ``rubric`` ask; the built-in one when None.
        seed: of their calls.
        out: folder for what is judged so far; None keeps nothing.
        names: what the rows of A and of B are, for messages.
        max_completion_tokens: longest reply of ``llm`` and ``rubric``; their default when None.
        who: the judge, as ``judge_identity`` tells it: replies of another are refused.
        progress: called with (replies there, replies wanted) by ``llm`` and ``rubric``.
        dialect: parameters that their server understands; guessed when None.
    """

    template: Path | None
    seed: int
    out: Path | None
    names: tuple[str, str]
    max_completion_tokens: int | None = None
    who: Row = field(default_factory=dict)
    progress: Callable[[int, int], None] | None = None
    dialect: Dialect | None = None


Compare = Callable[[list[Row], list[Row], str, Asking], list[Row]]

Judge = TypeVar("Judge")

log = logging.getLogger(__name__)

EXPECTED = "reward_model:DIR, verifier:FILE.py:FUNCTION, llm:DIR-or-URL, rubric:DIR-or-URL or labels:FILE"


def compare(
    rows_a: Iterable[Row],
    rows_b: Iterable[Row],
    judge_spec: str,
    template: str | Path | None = None,
    seed: int = 0,
    out: Path | None = None,
    names: tuple[str, str] = ("A", "B"),
    max_completion_tokens: int | None = None,
    who: Row | None = None,
    progress: Callable[[int, int], None] | None = None,
    dialect: Dialect | None = None,
) -> list[Row]:
    """Give verdicts on A against B, ready for ``win_rate.win_rate``.

    Args:
        rows_a: COMPLETION rows of A, one or several per prompt.
        rows_b: COMPLETION rows of B for the same prompts. Prompts that only one side has are left out, and a warning
            names them.
        judge_spec: ``reward_model:DIR``, ``verifier:FILE.py:FUNCTION``, ``llm:DIR-or-URL``, ``rubric:DIR-or-URL`` or
            ``labels:FILE``.
        template: text file of the question that ``llm`` and ``rubric`` ask; the built-in one when None.
        seed: of their calls.
        out: folder where a verifier keeps each score as it comes, ``llm`` and ``rubric`` each reply, to go on from
            there when they were stopped. Replies stay in it (``reward.judges.asking.JOURNAL``): remove them when the
            verdicts are written.
        names: what the rows of A and of B are, for messages; with their files for example.
        max_completion_tokens: longest reply of ``llm`` and ``rubric``; their default when None.
        who: the judge, as ``judge_identity`` tells it; what is on disk of another judge is refused.
        progress: called with (replies there, replies wanted) by ``llm`` and ``rubric``.
        dialect: parameters that a judge's server understands; guessed when None.

    Returns:
        Rows of ``prompt_id``, ``preference`` (None where nobody could tell), ``length_a``, ``length_b`` in characters,
        and what the judge says besides.

    Raises:
        DataError: the judge is none of these, or takes no template; or the rows cannot be paired.
        PosttrainError: as the judge raises.
    """
    kind, target = parse_judge(judge_spec, template, max_completion_tokens)
    if dialect is not None and not (kind in READERS and target.startswith(("http://", "https://"))):
        raise DataError(
            f"judge {judge_spec!r} is no server; give --dialect {dialect} to llm: or rubric: with a URL only"
        )
    rows_a, rows_b = list(rows_a), list(rows_b)
    # Before any model is loaded: what cannot be paired should not cost the scoring first.
    pairing = pair_rows(rows_a, rows_b, names)
    for rows, name in zip((rows_a, rows_b), names, strict=True):
        if kind != "labels":  # they are on texts that others have read
            check_completions(rows, name)
    warn_missing(names[0], pairing.missing_in_a)
    warn_missing(names[1], pairing.missing_in_b)
    path = None if template is None else Path(template)
    asking = Asking(path, seed, out, names, max_completion_tokens, who or {}, progress, dialect)
    return JUDGES[kind](rows_a, rows_b, target, asking)


def warn_missing(where: str, prompt_ids: Sequence[str]) -> None:
    """Say which prompts are left out because one side lacks them."""
    if prompt_ids:
        shown = ", ".join(prompt_ids[:5]) + (", …" if len(prompt_ids) > 5 else "")
        log.warning("%d prompts are not in %s and are left out: %s", len(prompt_ids), where, shown)


def parse_judge(
    judge_spec: str, template: str | Path | None = None, max_completion_tokens: int | None = None
) -> tuple[str, str]:
    """Split a judge into its kind and its target.

    Raises:
        DataError: there is no such kind, no target, or a template or a longest reply for a judge that reads nothing.
    """
    kind, _, target = judge_spec.partition(":")
    if kind not in JUDGES or not target:
        raise DataError(f"judge is {judge_spec!r}; expected {EXPECTED}")
    if template is not None and kind not in READERS:
        raise DataError(
            f"judge {judge_spec!r} reads no template; give --judge-template {template} to llm: or rubric: only"
        )
    if max_completion_tokens is not None and kind not in READERS:
        raise DataError(
            f"judge {judge_spec!r} writes no reply; give --max-completion-tokens {max_completion_tokens} to llm: or "
            "rubric: only"
        )
    return kind, target


def judge_identity(
    judge_spec: str, template: str | Path | None = None, max_completion_tokens: int | None = None
) -> Row:
    """Say who judges, so that verdicts of another judge of the same name are not taken for its own.

    Returns:
        ``judge`` as it was typed, ``template`` (text), and by content: the hash of a folder or file, or a server's
        address, model and what it says of that model.

    Raises:
        DataError: as ``parse_judge``; or there is no such folder, file or server.
    """
    kind, target = parse_judge(judge_spec, template, max_completion_tokens)
    who: Row = {"judge": judge_spec, "template": template_text(judge_spec, template)}
    if kind == "labels":
        return {**who, "content": sha256_file(target)}
    if kind == "verifier":
        return {**who, "content": function_content(parse_verifier(target)[0])}
    if kind in READERS:
        from posttrain.evaluate.llm_judge import Reader, is_server, open_endpoint, server_card  # loads torch

        who["max_completion_tokens"] = max_completion_tokens or Reader().max_completion_tokens
        if is_server(target):
            endpoint = open_endpoint(target)
            server = {"url": endpoint.base_url, "model": endpoint.model, "says": server_card(endpoint)}
            return {**who, "server": server}
    folder = resolve(target)
    check_model_dir(folder)
    return {**who, "content": model_hash(folder)}


def template_text(judge_spec: str, template: str | Path | None) -> str | None:
    """Give the text of the template that a judge asks with, for the record; None for judges that ask nothing.

    Raises:
        RewardError: the template cannot be used.
    """
    from reward.judges import pairwise, rubric

    asking = {"llm": pairwise, "rubric": rubric}.get(judge_spec.partition(":")[0])
    if asking is None:
        return None
    read_template(template or asking.TEMPLATE, asking.PLACES)
    return read_text(template or asking.TEMPLATE)


def by_reward_model(rows_a: list[Row], rows_b: list[Row], folder: str, _: Asking) -> list[Row]:
    """Let a reward model's score decide; equal scores tie."""
    # torch takes seconds to load, and labels need none of it
    from posttrain.config import Execution
    from posttrain.core.chat import load_tokenizer
    from posttrain.core.models import load_reward_model
    from posttrain.engines import device_of
    from reward.score import score_rows

    path, execution = resolve(folder), Execution()
    check_model_dir(path)
    model, tokenizer = load_reward_model(path, device=device_of(execution)), load_tokenizer(path)
    scored_a = score_rows(rows_a, model, tokenizer, execution.max_batch_tokens)
    scored_b = score_rows(rows_b, model, tokenizer, execution.max_batch_tokens)
    return pair_scores(scored_a, scored_b)


def by_verifier(rows_a: list[Row], rows_b: list[Row], function: str, asking: Asking) -> list[Row]:
    """Let a verifier's score decide; equal scores tie, and an answer that it failed on has no say."""
    from posttrain.evaluate.verified import compare_by_verifier

    return compare_by_verifier(rows_a, rows_b, function, asking.out, asking.names)


def by_llm(rows_a: list[Row], rows_b: list[Row], target: str, asking: Asking) -> list[Row]:
    """Let a language model read both answers, in both orders."""
    from posttrain.evaluate.llm_judge import compare_by_llm
    from reward.judges.pairwise import TEMPLATE, PairwiseJudge

    return compare_by_llm(rows_a, rows_b, _reader(PairwiseJudge, TEMPLATE, target, asking))


def by_rubric(rows_a: list[Row], rows_b: list[Row], target: str, asking: Asking) -> list[Row]:
    """Let a language model rate each answer alone."""
    from posttrain.evaluate.llm_judge import compare_by_rubric
    from reward.judges.rubric import TEMPLATE, RubricJudge

    return compare_by_rubric(rows_a, rows_b, _reader(RubricJudge, TEMPLATE, target, asking))


def _reader(judge: Callable[..., Judge], built_in: Path, target: str, asking: Asking) -> Judge:
    """Open a judge that reads; its weights are loaded at the first question."""
    from posttrain.evaluate.llm_judge import Reader, deferred, retries_of

    journal = None if asking.out is None else asking.out / JOURNAL
    longest = asking.max_completion_tokens or Reader().max_completion_tokens
    generate = deferred(target, Reader(asking.seed, longest, journal, asking.who, asking.progress, asking.dialect))
    return judge(generate, asking.template or built_in, num_retries=retries_of(target))


def by_labels(rows_a: list[Row], rows_b: list[Row], file: str, _: Asking) -> list[Row]:
    """Take people's preferences from a file; a warning names labelled prompts that A and B do not share."""
    labels = labels_of_models(read_labels(Path(file)), _models(rows_a), _models(rows_b), file)
    lengths = {
        prompt_id: {"length_a": mean_length(samples_a), "length_b": mean_length(samples_b)}
        for prompt_id, samples_a, samples_b in pair_rows(rows_a, rows_b).prompts
    }
    used = [label for label in labels if label["prompt_id"] in lengths]
    if not used:
        raise DataError(f"{file}: none of its {len(labels)} labels is on a prompt that A and B share; check the ids")
    labelled = {label["prompt_id"] for label in labels}
    warn_missing("both A and B, though labelled,", sorted(labelled - lengths.keys()))
    warn_missing(f"{file}, though both A and B have them,", sorted(lengths.keys() - labelled))
    # lengths that a label brings are those of the very samples that were read
    return [{**lengths[label["prompt_id"]], **label} for label in used]


def _models(rows: list[Row]) -> set[str]:
    return {row["model"] for row in rows if isinstance(row.get("model"), str)}


JUDGES: dict[str, Compare] = {
    "reward_model": by_reward_model,
    "verifier": by_verifier,
    "llm": by_llm,
    "rubric": by_rubric,
    "labels": by_labels,
}
READERS = ("llm", "rubric")
"""Judges that are asked by a template."""
