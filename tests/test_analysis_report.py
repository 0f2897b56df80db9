"""The results page: numbers stand in the CSV named under them, signs follow from interval and corrected test, words are a person's."""

import html
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unirg.analysis.records import records_table, rests_on
from unirg.analysis.report import (
    TOO_FEW,
    Sets,
    answer_markdown,
    cell,
    decide,
    html_page,
    read_captions,
    results_page,
    sets_of,
    small_table,
    write_results,
)
from unirg.core import RESEARCH_ONLY, StudyError, write_json

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "outputs" / "phantom"
SETS = Sets({"rexrank": "Eastholt"}, ("rexrank",), ("rexrank",))
NUMBER = re.compile(r"(?<![\w.+-])[-+]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])")


def difference(low, high, measure="composite_step1", **more):
    row = {"run": "rl2", "against": "sft", "dataset": "seen", "measure": measure, "estimate": 0.5, "low": 0.4, "high": 0.6, "p_holm": 0.01}
    row |= {"difference": (low + high) / 2, "difference_low": low, "difference_high": high, "studies": 120, "patients": 80, "seeds": 2}
    return row | more


@pytest.fixture
def out(tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    rows = [difference(0.004, 0.012, family="primary"), difference(-0.02, 0.01, dataset="rexrank", family="primary")]
    pd.DataFrame(rows).to_csv(figures / "fig_answer.csv", index=False)
    pd.DataFrame(rows).to_csv(figures / "fig_S1.csv", index=False)
    Image.new("L", (20, 10)).save(figures / "fig_S1.png")
    return tmp_path


# ---------------------------------------------------------------- what is decided


@pytest.mark.parametrize(
    ("low", "high", "more", "found"),
    [
        (0.001, 0.02, {}, "better"),
        (-0.02, -0.001, {}, "worse"),
        (-0.02, -0.001, {"measure": "judged_errors"}, "better"),
        (0.001, 0.02, {"measure": "omitted_finding"}, "worse"),
        (-0.02, -0.001, {"measure": "4 or more"}, "better"),
        (-0.001, 0.02, {}, "undecided"),
        (0.0, 0.02, {}, "undecided"),
        (0.001, 0.02, {"p_holm": 0.05}, "undecided"),
        (0.001, 0.02, {"p_holm": float("nan")}, "undecided"),
        (0.001, 0.02, {"measure": "prior_language_with_prior"}, "higher"),
        (-0.02, -0.001, {"measure": "words"}, "lower"),
        (0.001, 0.02, {"measure": "1/radcliq_v1"}, "better"),
        (0.001, 0.02, {"measure": "radcliq_v1"}, "higher"),
        (-0.02, -0.001, {"measure": "change_f1"}, "worse"),
        (float("nan"), float("nan"), {}, ""),
    ],
)
def test_interval_and_corrected_test_choose_the_sign(low, high, more, found):
    assert decide(difference(low, high, **more)) == found


@pytest.mark.parametrize(
    ("verdict", "found"),
    [("no difference shown", "undecided"), ("more", "higher"), ("parity", "equal"), ("below the curve", "worse"), ("gap", "better")],
)
def test_a_table_that_brings_a_verdict_is_taken_at_its_word(verdict, found):
    assert decide(difference(0.001, 0.02, verdict=verdict)) == found


def test_a_gain_in_per_cent_counts_up_whatever_it_is_of():
    row = difference(1.0, 3.0, "judged_errors") | {"estimate": 2.0, "low": 1.0, "high": 3.0}
    assert decide(row, "estimate", up_is_better=True) == "better" != decide(row, "estimate")


@pytest.mark.parametrize("more", [{"studies": 99}, {"verdict": "too few"}, {"verdict": "suppressed"}])
def test_of_few_studies_nothing_else_is_said(more):
    assert cell(difference(0.1, 0.2, **more), tested="difference") == TOO_FEW
    assert cell({"count": 12, "studies": 12}, "count") == "12", "a count is no estimate"


# ---------------------------------------------------------------- tables


def test_a_small_table_holds_what_its_plan_asks_for():
    rows = [difference(0.01, 0.02, run=run, dataset=d) for run in ("sft", "rl2") for d in ("seen", "rexrank", "other")]
    plan = {"rows": ["run"], "columns": "dataset", "where": {"dataset": ["unseen"], "run": ["rl2"]}}
    assert small_table(pd.DataFrame(rows), plan, SETS) == [
        ["Run", "Eastholt, never trained on", "n"],
        ["SFT + RL", "▲ 0.500 [0.400, 0.600]", "120 studies, 80 patients, 2 seeds"],
    ]
    nobody = plan | {"where": {"run": ["nobody"]}}
    assert len(small_table(pd.DataFrame(rows), nobody, SETS)) == 3, "a filter that leaves nothing is left out"
    with pytest.raises(StudyError, match="'camera'"):
        small_table(pd.DataFrame(rows), {"rows": ["camera"]}, SETS)


def test_trainings_without_an_interval_are_told_by_their_ends():
    table = pd.DataFrame({"run": "rl1", "seed": [1, 2, 3] * 2, "step": [0] * 3 + [80] * 3, "reward": [0.5, 0.4, 0.45, 0.7, 0.6, 0.65]})
    plan = {"rows": ["run"], "columns": "step", "value": "reward", "where": {"step": ["first", "last"]}}
    assert small_table(table, plan, SETS)[1] == ["SFT + RL, step 1", "0.400 to 0.500", "0.600 to 0.700"]


def test_what_a_table_holds_cannot_break_the_page():
    table = pd.DataFrame({"camera": ["old <b>|new"], "measure": "x", "estimate": [0.25], "low": [0.2], "high": [0.3]})
    assert small_table(table, {"rows": ["camera"]}, SETS)[1][0] == "old &lt;b&gt;\\|new"


def test_the_answer_is_of_the_first_family_alone_and_too_few_is_said():
    pairs = [(against, measure) for against in ("sft", "sft_matched") for measure in ("bleu2", "fact_f1")]
    rows = [difference(0.01, 0.02, measure, against=against, family="primary") for against, measure in pairs]
    rows += [difference(-0.2, -0.1, "bleu2", family="secondary")]
    rows += [difference(0.1, 0.2, "bleu2", dataset="rexrank", family="primary", studies=20)]
    lines = answer_markdown(pd.DataFrame(rows), SETS)
    assert lines[0] == "| SFT + RL against | BLEU-2 | Fact F1 |" and lines[2].startswith(f"| SFT | ▲ +0.015 / {TOO_FEW} | ▲ +0.015 |")
    assert lines[3].startswith("| SFT, same compute as RL |") and len([line for line in lines if line.startswith("|")]) == 5
    assert "-0.15" not in "".join(lines) and answer_markdown(pd.DataFrame(rows).assign(family="secondary"), SETS) == []


# ---------------------------------------------------------------- the committed page


def panels_of(page):
    "Name, and the text of each panel."
    parts = re.split(r'<a id="([^"]+)"></a>', page)
    return dict(zip(parts[1::2], parts[2::2]))


def test_the_committed_page_is_what_the_csvs_give():
    page = results_page(COMMITTED / "figures", "phantom", sets_of(ROOT, "phantom"), COMMITTED)
    assert (COMMITTED / "RESULTS.md").read_text() == page, "run `make readme`"


def test_every_number_of_a_table_stands_in_the_csv_named_under_it():
    seen = 0
    for name, text in panels_of((COMMITTED / "RESULTS.md").read_text()).items():
        table = pd.read_csv(COMMITTED / "figures" / f"{name}.csv")
        values = table.select_dtypes("number").to_numpy().ravel()
        values = np.append(values[~np.isnan(values)], [0.0])
        cells = {str(v) for column in table.select_dtypes(exclude="number") for v in table[column]}
        assert f"[{name}.csv](figures/{name}.csv)" in text
        lines = [line for line in text.splitlines() if line.startswith("|") and set(line) - set("|-")]
        for line in lines[1:]:
            for token in NUMBER.findall(re.sub(r"[\[\],]\s|[\[\]]", " ", line.replace("|", " "))):
                token, seen = token.rstrip(","), seen + 1
                half = 0.5 * 10 ** -len(token.partition(".")[2]) * 1.001 + 1e-9
                there = np.abs(values - float(token.replace(",", ""))) <= half
                assert there.any() or any(token in cell for cell in cells), (name, token, line)
    assert seen > 500


def test_every_panel_is_there_with_question_caption_and_alt_text():
    page, captions = (COMMITTED / "RESULTS.md").read_text(), {panel["name"]: panel for panel in read_captions()}
    panels = panels_of(page)
    assert set(panels) >= {path.stem for path in (COMMITTED / "figures").glob("*.csv")}
    for name, text in panels.items():
        assert captions[name]["question"] in text and captions[name]["caption"] in text
        assert (ROOT / f"nbs/study/{captions[name]['notebook']}.ipynb").is_file()
        for alt, link in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text):
            assert len(alt) > 30 and (COMMITTED / link).is_file()
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (COMMITTED / link).exists(), link


