"""A recipe's YAML: the plain values of YAML 1.2, and a refusal of whatever two readers take for two things."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any, NoReturn

import yaml

_TAG = "tag:yaml.org,2002:"
_DECIMAL = r"(?:0|[1-9][0-9]*)"
_VALUES = (
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", [*"tTfF"]),
    ("int", rf"[-+]?{_DECIMAL}$", [*"-+0123456789"]),
    ("float", rf"[-+]?(?:\.[0-9]+|{_DECIMAL}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", [*"-+.0123456789"]),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", [*"-+."]),
    # Numbers of YAML 1.1, which YAML 1.2 or a person reads in another way: 010, 0o10, 0x10, 1:30, 1_0, 08.
    (
        "odd_number",
        r"[-+]?(?:0[0-9_]+|0[oO][0-7_]+|0[xX][0-9a-fA-F_]+|0[bB][01_]+"
        r"|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|[0-9_]*[0-9]_[0-9_]*(?:\.[0-9_]*)?|0[0-9]+\.[0-9]*)$",
        [*"-+0123456789"],
    ),
    ("merge", r"<<$", ["<"]),
)
_ODD_SPACE = re.compile("[\u00a0\u2000-\u200b\u202f\u3000\ufeff]|(?<=^)\t|(?<= )\t")


class StrictLoader(yaml.SafeLoader):
    """SafeLoader with the plain values of YAML 1.2: `true` and `false` alone are truth values, numbers are decimal.

    `no`, `on` and dates are text. A key given twice (YAML keeps the last one silently), a merge and the other numbers
    of YAML 1.1 are refused.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


def read_yaml(text: str) -> Any:
    """Read YAML.

    Raises:
        ValueError: it cannot be read; the message says why and where, without the file's name.
    """
    try:
        return yaml.load(text, Loader=StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        for number, line in enumerate(text.split("\n"), start=1):
            if odd := _ODD_SPACE.search(line):
                name = unicodedata.name(odd[0], "a tab").lower()
                why += f"; line {number} holds {name} (U+{ord(odd[0]):04X}), write spaces"
                break
        raise ValueError(f"not YAML: {why}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply; a recipe has five levels at most") from error


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            _refuse(key_node, f"key {key!r} is no text", "put it in quotes")
        if key in seen:
            _refuse(key_node, f"key '{key}' is given twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


def _odd_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> NoReturn:
    _refuse(
        node,
        f"{node.value} is read in different ways",
        f"write {' or '.join(_meant(node.value))} for the number, or put it in quotes for text",
    )


def _meant(written: str) -> list[str]:
    """List the numbers that readers of YAML take an odd one for, the one of YAML 1.1 first."""
    text = written.lower().replace("_", "")
    sign, digits = ("-" if text[0] == "-" else "", text.lstrip("+-"))
    if ":" in digits:
        value: float = 0
        for part in digits.split(":"):
            value = value * 60 + (float(part) if "." in part else int(part))
        return [f"{sign}{value}"]
    if digits[:2] in ("0o", "0x", "0b"):
        return [f"{sign}{int(digits, 0)}"]
    decimal = re.sub(r"^0+(?=\d)", "", digits)
    octal = [f"{sign}{int(digits, 8)}"] if re.fullmatch("0[0-7]+", digits) else []
    return list(dict.fromkeys([*octal, f"{sign}{decimal}"]))


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float | str:
    value = loader.construct_yaml_float(node)
    # 1e400, or the hash of a commit, is no infinity.
    return node.value if math.isinf(value) and "inf" not in node.value.lower() else value


def _merge(loader: yaml.SafeLoader, node: yaml.Node) -> NoReturn:
    _refuse(node, "<< merges another section", "write its keys out")


def _refuse(node: yaml.Node, what: str, remedy: str = "") -> NoReturn:
    line = f"{what} (line {node.start_mark.line + 1})"
    raise yaml.constructor.ConstructorError(None, None, f"{line}; {remedy}" if remedy else line)


for _name, _pattern, _starts in _VALUES:
    StrictLoader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _starts)
StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
StrictLoader.add_constructor(f"{_TAG}odd_number", _odd_number)
StrictLoader.add_constructor(f"{_TAG}merge", _merge)
StrictLoader.add_constructor(f"{_TAG}float", _float)
