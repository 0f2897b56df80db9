"""The report and README's results: every number stands in the file that is named after it, and the numbers choose the words."""

import html
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from unirg.analysis.figures import MEASURE_NAMES, NAMES
from unirg.analysis.report import Sets, answer, main_comparisons, said_of_table, sets_of, with_results, write_report
from unirg.core import RESEARCH_ONLY, StudyError, write_json

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "outputs" / "phantom" / "figures"
SETS = Sets({"rexrank": "Eastholt"}, ("rexrank",))


def difference(low, high, measure="composite_step1", dataset="seen", against="sft", **more):
    n = {"studies": 120, "patients": 80, "seeds": 2}
    return (
        {"run": "rl2", "against": against, "dataset": dataset, "measure": measure, "estimate": (low + high) / 2, "low": low, "high": high}
        | n
        | more
    )


@pytest.fixture
def out(tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    level = {"dataset": "seen", "measure": "composite_step1", "studies": 1497, "patients": 955, "seeds": 2}
    rows = [{"run": run, "estimate": 0.7 + i / 100, "low": 0.69, "high": 0.73} | level for i, run in enumerate(("sft", "rl2"))]
    pd.DataFrame(rows).to_csv(figures / "fig_S1.csv", index=False)
    Image.new("L", (20, 10)).save(figures / "fig_S1.png")
    pd.DataFrame([difference(0.004, 0.012), difference(-0.02, 0.01, dataset="rexrank")]).to_csv(figures / "against.csv", index=False)
    write_json(figures / "65_table_s1.json", ["fig_S1.png", "fig_S1.csv", "against.csv"])
    return tmp_path


def numbers_not_in_their_file(page, figures):
    "Numbers of the page's sentences that the file named in them does not hold; names of measures and systems are no numbers."
    wrong, seen = [], 0
    for source, text in re.findall(r'<(?:p|li) class="said[^"]*" data-source="([^"]+)">(.*?)<cite>', page):
        table, text = pd.read_csv(figures / source), html.unescape(text)
        cells = {str(v) for column in table.select_dtypes(exclude="number") for v in table[column]}
        words = {cell for cell in cells if not cell.isdigit()} | {*NAMES.values(), *MEASURE_NAMES.values(), "F1"}
        for word in sorted(words | {"Published COVID-19 cases"}, key=len, reverse=True):
            text = text.replace(word, " ")
        values = [float(v) for column in table.select_dtypes("number") for v in table[column].dropna()]
        values += [float(cell) for cell in cells if cell.isdigit()]  # a seed beside "all"
        for token in re.findall(r"[-+]?\d[\d,]*\.?\d*", text):
            token = token.rstrip(",.").replace(",", "")
            half, seen = 0.5 * 10 ** -len(token.partition(".")[2]) + 1e-9, seen + 1
            if not any(abs(value - float(token)) <= half for value in values):
                wrong.append((source, token, text))
    return wrong, seen


def test_every_number_of_the_prose_stands_in_the_file_named_after_it(out):
    wrong, seen = numbers_not_in_their_file(write_report(out, "toy", SETS).read_text(), out / "figures")
    assert wrong == [] and seen > 15


def test_so_it_does_on_the_committed_panels(tmp_path):
    shutil.copytree(COMMITTED, tmp_path / "figures")
    page = write_report(tmp_path, "phantom", sets_of(ROOT, "phantom")).read_text()
    wrong, seen = numbers_not_in_their_file(page, COMMITTED)
    assert wrong == [] and seen > 50
    assert all(f'id="{path.stem}"' in page for path in COMMITTED.glob("fig_*.csv"))


@pytest.mark.parametrize(
    ("low", "high", "measure", "word"),
    [
        (0.001, 0.02, "composite_step1", "is better than"),
        (-0.02, -0.001, "composite_step1", "is worse than"),
        (-0.02, -0.001, "judged_errors", "is better than"),
        (0.001, 0.02, "omitted_finding", "is worse than"),
        (-0.001, 0.02, "composite_step1", "is undecided"),
        (0.0, 0.02, "composite_step1", "is undecided"),
        (0.001, 0.02, "words", "is higher than"),
    ],
)
def test_the_interval_chooses_the_word(low, high, measure, word):
    said = said_of_table("t.csv", pd.DataFrame([difference(low, high, measure)]), SETS)
    assert len(said) == 1 and word in said[0].text
    assert ("undecided" in said[0].text) == (low <= 0 <= high)
    assert "120 studies, 80 patients, 2 seeds" in said[0].text


def test_a_difference_that_does_not_stand_correction_is_said_not_to():
    rows = [difference(0.001, 0.02, p=0.03, p_holm=0.2), difference(0.001, 0.02, "fact_f1", p=0.001, p_holm=0.003)]
    first, second = said_of_table("t.csv", pd.DataFrame(rows), SETS)
    assert "not once corrected" in first.text and "p = 0.200 after Holm" in first.text and "not once corrected" not in second.text


def test_a_systems_own_score_is_never_told_as_a_difference():
    "Most panels hold a system's score and, beside it, how far it is from another's."
    own = difference(0.7, 0.8) | {"difference": -0.05, "difference_low": -0.07, "difference_high": -0.03}
    base = {"run": "sft", "against": None, "difference": None, "difference_low": None, "difference_high": None}
    (said,) = said_of_table("fig_4a.csv", pd.DataFrame([difference(0.7, 0.8) | base, own]), SETS)
    assert "is worse than" in said.text and "-0.050 [-0.070, -0.030]" in said.text and "0.750" not in said.text
    (part,) = said_of_table("fig_3b.csv", pd.DataFrame([own]).assign(stratum="2nd", grouping="patient").drop(columns="dataset"), SETS)
    assert "2nd (patient)" in part.text and not part.about, "some studies of a set do not answer for the set"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([difference(0.01, 0.02, dataset="rexrank", against="sft_more")], "RL generalises better here"),
        ([difference(-0.02, -0.01, dataset="rexrank", against="sft_more")], "RL generalises worse here"),
        (
            [difference(-0.02, 0.01, dataset="rexrank", against="sft_more"), difference(0.1, 0.2, against="sft_more")],
            "better is undecided here",
        ),
        ([difference(0.01, 0.02, dataset="rexrank")], "SFT, more) is not among the tables"),
        ([difference(0.01, 0.02)], "is open here"),
        ([], "is open here"),
    ],
)
def test_the_answer_follows_from_the_unseen_institutions_and_the_control(rows, said):
    told = said_of_table("t.csv", pd.DataFrame(rows), SETS) if rows else []
    assert said in answer(main_comparisons(told), SETS)


