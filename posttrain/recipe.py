"""Read a recipe: typed YAML, every fault of the file listed at once, no torch loaded."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from posttrain import config as sections
from posttrain.config import (
    AnnotateConfig,
    EvaluateConfig,
    Execution,
    GateConfig,
    GivenRewardModel,
    Magpie,
    PolicyModel,
    PositiveInt,
    PromptsConfig,
    RewardModelConfig,
    SamplingConfig,
    Section,
    SelectConfig,
    StudentConfig,
    TeacherModel,
    TrainSection,
    WeightsModel,
)
from posttrain.core.errors import PosttrainError

PATH_KEYS = ("path", "template")
FUNCTION_KEYS = ("function", "edit_function", "check")


class RecipeError(PosttrainError, ValueError):
    """A recipe that cannot be run; the message lists every fault found."""


class Recipe(Section):
    """One run: rounds of annotation, reward model, prompts, samples, training and win rates, then students."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the run: its results are named under runs/<name>."""
    seed: int = 0
    """Seed from which every stage derives its own."""
    num_rounds: PositiveInt = 1
    """Alignment rounds; L3 ran six."""
    template_date: str | None = None
    """Date that templates print (Llama 3.2's reads the clock otherwise)."""
    base: WeightsModel
    """The pretrained model that SFT starts from in every round."""
    teacher: TeacherModel = PolicyModel()
    """Who writes prompts and, where `completions.engines` says so, completions."""
    annotate: AnnotateConfig | None = None
    """Preference labels; absent when the reward model is given."""
    reward_model: Annotated[RewardModelConfig | GivenRewardModel, Field(discriminator="kind")]
    """Trained anew each round on all preference rows so far, or given and fixed."""
    prompts: PromptsConfig
    """Where a round's prompts come from."""
    completions: SamplingConfig
    """K samples per prompt."""
    select: SelectConfig = SelectConfig()
    """What is trained on."""
    train: TrainSection
    """SFT, DPO, average."""
    evaluate: EvaluateConfig
    """Win rates."""
    gate: GateConfig = GateConfig()
    """Promotion."""
    students: tuple[StudentConfig, ...] = ()
    """Distilled after the rounds."""
    execution: Execution = Execution()
    """Device, workers, processes."""

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        faults = list(_misfits(self))
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _misfits(recipe: Recipe) -> Iterator[str]:
    if isinstance(recipe.reward_model, RewardModelConfig) and recipe.annotate is None:
        yield "reward_model.kind train needs an annotate section: a reward model learns from preference rows"
    if isinstance(recipe.reward_model, GivenRewardModel) and recipe.annotate is not None:
        yield "annotate labels rows for a trained reward model, but reward_model.kind is given: remove one of the two"
    if not recipe.prompts.generators and not recipe.prompts.files:
        yield "prompts has neither generators nor files: a round would have no prompts"
    if isinstance(recipe.teacher, sections.EndpointModel) and any(
        isinstance(generator, Magpie) for generator in recipe.prompts.generators
    ):
        yield (
            "prompts.generators has magpie, but a chat endpoint cannot complete a user turn: "
            "use self_instruct or a teacher with weights"
        )
    if isinstance(recipe.teacher, PolicyModel) and {"teacher", "policy"} <= set(recipe.completions.engines):
        yield "completions.engines names teacher and policy, but the teacher is the policy: name one of the two"
    names = [student.name for student in recipe.students]
    if len(set(names)) < len(names):
        yield f"students have the same name twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}"
    reserved = {"base", "best", "teacher"}
    if reserved & set(names):
        yield f"students are called {', '.join(sorted(reserved & set(names)))}, which names another model of the run"


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and validate a recipe, without looking at the files that it names (see preflight.py).

    Args:
        path: YAML file. Relative paths inside it are relative to its own folder.
        overrides: `section.key=value` items; the value is read as YAML, paths are relative to the working directory.

    Raises:
        RecipeError: The file is missing, is not YAML, or has faults; all of them are listed.
    """
    recipe, faults = validate(read_data(path, overrides))
    raise_faults(str(path), faults)
    assert recipe is not None
    return recipe


def read_data(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return a recipe's data with absolute paths and the overrides in place, not yet validated."""
    path = Path(path)
    data = _anchor_paths(_read_yaml(path), path.parent.resolve())
    for override in overrides:
        _apply_override(data, override)
    return data


def validate(data: dict[str, Any]) -> tuple[Recipe | None, list[str]]:
    """Return the recipe, or None and every fault of the data."""
    try:
        return Recipe.model_validate(data), []
    except ValidationError as error:
        return None, [_describe(item, data) for item in error.errors()]


