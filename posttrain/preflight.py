"""Look for every fault of a recipe and of its files before any model is loaded, and list them all at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.core.errors import PosttrainError
from posttrain.core.files import read_rows
from posttrain.core.formats import read_checked_rows, read_numbered
from posttrain.core.model_files import check_model_dir
from posttrain.core.prompts import read_prompts
from posttrain.functions import check_call, check_machine, check_options, function_file
from posttrain.recipe import Recipe, validate
from posttrain.recipe_file import FUNCTION_KEYS, READER_KINDS, raise_faults, read_data
from posttrain.train.limits import limits
from posttrain.train.tracker_names import missing_trackers
from reward.judges.pairwise import PLACES as PAIRWISE_PLACES
from reward.judges.quoting import read_template
from reward.judges.rubric import PLACES as RUBRIC_PLACES
from reward.pair_rules import RULES
from reward.preferences import check_strength_names
from synth.filters.language import check_languages
from synth.prompts.template import load_template

MAX_SHOWN = 20


def load_checked_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, check it and everything on disk that it names.

    Files are looked at even where the recipe itself has faults, so that one message holds everything there is to mend.

    Raises:
        RecipeError: Lists all faults.
    """
    data = read_data(path, overrides)
    recipe, faults = validate(data)
    faults += _name_faults(data)
    faults += [fault for where, section in _mappings(data) for fault in _faults_of(where, section, data)]
    raise_faults(str(path), faults)
    assert recipe is not None
    return recipe


def _name_faults(data: Mapping[str, Any]) -> Iterator[str]:
    """Check names that other packages own: rules of selection, templates of self-instruct, languages."""
    select, prompts = data.get("select"), data.get("prompts")
    rule = select.get("rule") if isinstance(select, Mapping) else None
    if isinstance(rule, str) and rule not in RULES:
        yield f"select.rule: unknown rule '{rule}'; there are: {', '.join(RULES)}"
    generators = prompts.get("generators") if isinstance(prompts, Mapping) else None
    for index, generator in enumerate(generators if isinstance(generators, list) else ()):
        name = generator.get("template", "practice") if isinstance(generator, Mapping) else "practice"
        if isinstance(name, str) and name != "practice" and not name.endswith(".txt"):
            yield from _caught(f"prompts.generators.{index}.template", partial(load_template, name))
    evaluate = data.get("evaluate")
    drift = evaluate.get("drift") if isinstance(evaluate, Mapping) else None
    languages = drift.get("languages") if isinstance(drift, Mapping) else None
    if languages and isinstance(languages, list) and all(isinstance(language, str) for language in languages):
        yield from _caught("evaluate.drift.languages", partial(check_languages, languages))


