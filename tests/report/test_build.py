"""The report page: complete, self-contained, safe with hostile text, and sound for a run that has hardly begun."""

from __future__ import annotations

import re
import shutil
import subprocess
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


@pytest.fixture(scope="module")
def page(example_run) -> str:
    return build_report(example_run)


def test_every_section_has_a_heading_and_every_table_a_caption(page):
    parsed = outline(page)
    assert parsed.headings == ["h1"] + ["h2"] * len(SECTIONS)
    assert parsed.tables == parsed.captions > 10
    assert parsed.unnamed_drawings == 0
    assert page.count("<svg") == 8  # win rates, ratings, time, funnel, calibration, best of K, two trainings


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
    assert "CAUTION: judged by the reward model that the policy was trained against" in text


def test_the_reward_models_own_report_is_shown():
    def pair(chosen_score, rejected_score, strength):
        texts = {"chosen": "yes indeed", "rejected": "no"}
        return texts | {"chosen_score": chosen_score, "rejected_score": rejected_score, "strength": strength}

    pairs = [pair(2.0, 0.0, "better"), pair(1.0, 0.0, "better"), pair(0.0, 1.0, "slightly_better")]
    text = build_report({"reward_model": {1: reward_model_report(pairs)}})
    assert "Calibration of the reward model" in text
    assert "<td>0.667</td>" in text  # two of three right
    assert "<td>1.000 (2 pairs)</td>" in text
    assert "<td>0.000 (1 pairs)</td>" in text


def test_matrix_fills_the_other_way_round(page):
    # base over round_1 is 1 / (1 + 10 ** (155 / 400)) = 0.291, so round_1 over the base is 0.709
    assert "0.291 [0.241, 0.341]" in page
    assert "0.709 [0.659, 0.759]" in page


def test_matrix_has_the_order_of_the_ratings(example_run):
    page = build_report(example_run | {"matrix": example_run["matrix"][::-1]})
    header = page[page.index("Win rate of the row") :].split("</tr>")[0]
    names = [entry["model"] for entry in example_run["ratings"]]
    assert re.findall(r"<th[^>]*>([^<]+)</th>", header) == names


def test_same_run_gives_the_same_bytes(page, example_run):
    assert build_report(example_run) == page


@pytest.mark.parametrize(
    "left_out",
    [
        ("rounds", "run", "students"),
        ("ratings", "recipe", "config", "training"),
        ("matrix", "stages", "samples"),
        ("funnel", "reward_model", "best_of_k", "versions"),
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
    assert "loss from 0.5 to 0.5 over 2 steps" in build_report(run)


def test_lone_surrogates_and_control_characters_can_be_written():
    sample = {"prompt": "a\ud800b\x00c", "completions": ["x\x1b[31m"], "chosen": 0}
    page = build_report({"samples": [sample]}).encode("utf-8")
    assert b"\x00" not in page and b"\x1b" not in page and b"[31m" in page


def test_many_long_samples_stay_under_the_limit():
    sample = {"prompt": "<" * 5000, "completions": ["&" * 5000] * 4}
    text = build_report({"samples": [sample] * 400})
    assert len(text.encode()) < 5_000_000
    assert "as many as fit" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_renders_it_without_complaint_and_filters_work(page, tmp_path):
    # The page's policy lets only its own script run, so the copy with a script that drives it goes without a policy.
    driver = """<script>
      const browser = document.querySelector(".browser");
      const shown = () => [...browser.querySelectorAll("article")].filter((sample) => !sample.hidden).length;
      const set = (query, value) => {
        const field = browser.querySelector(query);
        field.value = value;
        field.dispatchEvent(new Event("input", { bubbles: true }));
      };
      const seen = [document.title, shown()];
      set('[data-filter="family"]', "reverse"); seen.push(shown());
      set('[data-filter="round"]', "2"); seen.push(shown());
      set('[data-filter="round"]', ""); set("[data-search]", "ITEM 57"); seen.push(shown());
      document.body.textContent = JSON.stringify(seen);
    </script></body>"""
    driven = re.sub(r"<meta http-equiv=[^>]*>", "", page).replace("</body>", driver)
    # families and rounds go together here: every third sample is of round 1 and of the family reverse
    assert '["quickstart · posttrain report",60,20,0,1]' in _dump(driven, tmp_path / "driven.html")
    assert "60 of 60 shown" in _dump(page, tmp_path / "page.html")


def _dump(text: str, path) -> str:
    path.write_text(text, encoding="utf-8")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path}.profile"]
    logged = ["--enable-logging=stderr", "--log-level=0", "--dump-dom", path.as_uri()]
    done = subprocess.run([*command, *logged], capture_output=True, text=True, timeout=60, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    return done.stdout