def test_captions_are_words_and_hold_no_number():
    for panel in read_captions():
        text = f"{panel['title']} {panel['question']} {panel['caption']} {panel.get('alt', '')}"
        assert not re.findall(r"(?<![A-Za-z-])\d+(?:\.\d+)?(?![a-f]?:|[a-f] )", re.sub(r"\bF1\b", "", text)), panel["name"]
    names = [panel["name"] for panel in read_captions()]
    assert len(names) == len(set(names))


def test_the_answer_is_on_the_first_screen_and_headings_stand_in_order():
    page = (COMMITTED / "RESULTS.md").read_text()
    first = page[: page.index("## Contents")]
    assert RESEARCH_ONLY in first.splitlines()[2] and "**Simulated data.**" in first and len(first.split()) < 400
    assert len([line for line in first.splitlines() if line.startswith("| ")]) <= 6
    levels = [len(level) for level in re.findall(r"^(#+) ", page, re.M)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))


def test_html_stands_alone_and_colours_the_signs():
    page = html_page((COMMITTED / "RESULTS.md").read_text(), COMMITTED)
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("data:", "#")) for link in links) and "<script" not in page and "<link" not in page
    assert page.count("data:image/png;base64,") == len(list((COMMITTED / "figures").glob("fig_*.png")))
    assert {link[1:] for link in links if link.startswith("#")} <= set(re.findall(r' id="([^"]+)"', page))
    assert re.search(r'<span class="better">▲ [-+]?\d', page) and '<p class="warning"' in page and "@media print" in page
    text = html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", "", page, flags=re.S))
    assert "66_primary_comparison" in text and ".ipynb" not in text, "what is not inside is no link"