def _mappings(value: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping inside the data with its dotted place."""
    if isinstance(value, Mapping):
        yield where, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _mappings(item, f"{where}.{key}" if where else str(key))


def _faults_of(where: str, section: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    path = section.get("path")
    if section.get("kind") == "folder" and isinstance(path, str):
        yield from _caught(f"{where}.path", partial(check_model_dir, path))
    if section.get("kind") == "labels" and isinstance(path, str):
        yield from _caught(f"{where}.path", partial(_check_pair_labels, path, tuple(_model_names(data))))
    if section.get("kind") == "endpoint" and isinstance(section.get("local_copy"), str):
        yield from _caught(f"{where}.local_copy", partial(check_model_dir, section["local_copy"]))
    if section.get("kind") == "file" and isinstance(path, str):
        if where == "annotate.annotator":
            yield from _label_faults(where, path, _num_rounds(data))
        else:
            yield from _prompt_faults(where, section, data)
    for name in FUNCTION_KEYS:
        if isinstance(section.get(name), str):
            yield from _caught(f"{where}.{name}", partial(function_file, section[name]))
    function, options = section.get("function"), section.get("options", {})
    is_there = isinstance(function, str) and not list(_caught("", partial(function_file, function)))
    if isinstance(function, str) and is_there and isinstance(options, Mapping):
        yield from _caught(f"{where}.function", partial(check_call, function, options))
        yield from _caught(f"{where}.options", partial(check_options, function, options))
        yield from _caught(f"{where}.function", partial(check_machine, function, options))
    if "lora" in section or "checkpoint_steps" in section:
        yield from _training_faults(where, section, data)
    trackers = section.get("report_to")
    if isinstance(trackers, list):
        yield from (f"{where}.report_to: {fault}" for fault in missing_trackers(map(str, trackers)))
    template, kind = section.get("template"), section.get("kind")
    if isinstance(template, str) and kind in READER_KINDS:
        places = RUBRIC_PLACES if kind == "rubric" else PAIRWISE_PLACES
        yield from _caught(f"{where}.template", partial(read_template, template, places))
    elif isinstance(template, str) and template.endswith(".txt") and not Path(template).is_file():
        yield f"{where}.template: there is no file {template}"


def _training_faults(where: str, section: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    lora, execution = section.get("lora"), data.get("execution")
    in_4bit = isinstance(lora, Mapping) and lora.get("load_in_4bit") is True
    how = execution if isinstance(execution, Mapping) else {}
    device, sharding = str(how.get("device", "auto")), str(how.get("sharding", "none"))
    for fault in limits(in_4bit, section.get("checkpoint_steps"), device, sharding):
        yield f"{where}: {fault}"


def _caught(where: str, check: Callable[[], Any]) -> Iterator[str]:
    try:
        check()
    except PosttrainError as error:
        yield f"{where}: {error}"


def _num_rounds(data: Mapping[str, Any]) -> int:
    number = data.get("num_rounds", 1)
    return number if isinstance(number, int) else 1


def _label_faults(where: str, path: str, num_rounds: int) -> Iterator[str]:
    for name in dict.fromkeys(path.replace("{round}", str(number)) for number in range(1, num_rounds + 1)):
        yield from _caught(f"{where}.path", partial(_check_labels, name))


def _check_labels(path: str) -> None:
    rows = read_rows(path)
    read_checked_rows(path, "ranking" if rows and "completions" in rows[0] else "preference")
    check_strength_names(rows, path)


def _check_pair_labels(path: str, known: Sequence[str]) -> None:
    from posttrain.evaluate.labels import check_names, read_numbered_labels  # brings scipy: only where there are labels

    check_names(read_numbered_labels(path), known, path)


def _model_names(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all models that matrices of this recipe can have."""
    yield from ("base", "teacher")
    for number in range(1, _num_rounds(data) + 1):
        yield from (f"round_{number}", f"round_{number}/sft")
    students = data.get("students")
    for student in students if isinstance(students, list) else ():
        if isinstance(student, Mapping):
            yield f"students/{student.get('name')}"


def _prompt_faults(where: str, section: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    path = section["path"]
    try:
        rows, rejects = read_prompts(path)
    except PosttrainError as error:
        yield f"{where}.path: {error}"
        return
    broken = [reject for reject in rejects if "duplicate" not in reject["reason"]]
    for reject in broken[:MAX_SHOWN]:
        yield f"{path}:{reject['line']}: {reject['reason']}"
    if len(broken) > MAX_SHOWN:
        yield f"{path}: {len(broken) - MAX_SHOWN} more lines cannot be used"
    wanted = section.get("num_prompts")
    split = _num_rounds(data) if where.startswith(("annotate", "prompts.files")) else 1
    if isinstance(wanted, int) and len(rows) < wanted:
        yield f"{where}.num_prompts: the recipe asks for {wanted} prompts, {path} has {len(rows)} usable ones"
    elif len(rows) < split:
        yield f"{where}.path: {path} has {len(rows)} usable prompts for {split} rounds"
    unusable = {reject["line"] for reject in rejects}
    lines = [line for line, _ in read_numbered(path) if line not in unusable]
    yield from _too_long(path, dict(zip(lines, rows, strict=True)), data.get("base"))


def _too_long(path: str, rows: Mapping[int, dict[str, Any]], base: Any) -> Iterator[str]:
    """Compare prompts, by line, with the base's context, counting tokens with the folder's own tokenizer."""
    if not isinstance(base, Mapping) or base.get("kind") != "folder":
        return
    from tokenizers import Tokenizer

    folder = Path(str(base.get("path")))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        words = (folder / "tokenizer.json").read_text(encoding="utf-8")
        json.loads(words)
    except (OSError, ValueError):
        return  # check_model_dir names what is missing
    context = config.get("max_position_embeddings") if isinstance(config, dict) else None
    if not isinstance(context, int):
        return
    tokenizer = Tokenizer.from_str(words)
    for line, row in rows.items():
        contents = [message["content"] for message in row["prompt"]]
        if sum(len(content.encode()) for content in contents) < context:
            continue  # a token holds at least one byte
        length = sum(len(tokenizer.encode(content, add_special_tokens=False).ids) for content in contents)
        if length >= context:
            yield (
                f"{path}:{line}: prompt {row['prompt_id']} has {length} tokens, more than the base's context of "
                f"{context}; shorten or remove it"
            )
