"""What all sections share: strict, frozen, documented field by field; identity apart from how."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Nucleus = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
PositiveInt = Annotated[int, Field(gt=0)]
NaturalInt = Annotated[int, Field(ge=0)]
Dtype = Literal["float32", "bfloat16"]
Guard = Literal[
    "zero_gradient", "still_adapter", "chosen_drop", "stuck_loss", "saturated", "skip_nan", "disk_space"
]
Tracker = Literal["trackio", "wandb", "tensorboard", "mlflow", "swanlab"]


def how(default: Any, **constraints: Any) -> Any:
    """Return a field that says how a stage runs and is left out of its address."""
    return Field(default, json_schema_extra={"how": True}, **constraints)


class Section(BaseModel):
    """A part of a recipe: frozen, strict about its keys, documented field by field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, data: Any) -> Any:
        # pydantic reads true as 1, so `epochs: yes` would train for one epoch; as a text it is refused with its place.
        if not isinstance(data, dict):
            return data
        types = {name: _types_in(field.annotation) for name, field in cls.model_fields.items()}
        return {
            name: str(value).lower() if isinstance(value, bool) and not {bool, str} & types.get(name, {bool}) else value
            for name, value in data.items()
        }

    def identity(self) -> dict[str, Any]:
        """Return the fields that say what is asked, as plain JSON values; those that say how are left out."""
        return plain(self)


def _types_in(annotation: Any) -> set[Any]:
    """Return an annotation and all types inside it."""
    return {annotation}.union(*(_types_in(part) for part in get_args(annotation) if isinstance(part, type | UnionType)))


def plain(value: Any) -> Any:
    """Return a config value as plain JSON values, without the fields that only say how."""
    if isinstance(value, Section):
        fields = type(value).model_fields
        return {
            name: plain(getattr(value, name))
            for name, field in fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("how"))
        }
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value