def test_the_page_stands_alone_and_says_first_what_it_is_not(out):
    page = write_report(out, "toy", SETS).read_text()
    assert page.index(RESEARCH_ONLY) < page.index("<h1>")
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("data:", "#")) for link in links) and "<script" not in page and "<link" not in page
    assert "data:image/png;base64," in page and 'download="fig_S1.csv"' in page
    assert "1a, what the data are made of" in page, "panels that this run has not made are named"
    assert "There are no records" in page


def test_a_panel_nobody_foresaw_is_told_of_with_its_own_words(out):
    table = pd.DataFrame({"camera": ["old <b>", "new"], "estimate": [0.25, 0.5], "low": [0.2, 0.4], "high": [0.3, 0.6], "cases": [30, 40]})
    table.to_csv(out / "figures" / "fig_9z.csv", index=False)
    write_json(out / "figures" / "fig_9z.json", {"title": "Cameras <i>", "legend": "How often the report follows."})
    page = write_report(out, "toy", SETS).read_text()
    assert "Cameras &lt;i&gt;" in page and "How often the report follows." in page and "Cameras <i>" not in page
    assert "new: 0.500 [0.400, 0.600] (40 cases)" in page and "old <b>" not in page


def test_title_question_and_legend_come_from_the_executed_notebook(out):
    prose = ["# Table S1: stages\n**Question**: what did each add?\n\n**Makes** S1.", "## S1\nTicks are `seeds`."]
    write_json(out / "runs" / "table_s1.ipynb", {"cells": [{"cell_type": "markdown", "source": [text]} for text in prose]})
    record = {"task": "table_s1", "notebook": "65_table_s1.ipynb", "code": "c0de", "started": 1.0, "seconds": 61, "commit": "abc123"}
    record |= {"parameters": {"resamples": 1000}, "inputs": {}, "outputs": {"outputs/toy/figures/fig_S1.csv": "d1e5"}}
    write_json(out / "runs" / "table_s1.json", record | {"accepted": [{"said": ["its notebook changed"]}]})
    page = write_report(out, "toy", SETS).read_text()
    for text in (
        "Table S1: stages",
        "what did each add?",
        "Ticks are <code>seeds</code>.",
        "abc123",
        "resamples = 1000",
        "c0de",
        "d1e5",
        "1 min 1 s",
    ):
        assert text in page
    assert "its notebook changed" in page and "Accepted as they were" in page


def test_no_panel_at_all_is_an_error(tmp_path):
    (tmp_path / "figures").mkdir()
    with pytest.raises(StudyError, match="no panel"):
        write_report(tmp_path, "toy", SETS)


def test_readme_is_what_the_committed_tables_say():
    text = (ROOT / "README.md").read_text()
    assert with_results(text, ROOT) == text, "run `make readme`"
    results = text[text.index("<!-- results of") : text.index("<!-- end of results -->")]
    files = re.findall(r"\]\((outputs/[^)]+)\)", results)
    assert any(name.endswith("fig_S1.png") for name in files) and all((ROOT / name).is_file() for name in files)


def test_readme_without_its_markers_is_an_error():
    with pytest.raises(StudyError, match="results section"):
        with_results("# no markers", ROOT)
