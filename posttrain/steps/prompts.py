"""Point 3 of a round: prompts from files, from the practice world and from the teacher, and their cleaning."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from posttrain.config import Cleaning, EndpointModel, Magpie, PracticePrompts, PromptFile, SelfInstruct
from posttrain.core.chat import encode_prompt, load_tokenizer
from posttrain.core.errors import DataError
from posttrain.core.files import read_rows, write_jsonl
from posttrain.core.formats import Message, prompt_id
from posttrain.core.prompts import read_prompts
from posttrain.engines import open_engine, open_tokenizer, params_of, text_generator
from posttrain.functions import load_function
from posttrain.practice.world import make_prompts
from posttrain.stages import StageCall
from synth.dedup.decontaminate import decontaminate
from synth.dedup.exact import exact_duplicates
from synth.dedup.near import near_duplicates
from synth.engines.recorded import RecordedEngine
from synth.filters.control_tokens import drop_control_tokens
from synth.filters.length import keep_token_count
from synth.filters.partition import Filter, clean, kind_of, partition
from synth.filters.repetition import drop_repetition
from synth.filters.script import drop_mixed_scripts
from synth.prompts.magpie import magpie
from synth.prompts.self_instruct import self_instruct
from synth.prompts.template import load_template

Row = dict[str, Any]

JOURNAL = "samples.journal.jsonl"
"""File of a generator's folder that keeps what the teacher wrote until prompts are made of it."""


def source_prompts(
    call: StageCall, source: PromptFile | PracticePrompts, content: str | None, seed: int, part: int, num_parts: int
) -> dict[str, Any]:
    """Take one of `num_parts` disjoint parts of a file's or the practice world's prompts."""
    # By content: two files may number their rows alike, and one prompt may have two names.
    excluded = {prompt_id(row["prompt"]) for row in _rows_of(call.inputs["exclude"])}
    rejects: list[Row] = []
    if isinstance(source, PracticePrompts):
        try:
            rows = make_prompts(source.num_prompts, seed, excluded, source.held_out)
        except ValueError as error:
            raise DataError(str(error)) from error
    else:
        rows, rejects = read_prompts(source.path)
        rows = [{"source": "file", **row} for row in rows if prompt_id(row["prompt"]) not in excluded]
        random.Random(seed).shuffle(rows)
        if source.num_prompts is not None:
            rows = _at_least(rows, source.num_prompts, source.path)[: source.num_prompts]
    rows = rows[part - 1 :: num_parts]
    if not rows:
        raise DataError(f"no prompts left for part {part} of {num_parts}; the source needs at least {num_parts}")
    write_jsonl(call.out / "prompts.jsonl", rows)
    write_jsonl(call.out / "rejects.jsonl", rejects)
    return {"num_prompts": len(rows), "num_rejects": len(rejects)}


def _at_least(rows: list[Row], num_prompts: int, path: str) -> list[Row]:
    if len(rows) < num_prompts:
        raise DataError(f"{path} has {len(rows)} usable prompts, the recipe asks for {num_prompts}; lower num_prompts")
    return rows


def write_self_instruct(
    call: StageCall, generator: SelfInstruct, endpoint: EndpointModel | None, content: str | None, seed: int, round: int
) -> dict[str, Any]:
    """Let the teacher continue lists of known tasks with new ones."""
    model = call.inputs.get("model")
    engine, tokenizer = open_engine(model, endpoint, call.execution), open_tokenizer(model)
    params = params_of({**generator.model_dump(), "top_k": 0}, tokenizer, model)
    with RecordedEngine(engine, call.out / JOURNAL) as recorded:
        rows, dropped = self_instruct(
            _rows_of([call.inputs["seeds"]]),
            text_generator(recorded, tokenizer, params, call.template_date),
            num_prompts=generator.num_prompts,
            num_demonstrations=generator.num_demonstrations,
            template=load_template(template_file(generator.template)),
            seed=seed,
            round=round,
            num_machine=generator.num_machine,
            known=_rows_of(call.inputs["known"]),
            max_rouge_l=generator.max_rouge_l,
        )
    return _written(call, rows, dropped)


def write_magpie(
    call: StageCall, generator: Magpie, endpoint: EndpointModel | None, content: str | None, seed: int, round: int
) -> dict[str, Any]:
    """Let the teacher complete the opening of user turns."""
    model = call.inputs["model"]
    engine, tokenizer = open_engine(model, endpoint, call.execution), open_tokenizer(model)
    params = params_of({**generator.model_dump(), "top_k": 0}, tokenizer, model)
    with RecordedEngine(engine, call.out / JOURNAL) as recorded:
        rows, dropped = magpie(
            recorded,
            tokenizer,
            num_prompts=generator.num_prompts,
            params=params,
            seed=seed,
            round=round,
            num_turns=generator.num_turns,
            date=call.template_date,
        )
    return _written(call, rows, dropped)


