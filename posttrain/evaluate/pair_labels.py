"""Labels on blind pairs, told for A and B again: verdicts for a win rate, preferences for training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

from posttrain.core.errors import DataError, Faults
from posttrain.core.files import read_rows
from posttrain.evaluate.labels import numbered_rows, shown
from posttrain.evaluate.win_rate import is_preference
from reward.preferences import strength_of

Row = dict[str, Any]

CHOICES: dict[str, float | None] = {"first": 1.0, "second": 0.0, "tie": 0.5, "unreadable": None}
KEY_COLUMNS = ("pair_id", "prompt_id", "a", "b", "first", "prompt", "completion_a", "completion_b")
PLACES = ("first", "second")
# Who "labels" answers of the same text, which nobody is asked about.
SAME_TEXT = "same text"


def read_key(path: str | PathLike[str]) -> list[Row]:
    """Read `key.jsonl`, as ``blind_pairs.make_pairs`` made it.

    Raises:
        DataError: lists the rows that lack a column or repeat a pair; or the file is empty.
    """
    rows = read_rows(path)
    faults = Faults(str(path))
    counts = Counter(str(row.get("pair_id")) for row in rows)
    for number, row in enumerate(rows, start=1):
        missing = [column for column in KEY_COLUMNS if column not in row]
        if missing:
            faults.add(f"line {number}: lacks {', '.join(missing)}; give the key.jsonl of `posttrain pairs`")
        elif wrong := _of_the_wrong_kind(row):
            told = ", ".join(f"{column} is {shown(row, column)}" for column in wrong)
            faults.add(f"line {number}: {told}; that is no text; give the key.jsonl of `posttrain pairs` as it was")
        elif row["first"] not in ("a", "b", None):
            faults.add(f"line {number}: first is {shown(row, 'first')}; expected a or b")
        elif counts[row["pair_id"]] > 1:
            faults.add(f"line {number}: pair {row['pair_id']!r} stands there twice; give each key once")
    faults.raise_if_any(DataError)
    if not rows:
        raise DataError(f"{path} holds no pairs; give the key.jsonl of `posttrain pairs`")
    return rows


def _of_the_wrong_kind(row: Row) -> list[str]:
    """List the columns of a key that are not what `posttrain pairs` writes."""
    wrong = [column for column in ("pair_id", "prompt_id", "a", "b") if not isinstance(row[column], str)]
    wrong += [column for column in ("completion_a", "completion_b") if not isinstance(row[column], str | list)]
    return wrong if isinstance(row["prompt"], str | list) else [*wrong, "prompt"]


def read_choices(path: str | PathLike[str]) -> list[Row]:
    """Read what labellers said: ``pair_id``, and ``preference`` (1 where the first is better) or ``choice``.

    Returns:
        Rows of ``pair_id``, ``preference`` for the first (None: unreadable), ``labeller`` (text, or None), ``line``
        and, where the file has them, the texts ``first`` and ``second``.

    Raises:
        DataError: lists every faulty line at once, or the file holds no labels.
    """
    faults = Faults(str(path))
    found: list[Row] = []
    for number, row in numbered_rows(path):
        told = [row] if isinstance(row, str) else _faults_of(row)
        for fault in told:
            faults.add(f"line {number}: {fault}")
        if not told and not isinstance(row, str):
            preference = CHOICES[row["choice"]] if "choice" in row else row["preference"]
            said = {"pair_id": row["pair_id"], "preference": preference, "labeller": row.get("labeller")}
            found.append({**said, "line": number, **{name: row[name] for name in PLACES if name in row}})
    faults.raise_if_any(DataError)
    if not found:
        raise DataError(f'{path} holds no labels; expected lines of {{"pair_id": …, "choice": "first"}}')
    return found


def _faults_of(row: Row) -> list[str]:
    faults = []
    if not isinstance(row.get("pair_id"), str):
        faults.append(f"pair_id is {shown(row, 'pair_id')}; expected the id of a pair, as it stands in pairs.jsonl")
    if ("choice" in row) == ("preference" in row):
        count = "both choice and preference" if "choice" in row else "neither choice nor preference"
        faults.append(f"there is {count}; expected one of them")
    elif "choice" in row and (not isinstance(row["choice"], str) or row["choice"] not in CHOICES):
        faults.append(f"choice is {shown(row, 'choice')}; expected {', '.join(CHOICES)}")
    elif "preference" in row and not (row["preference"] is None or is_preference(row["preference"])):
        given = shown(row, "preference")
        faults.append(f"preference is {given}; expected a number from 0 to 1, 1 where the first is better")
    if not isinstance(row.get("labeller"), str | None):
        faults.append(f"labeller is {shown(row, 'labeller')}; expected a name, as text")
    return faults


def check_texts(key: Iterable[Row], choices: Iterable[Row], where: str) -> None:
    """Check that labels which bring their texts are on the texts of the key, the first of them first.

    Spaces and line ends are not compared: tools trim them.

    Raises:
        DataError: lists the lines of the file ``where`` that are on other texts.
    """
    texts_of: dict[str, dict[str, Any]] = {}
    for row in key:
        first, second = ("b", "a") if row["first"] == "b" else ("a", "b")
        texts_of[row["pair_id"]] = {
            "first": _words(row[f"completion_{first}"]), "second": _words(row[f"completion_{second}"])
        }  # fmt: skip
    faults = Faults(where)
    for choice in choices:
        texts, line = texts_of.get(choice["pair_id"], {}), choice["line"]
        said = {name: _words(choice[name]) for name in PLACES if name in choice}
        other = [name for name in said if name in texts and said[name] != texts[name]]
        if other and said == {"first": texts["second"], "second": texts["first"]}:
            faults.add(f"line {line}: first and second have changed places; label them in the order of pairs.jsonl")
        elif other:
            faults.add(f"line {line}: {' and '.join(other)} is not the text of pair {choice['pair_id']!r}")
    faults.raise_if_any(DataError)


def _words(text: Any) -> Any:
    return text.split() if isinstance(text, str) else text


def tell_for_models(key: Sequence[Row], choices: Iterable[Row]) -> tuple[list[Row], dict[str, Any]]:
    """Tell labels on first and second for A and B.

    Of several labels by one labeller on one pair the last counts.

    Returns:
        Labels in the order of the key, ``prompt_id``, ``preference`` (1 where A is better; None: unreadable), ``a``,
        ``b``, ``labeller``, ``pair_id``, lengths in characters, samples and models; and counts: ``pairs``,
        ``labels``, ``unreadable``, ``same_text`` (ties between answers of the same text), ``missing`` (pairs without a
        label), ``unknown`` (labels on pairs that the key lacks), ``repeated`` (by one labeller on one pair).

    Raises:
        DataError: no label is on a pair of the key.
    """
    by_pair: dict[str, dict[str | None, Row]] = {row["pair_id"]: {} for row in key if row["first"] is not None}
    counts: Counter[str] = Counter()
    for choice in choices:
        labellers = by_pair.get(choice["pair_id"])
        if labellers is None:
            counts["unknown"] += 1
            continue
        counts["repeated"] += choice["labeller"] in labellers
        labellers[choice["labeller"]] = choice
    if not any(by_pair.values()):
        raise DataError(f"none of the {counts['unknown']} labels is on a pair of the key; give the key of these pairs")
    num_labelled = sum(bool(labellers) for labellers in by_pair.values())
    # Where only some pairs have labels, as large a share of the ties counts: else these would weigh too much.
    num_ties = round((len(key) - len(by_pair)) * num_labelled / len(by_pair))
    ties = [row["pair_id"] for row in key if row["first"] is None][:num_ties]
    labels: list[Row] = []
    for row in key:
        if row["first"] is None:
            labels += [_label(row, 0.5, SAME_TEXT)] if row["pair_id"] in ties else []
            continue
        for labeller, choice in by_pair[row["pair_id"]].items():
            preference = choice["preference"]
            if preference is not None and row["first"] == "b":
                preference = 1.0 - preference
            labels.append(_label(row, preference, labeller))
    summary = {
        "pairs": len(key),
        "labels": len(labels),
        "unreadable": sum(label["preference"] is None for label in labels),
        "same_text": num_ties,
        "missing": len(by_pair) - num_labelled,
        "unknown": counts["unknown"],
        "repeated": counts["repeated"],
    }
    return labels, summary


def _label(row: Row, preference: float | None, labeller: str | None) -> Row:
    return {
        "prompt_id": row["prompt_id"],
        "preference": preference,
        "a": row["a"],
        "b": row["b"],
        "labeller": labeller,
        "pair_id": row["pair_id"],
        "length_a": len(row["completion_a"]),
        "length_b": len(row["completion_b"]),
        **{column: row.get(column) for column in ("sample_index_a", "sample_index_b", "model_a", "model_b")},
    }


def preferences_of(key: Iterable[Row], labels: Iterable[Row], strengths: Sequence[float]) -> list[Row]:
    """Make PREFERENCE rows of labels, for a reward model or the file annotator of a next round.

    The labels of a pair are averaged; how far the average lies from a tie, on a scale from 0 to 1, is the gap that
    ``strengths`` puts into words. Near-ties and answers of the same text are left out.
    """
    given: dict[str, list[float]] = {}
    for label in labels:
        if label["preference"] is not None:
            given.setdefault(label["pair_id"], []).append(label["preference"])
    rows = []
    for row in key:
        votes = given.get(row["pair_id"], [])
        lean = math.fsum(2.0 * vote - 1.0 for vote in votes) / len(votes) if votes else 0.0
        strength = strength_of(abs(lean), strengths)
        if strength is None or row["first"] is None:
            continue
        chosen, rejected = ("a", "b") if lean > 0 else ("b", "a")
        rows.append(
            {
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"],
                "chosen": [{"role": "assistant", "content": row[f"completion_{chosen}"]}],
                "rejected": [{"role": "assistant", "content": row[f"completion_{rejected}"]}],
                "strength": strength,
                "pair_id": row["pair_id"],
                "chosen_model": row.get(f"model_{chosen}"),
                "rejected_model": row.get(f"model_{rejected}"),
                "num_labels": len(votes),
            }
        )
    return rows
