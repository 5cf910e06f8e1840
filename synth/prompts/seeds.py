"""Prompts that are there already: from files, and a draw from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.core.atomic import PathLike
from posttrain.core.prompts import read_prompts
from synth.errors import SynthError
from synth.rows import Row, copies, row_name


def from_file(path: PathLike, source: str, round: int | None = None) -> tuple[list[Row], list[Row]]:
    """Read prompts from a JSON Lines or Parquet file.

    Args:
        source: written into the `source` column of rows that name none.
        round: written into the `round` column of rows that name none; left out when None.

    Returns:
        rows as `posttrain.core.prompts.read_prompts` gives them, and its rejects with line and reason.
    """
    rows, rejects = read_prompts(path)
    columns: Row = {"source": source} if round is None else {"source": source, "round": round}
    return [{**columns, **{key: value for key, value in row.items() if value is not None}} for row in rows], rejects


def draw_prompts(rows: Iterable[Mapping[str, Any]], num_prompts: int, seed: int) -> list[Row]:
    """Draw prompts without putting back, the same ones whatever the order of the rows.

    Each row gets a lot from (seed, prompt_id); the smallest lots win. So a larger draw contains the smaller one.

    Returns:
        `num_prompts` rows, in input order.

    Raises:
        SynthError: there are fewer rows, or two rows with one id.
    """
    all_rows = copies(rows)
    if num_prompts > len(all_rows):
        raise SynthError(f"{num_prompts} prompts are wanted and {len(all_rows)} are there; add some or ask for fewer")
    names = [row_name(row, position) for position, row in enumerate(all_rows)]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise SynthError(f"two prompts have the id {double!r}; drop duplicates before drawing")
    lots = [hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=16).digest() for name in names]
    drawn = sorted(range(len(all_rows)), key=lots.__getitem__)[:num_prompts]
    return [all_rows[position] for position in sorted(drawn)]
