"""The report page: complete, self-contained, safe with hostile text, and sound for a run that has hardly begun."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from posttrain.report.build import SECTIONS, build_report
from reward.agreement import reward_model_report

VOID = {"meta", "input", "br", "hr", "img", "link", "path", "use", "rect", "circle", "line"}


class Outline(HTMLParser):
    """Collect what a check needs; fail on tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.images = 0
        self.tables = 0
        self.captions = 0
        self.unnamed_drawings = 0

    def handle_starttag(self, tag, attrs):
        fields = dict(attrs)
        self.ids += [fields["id"]] if fields.get("id") else []
        self.addresses += [fields[key] for key in ("href", "src", "xlink:href") if fields.get(key)]
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.unnamed_drawings += tag == "svg" and "aria-labelledby" not in fields
        if tag in ("h1", "h2"):
            self.headings.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


def test_every_section_has_a_heading_and_every_table_a_caption(page):
    parsed = outline(page)
    assert parsed.headings == ["h1"] + ["h2"] * len(SECTIONS)
    assert parsed.tables == parsed.captions > 10
    assert parsed.unnamed_drawings == 0
    # rounds, the same by judge, ratings, drift, time, funnel, best of K (gold, score), rewards, calibration,
    # and two drawings each of SFT and DPO
    assert page.count("<svg") == 14


def test_page_is_self_contained_and_small(page):
    parsed = outline(page)
    assert [address for address in parsed.addresses if not address.startswith("#")] == []
    assert len(page.encode()) < 5_000_000
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_ids_are_unique_and_links_lead_somewhere(page):
    parsed = outline(page)
    assert len(parsed.ids) == len(set(parsed.ids)) > 100
    targets = {address[1:] for address in parsed.addresses}
    assert targets <= set(parsed.ids)


def test_hostile_text_stays_text(page):
    parsed = outline(page)
    assert parsed.scripts == 1
    assert parsed.images == 0
    assert page.count("</script>") == 1
    assert "&lt;script&gt;document.title" in page


def test_numbers_and_reasons_are_there(page):
    assert "2 of 3 rounds promoted, 1 held. Best: round 2, win rate over the base 0.770 [0.715, 0.825]." in page
    assert "Held: win rate 0.470 over the best so far" in page
    assert "near duplicate" in page
    assert "share of distinct word pairs" in page and "distinct answers" not in page  # distinct-2, not answers
    assert "<td>5 solved examples, chat template</td>" in page and "numbers are left out" not in page
    assert "train.dpo.beta" in page
    assert "transformers" in page and "5.23.0" in page


def test_the_choice_between_an_average_and_a_single_policy_is_shown(example_run):
    choice = {"taken": "single", "reason": "Single policy taken: the uniform average of policies 1, 2 of 2 lost."}
    rounds = [example_run["rounds"][0] | {"average": {}}, example_run["rounds"][1] | {"average": choice}]
    text = build_report({"rounds": rounds})
    assert "Averages of policies." in text and choice["reason"] in text
    assert "Averages of policies." not in build_report({"rounds": rounds[:1]})


def test_a_judge_that_trained_the_policy_is_said_loudly(example_run):
    judge = {"kind": "reward_model", "model": None}
    text = build_report({"rounds": example_run["rounds"], "config": {"evaluate": {"judge": judge}}})
    assert "CAUTION: the policy was trained against the gate&#39;s judge." in text


def test_the_reward_models_own_report_is_shown():
    def pair(chosen_score, rejected_score, strength):
        texts = {"chosen": "yes indeed", "rejected": "no"}
        return texts | {"chosen_score": chosen_score, "rejected_score": rejected_score, "strength": strength}

    pairs = [pair(2.0, 0.0, "better"), pair(1.0, 0.0, "better"), pair(0.0, 1.0, "slightly_better")]
    text = build_report({"reward_model": {1: reward_model_report(pairs)}})
    assert "Calibration of the reward model" in text
    assert "<td>0.667</td>" in text  # two of three right
    assert "<td>1.000 [0.342, 1.000] (2 pairs)</td>" in text
    assert "<td>0.000 [0.000, 0.793] (1 pairs)</td>" in text


def test_same_run_gives_the_same_bytes(page, example_run):
    assert build_report(example_run) == page


@pytest.mark.parametrize(
    "left_out",  # together they are all parts
    [
        ("rounds", "run", "students", "funnel", "reward_model", "best_of_k", "drift", "training", "rewards"),
        ("ratings", "ratings_by_judge", "recipe", "config", "best_of_k_gold", "harness", "recipe_sources", "stages"),
        ("matrix", "judges", "agreement", "recipe_text", "samples", "versions", "trained_on", "mean_scores"),
    ],
)
def test_any_part_may_be_missing(left_out, example_run):
    run = {key: value for key, value in example_run.items() if key not in left_out}
    assert outline(build_report(run)).headings.count("h2") == len(SECTIONS)


def test_a_run_that_has_hardly_begun():
    rounds = [{"round": 1, "promoted": None, "win_rate_vs_previous": None, "win_rate_vs_base": {}, "reward_model": {}}]
    started = {"run": "new", "recipe": "new.yaml", "rounds": rounds, "training": {"sft": []}, "best_of_k": {}}
    for run in ({}, started, started | {"stages": [{"name": "base", "seconds": None, "status": "running"}]}):
        text = build_report(run)
        outline(text)
        assert "not there yet" in text


def test_numbers_that_are_none_are_left_out_of_drawings():
    run = {"training": {"dpo": [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 0.5}, {"step": 3}]}}
    assert "dpo: loss 0.500." in build_report(run)


def test_lone_surrogates_and_control_characters_can_be_written():
    sample = {"prompt": "a\ud800b\x00c", "completions": ["x\x1b[31m"], "chosen": 0}
    page = build_report({"samples": [sample]}).encode("utf-8")
    assert b"\x00" not in page and b"\x1b" not in page and b"[31m" in page


def test_many_long_samples_stay_under_the_limit():
    sample = {"prompt": "<" * 5000, "completions": ["&" * 5000] * 4}
    text = build_report({"samples": [sample] * 400})
    assert len(text.encode()) < 5_000_000
    assert "as many as fit" in text