# ---------------------------------------------------------------- pages of other runs


def test_a_run_of_ones_own_writes_both_pages_and_what_its_records_say(out):
    record = {"task": "table_s1", "notebook": "65_table_s1.ipynb", "code": "c0de", "started": 2.0, "commit": "abc123"}
    record |= {"parameters": {"resamples": 1000}, "inputs": {"outputs/toy/scores": "5"}}
    record |= {"outputs": {"outputs/toy/figures/fig_S1.csv": "d1e5"}}
    write_json(out / "runs" / "table_s1.json", record | {"modules": {"unirg.core": "new"}})
    score = {"task": "score", "notebook": "50_score.ipynb", "code": "c1", "started": 1.0, "parameters": {}, "inputs": {}}
    score |= {"commit": "fed789", "modules": {"unirg.core": "old"}}
    write_json(out / "runs" / "score.json", score | {"outputs": {"outputs/toy/scores": "5"}})
    markdown, page = (path.read_text() for path in write_results(out, "toy", SETS))
    part = panels_of(markdown)["fig_S1"]
    for text in ("runs/table_s1.json", "abc123", "resamples = 1000", "Rests on: score", "fed789: score (unirg.core)"):
        assert text in part and text in page
    assert "no record" in panels_of(markdown)["fig_answer"] and "Not made in this profile: " in markdown
    assert pd.read_csv(out / "records.csv").task.tolist() == ["table_s1"]


def test_a_panel_nobody_foresaw_is_shown_with_its_own_words(out):
    pd.DataFrame({"camera": ["old"], "estimate": [0.25]}).to_csv(out / "figures" / "fig_9z.csv", index=False)
    write_json(out / "figures" / "fig_9z.json", {"title": "Cameras <i>", "caption": "How often the report follows."})
    page = write_results(out, "toy", SETS)[1].read_text()
    assert "Cameras &lt;i&gt;" in page and "How often the report follows." in page and "Cameras <i>" not in page and 'id="fig_9z"' in page


