"""Read and fill the text files that tell a model what to write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from posttrain.core.files import read_text
from synth.errors import SynthError

_SLOT = re.compile(r"\{([a-z_]+)\}")


def load_template(name_or_path: str) -> str:
    """Read a template: a file of `synth/prompts/templates` by its name without `.txt`, else a file of one's own.

    Line 1 names the source and is stripped from ours. In a file of one's own the whole text is the template, but
    for a first line that begins with `#`.

    Raises:
        SynthError: there is no such template or file.
        DataError: the file is not UTF-8.
    """
    folder = files("synth.prompts.templates")
    built_in = folder.joinpath(f"{name_or_path}.txt") if re.fullmatch(r"\w+", name_or_path) else None
    if built_in is not None and built_in.is_file():
        return built_in.read_text(encoding="utf-8").split("\n", 1)[1].strip()
    path = Path(name_or_path)
    if not path.is_file():
        known = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
        raise SynthError(f"no template '{name_or_path}': neither a file nor one of {', '.join(known)}")
    text = read_text(path)
    return (text.partition("\n")[2] if text.startswith("#") else text).strip()


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into the `{slots}` of a template; values are not searched for slots, other braces stay.

    Raises:
        SynthError: the template has a slot that no value is for.
    """
    unknown = sorted({name for name in _SLOT.findall(template) if name not in values})
    if unknown:
        raise SynthError(
            f"template slot {{{unknown[0]}}} is unknown; expected {', '.join(f'{{{name}}}' for name in values)}"
        )
    return _SLOT.sub(lambda match: values[match[1]], template)