def raise_faults(where: str, faults: Sequence[str]) -> None:
    """Raise one error that lists the faults, each once; do nothing where there are none."""
    unique = list(dict.fromkeys(faults))
    if unique:
        number = f"{len(unique)} fault{'s' if len(unique) > 1 else ''}"
        raise RecipeError(f"{where} has {number}:\n" + "\n".join(f"  - {fault}" for fault in unique))


def recipe_json(recipe: Recipe) -> str:
    """Return the resolved recipe, defaults included, as indented JSON."""
    return json.dumps(recipe.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (YAML keeps the last one silently) and leaves dates as text."""

    yaml_implicit_resolvers = {
        start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            line = key_node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is no text (line {line}); put it in quotes"
            )
        if key in seen:
            line = key_node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice (line {line})")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "give the path of a recipe (.yaml)"
        raise RecipeError(f"recipe {path} does not exist; {hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read as UTF-8 text: {error}") from error
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RecipeError(
            f"recipe {path} holds {type(data).__name__}, expected a mapping of sections; see docs/recipes.md"
        )
    return data


def _anchor_paths(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: _anchored(key, item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_anchor_paths(item, folder) for item in value]
    return value


def _anchored(key: str, value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        return _anchor_paths(value, folder)
    if key == "path" or (key in PATH_KEYS and value.endswith(".txt")):
        return str(folder / Path(value).expanduser())
    if key in FUNCTION_KEYS and ".py:" in value:
        return str(folder / Path(value).expanduser())
    return value


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"override '{override}' is not key=value, for example train.dpo.beta=0.05")
    *parents, last = key.strip().split(".")
    value = read_value(override, text)
    target: Any = data
    for parent in parents:
        target = _child(target, parent, override)
    value = _anchored(last, value, Path.cwd())
    if isinstance(target, list):
        target[_index(target, last, override)] = value
    else:
        target[last] = value


def read_value(item: str, text: str) -> Any:
    """Read the value of a `key=value` item as YAML.

    Raises:
        RecipeError: It is not YAML.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"'{item}': the value is not YAML: {' '.join(str(error).split())}") from error


def _child(target: Any, key: str, override: str) -> Any:
    if isinstance(target, list):
        return target[_index(target, key, override)]
    child = target.setdefault(key, {})
    if child is None:
        child = target[key] = {}
    if not isinstance(child, (dict, list)):
        raise RecipeError(f"override '{override}': '{key}' is the value {child!r}, not a section")
    return child


def _index(items: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise RecipeError(
            f"override '{override}': '{key}' is no position in a list of {len(items)} (positions start at 0)"
        )
    return int(key)


def _describe(error: Any, data: Any) -> str:
    where, parent, last = _locate(error["loc"], data)
    kind = error["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(last), _fields_like(parent, where), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; see docs/recipes.md for the fields of this section"
        return f"{where}: unknown key{hint}"
    if kind == "missing":
        return f"{where}: missing, and there is no default"
    if kind == "union_tag_not_found":
        return f"{where}.kind: missing; expected one of the kinds in docs/recipes.md"
    given = error.get("input")
    shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool, type(None))) else ""
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{shown}" if where else f"{message}{shown}"


def _locate(loc: Sequence[Any], data: Any) -> tuple[str, Any, Any]:
    """Follow pydantic's location through the data; union tags, which are no keys of the file, are left out."""
    parts: list[str] = []
    parent, current = data, data
    for position, item in enumerate(loc):
        inside = (isinstance(current, dict) and item in current) or (
            isinstance(current, (list, tuple)) and isinstance(item, int) and item < len(current)
        )
        if not inside and position < len(loc) - 1:
            continue
        if not inside and isinstance(current, dict) and current.get("kind") == item:
            continue
        parent = current
        current = current[item] if inside else None
        parts.append(str(item))
    return ".".join(parts), parent, (loc[-1] if loc else "")


def _fields_like(parent: Any, where: str) -> list[str]:
    """Return the fields that a section at this place of the recipe may have."""
    kind = parent.get("kind") if isinstance(parent, dict) else None
    names = [part for part in where.split(".")[:-1] if not part.isdigit()]
    classes = _sections_of_field().get(names[-1], []) if names else [Recipe]
    of_kind = [c for c in classes if kind is None or _kind_of(c) in (None, kind)]
    return list(dict.fromkeys(field for section in of_kind or classes for field in section.model_fields))


def _kind_of(section: type[Section]) -> Any:
    field = section.model_fields.get("kind")
    return None if field is None else field.default


def _sections_of_field() -> dict[str, list[type[Section]]]:
    """Return, for every field name that holds sections, which classes may stand there."""
    found: dict[str, list[type[Section]]] = {}
    classes = [Recipe] + [c for c in vars(sections).values() if isinstance(c, type) and issubclass(c, Section)]
    for section in classes:
        for name, field in section.model_fields.items():
            found.setdefault(name, []).extend(_sections_in(field.annotation))
    return found


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