def test_a_profile_without_rl_says_that_it_has_no_answer(out):
    (out / "figures" / "fig_answer.csv").unlink()
    page = write_results(out, "toy", Sets({}))[0].read_text()
    assert "so the question is not answered here" in page and "Simulated data" not in page


def test_links_lead_from_wherever_the_page_is(out):
    place = out / "elsewhere" / "scratch"
    markdown, page = write_results(out, "toy", SETS, place)
    assert "](../../figures/fig_S1.png)" in markdown.read_text() and "data:image/png" in page.read_text()
    assert not (out / "records.csv").exists()


@pytest.mark.parametrize(("name", "text"), [("fig_S1.csv", ""), ("fig_answer.csv", 'a,b\n1,2,3\n"')])
def test_a_broken_table_is_named(out, name, text):
    (out / "figures" / name).write_text(text)
    with pytest.raises(StudyError, match=name):
        write_results(out, "toy", SETS)


def test_no_panel_at_all_is_an_error(tmp_path):
    (tmp_path / "figures").mkdir()
    with pytest.raises(StudyError, match="no panel"):
        write_results(tmp_path, "toy", SETS)


@pytest.mark.parametrize(("text", "said"), [("[[panel]\n", "captions.toml"), (None, "captions.toml is missing"), ("a = 1\n", "panel")])
def test_broken_captions_are_named(tmp_path, monkeypatch, text, said):
    (tmp_path / "settings.ini").write_text("")
    shutil.copytree(ROOT / "nbs/study/data", tmp_path / "nbs/study/data")
    path = tmp_path / "nbs/study/data/captions.toml"
    path.unlink() if text is None else path.write_text(text)
    monkeypatch.setenv("UNIRG_ROOT", str(tmp_path))
    with pytest.raises(StudyError, match=said):
        read_captions()


def test_a_number_of_the_answer_is_that_of_its_row_and_column():
    table = pd.read_csv(COMMITTED / "figures" / "fig_answer.csv").query("family == 'primary'").set_index(["against", "measure", "dataset"])
    lines = answer_markdown(table.reset_index(), SETS)[2:-3]
    measures = list(dict.fromkeys(table.index.get_level_values("measure")))
    for line, against in zip(lines, dict.fromkeys(table.index.get_level_values("against"))):
        for shown, measure in zip(line.strip("| ").split(" | ")[1:], measures):
            for part, dataset in zip(shown.split(" / "), ("seen", "rexrank")):
                row = table.loc[against, measure, dataset]
                assert float(part.split()[1]) == pytest.approx(row.difference, abs=5.1e-4) and (part[0] == "○") == (
                    row.p_holm >= 0.05 or row.difference_low <= 0 <= row.difference_high
                )


def test_the_module_stays_small():
    assert len((ROOT / "unirg/analysis/report.py").read_text().splitlines()) < 350


def test_records_go_back_to_the_archives():
    chain = {
        "prepare": {"inputs": {}, "outputs": {"out/data": "c"}},
        "figure": {"inputs": {"out/data/a": "c"}, "outputs": {"out/figures/fig_1a.csv": "d"}},
    }
    chain = {name: {"notebook": f"{name}.ipynb", "code": "c", "parameters": {}, **one} for name, one in chain.items()}
    assert rests_on(chain, "figure") == ["figure", "prepare"] and records_table(chain).rests_on.tolist() == ["prepare"]
    assert records_table({}).empty


def test_what_was_taken_as_it_is_although_the_code_changed_is_told_of():
    "Nothing is noted when a result is touched: the modules in the records tell."
    kinds = {"prepare": ("old", "1a", {}, {"out/data": "c"}), "figure": ("new", "2b", {"out/data/a": "c"}, {"out/figures/fig_1a.csv": "d"})}
    chain = {}
    for name, (sha, commit, inputs, outputs) in kinds.items():
        chain[name] = {"notebook": f"{name}.ipynb", "code": "c", "parameters": {}, "commit": commit, "inputs": inputs, "outputs": outputs}
        chain[name]["modules"] = {"unirg.data.studies": sha, "unirg.core": "same"}
    assert records_table(chain).accepted.tolist() == ["1a: prepare (unirg.data.studies)"]
    chain["prepare"]["modules"] = chain["figure"]["modules"]
    assert records_table(chain).accepted.tolist() == [""]