def template_file(template: str) -> str:
    """Return the file of the practice world's template, other names as they are."""
    return str(files("posttrain.practice") / "templates" / "self_instruct.txt") if template == "practice" else template


def clean_prompts(
    call: StageCall,
    cleaning: Cleaning,
    check_content: str | None,
    num_prompts: int,
    min_prompts: int,
    seed: int,
    round: int,
) -> dict[str, Any]:
    """Drop what is no use, each with a reason: broken, too long, known, near a known one, or an evaluation prompt."""
    known, held_out = _rows_of(call.inputs["known"]), _rows_of([call.inputs["held_out"]])
    written = own_names(_rows_of(call.inputs["written"]), {row["prompt_id"] for row in [*known, *held_out]})
    filters = _filters(call, cleaning, known, held_out)
    kept, dropped, counts = clean(written, filters, cleaning.max_drop_rate)
    if len(kept) < min_prompts:
        raise DataError(
            f"{len(kept)} of {len(written)} written prompts passed the cleaning, the recipe asks for at least "
            f"{min_prompts} (prompts.min_prompts); dropped: {counts['reasons']}. Write more prompts or loosen cleaning"
        )
    random.Random(seed).shuffle(kept)
    surplus = [{**row, "drop_reason": "over_num_prompts"} for row in kept[num_prompts:]]
    kept = [{**row, "round": round} for row in kept[:num_prompts]]
    write_jsonl(call.out / "prompts.jsonl", kept)
    write_jsonl(call.out / "dropped.jsonl", [*dropped, *surplus])
    return {
        "num_written": len(written),
        "num_prompts": len(kept),
        "num_surplus": len(surplus),
        "dropped": counts["reasons"],
        "sources": dict(Counter(row["source"] for row in kept)),
    }


def own_names(rows: Iterable[Row], taken: set[str]) -> list[Row]:
    """Name a row by its content where its id is taken: files that number their rows alike would else be mixed up.

    Such a row keeps its first id as `renamed_from`. Which prompts a generator showed stays with what it wrote, where a
    trace finds it: nothing that is made of a prompt carries `demonstrations` along.
    """
    used = set(taken)
    named: list[Row] = []
    for row in rows:
        first = row["prompt_id"]
        name = first if first not in used else prompt_id(row["prompt"], row.get("tools"))
        used.add(name)
        kept = {key: value for key, value in row.items() if key != "demonstrations"}
        named.append({**kept, "prompt_id": name} | ({} if name == first else {"renamed_from": first}))
    return named


def _filters(call: StageCall, cleaning: Cleaning, known: list[Row], held_out: list[Row]) -> dict[str, Filter]:
    """Return the filters in the order in which they run: cheap ones first, comparisons with other rows last."""
    tokenizer = load_tokenizer(call.inputs["model"])

    def count_tokens(messages: Sequence[Message]) -> int:
        return len(encode_prompt(tokenizer, list(messages), call.template_date))

    filters: dict[str, Filter] = {
        "control_tokens": lambda rows: drop_control_tokens(rows, tokenizer),
        "length": lambda rows: keep_token_count(rows, count_tokens, cleaning.min_tokens, cleaning.max_tokens),
        "repetition": lambda rows: drop_repetition(rows, cleaning.max_repeated_share, part="prompt"),
        "exact_duplicates": lambda rows: exact_duplicates(rows, against=[*known, *held_out]),
        "decontaminate": lambda rows: decontaminate(rows, {"eval_prompts": held_out}, cleaning.decontaminate_threshold)[
            :2
        ],
    }
    if cleaning.check is not None:
        check = load_function(cleaning.check)
        filters["check"] = lambda rows: partition(rows, lambda row: check(row["prompt"]))
    if cleaning.near_duplicate_threshold is not None:
        threshold = cleaning.near_duplicate_threshold
        filters["near_duplicates"] = lambda rows: near_duplicates(rows, threshold, against=known)
    if cleaning.script_match:
        filters["mixed_scripts"] = drop_mixed_scripts
    return filters


def _rows_of(paths: Iterable[Path]) -> list[Row]:
    return [row for path in paths for row in read_rows(path / "prompts.jsonl")]


def _written(call: StageCall, rows: list[Row], dropped: list[Row]) -> dict[str, Any]:
    write_jsonl(call.out / "prompts.jsonl", rows)
    write_jsonl(call.out / "dropped.jsonl", dropped)
    (call.out / JOURNAL).unlink()
    reasons = Counter(kind_of(row["drop_reason"]) for row in dropped)
    return {"num_prompts": len(rows), "dropped": dict(reasons.most_common())}
