"""The report and README's results: every number stands in the file that is named after it, and the numbers choose the words."""

import html
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from unirg.analysis.answer import answer_table
from unirg.analysis.figures import MEASURE_NAMES, NAMES
from unirg.analysis.panels import compare, control_pairs
from unirg.analysis.report import (
    Sets,
    answer,
    controls_of,
    gains_and_losses,
    main_comparisons,
    said_of_table,
    sets_of,
    with_results,
    write_report,
)
from unirg.analysis.subgroups import cannot_conclude
from unirg.core import RESEARCH_ONLY, StudyError, write_json

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "outputs" / "phantom_full" / "figures"
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
        if source == "fig_4d.csv":  # it counts the file's rows by their verdicts
            first = table[table.run == table.run.iloc[0]].fillna({"label": ""})
            assert text.strip() == f"{NAMES[first.run.iloc[0]]}: {cannot_conclude(first)}"
            continue
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


def test_so_it_does_where_the_answer_has_a_panel_of_its_own(out):
    scores = systems(sft=0.5, sft_more=0.51, rl2=0.53)
    table = answer_table(scores, "rl2", ["sft", "sft_more"], [], ["rexrank"], ("composite_step1",), fewest=1)
    table.to_csv(out / "figures" / "fig_answer.csv", index=False, float_format="%.6g")
    page = write_report(out, "toy", SETS).read_text()
    wrong, _ = numbers_not_in_their_file(page, out / "figures")
    head = page[page.index("In short</h2>") : page.index("What holds")]
    assert wrong == [] and "RL generalises better here" in head and head.count('data-source="fig_answer.csv"') >= 3


def test_so_it_does_on_the_committed_panels(tmp_path):
    shutil.copytree(COMMITTED, tmp_path / "figures")
    page = write_report(tmp_path, "phantom_full", sets_of(ROOT, "phantom_full")).read_text()
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
    assert "2nd (patient)" in part.text and part.about.part and part.about.dataset == ""
    assert "is open here" in answer(main_comparisons([part]), Sets({}, ("seen", ""))), "some studies of a set do not answer for the set"


LOST = difference(-0.02, -0.01, dataset="rexrank", against="sft_more")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([difference(0.01, 0.02, dataset="rexrank", against="sft_more")], "RL generalises better here"),
        ([difference(-0.02, -0.01, dataset="rexrank", against="sft_more")], "RL generalises worse here"),
        (
            [difference(-0.02, 0.01, dataset="rexrank", against="sft_more"), difference(0.1, 0.2, against="sft_more")],
            "better is undecided here",
        ),
        (
            [LOST, difference(-0.01, 0.02, dataset="rexrank", against="sft_consensus")],
            "does not generalise better here: there it is worse than SFT, more; against SFT, consensus it is undecided.",
        ),
        (
            [LOST, difference(0.01, 0.02, dataset="rexrank", against="sft_consensus")],
            "there it is worse than SFT, more, though better than SFT, consensus.",
        ),
        ([difference(0.01, 0.02, dataset="rexrank")], "SFT, more) is not among the tables"),
        ([difference(0.01, 0.02)], "is open here"),
        ([], "is open here"),
    ],
)
def test_the_answer_follows_from_the_unseen_institutions_and_the_control(rows, said):
    told = said_of_table("t.csv", pd.DataFrame(rows), SETS) if rows else []
    assert said in answer(main_comparisons(told), SETS)


def systems(**means):
    "Scores of one seed each at an institution never trained on: every study of a run has its mean, give or take little."
    rng, ids = np.random.default_rng(7), [str(i) for i in range(60)]
    known = {"dataset": "rexrank", "study_id": ids, "patient_id": ids}
    drawn = {run: mean + rng.normal(0, 0.02, 60) for run, mean in means.items()}
    return pd.concat([pd.DataFrame({"system": f"{run}-s1", **known, "composite_step1": v}) for run, v in drawn.items()], ignore_index=True)


def answered(scores, validation=None, controls=None):
    "What the page answers from panel 4a on these scores."
    runs = list(scores.system.str.removesuffix("-s1").unique())
    table = compare(scores, ["composite_step1"], "sft", 400, controls=control_pairs(runs) if controls is None else controls)
    tables = [table, pd.DataFrame(validation or {}, columns=["run", "seed", "validation_composite_step1"])]
    return answer(main_comparisons(said_of_table("fig_4a.csv", table, SETS)), SETS, controls_of(tables))


def validated(**means):
    return [{"run": run, "seed": 1, "validation_composite_step1": mean} for run, mean in means.items()]


def test_rl_that_gains_over_sft_and_loses_to_its_control_does_not_generalise_better():
    told = answered(systems(sft=0.5, sft_more=0.9, rl2=0.7))
    assert "RL generalises worse here" in told and "not among the tables" not in told and "against SFT, more: worse" in told
    assert "RL generalises better here" in answered(systems(sft=0.5, sft_more=0.6, rl2=0.7))


def test_a_control_that_is_there_and_was_not_compared_leaves_the_question_open():
    told = answered(systems(sft=0.5, sft_more=0.9, rl2=0.7), controls=[])
    assert "is open here" in told and "not among the tables" not in told and "generalises better here." not in told
    assert "not among the tables" in answered(systems(sft=0.5, rl2=0.7))


def test_rl_has_to_beat_the_control_at_both_learning_rates_whichever_validation_prefers():
    scores = systems(sft=0.5, sft_more=0.9, sft_more_low=0.6, rl2=0.7)
    for own, low, best in ((0.6, 0.8, "SFT, more, low rate"), (0.8, 0.6, "SFT, more")):
        told = answered(scores, validated(sft_more=own, sft_more_low=low))
        assert f"that of {best};" in told and "against SFT, more, low rate: better" in told and "against SFT, more: worse" in told
        assert "does not generalise better here: there it is worse than SFT, more, though better than SFT, more, low rate" in told
    assert "does not generalise better here" in answered(scores)
    assert "RL generalises better here" in answered(systems(sft=0.5, sft_more=0.6, sft_more_low=0.6, rl2=0.7))


def test_what_was_found_on_some_studies_displaces_no_comparison():
    whole, some = difference(-0.004, 0.012, dataset="rexrank"), difference(-0.03, -0.01, dataset="rexrank")
    said = [*said_of_table("fig_4a.csv", pd.DataFrame([whole]), SETS), *said_of_table("fig_headroom.csv", pd.DataFrame([some]), SETS)]
    assert [one.source for one in main_comparisons(said)] == ["fig_4a.csv"]


def test_what_reading_sft_by_consensus_also_gains_is_not_learned_by_rl():
    told = answered(systems(sft=0.5, sft_more=0.6, sft_consensus=0.9, rl2=0.7))
    assert "does not generalise better here: there it is worse than SFT, consensus, though better than SFT, more." in told


def test_a_loss_is_told_first_like_a_gain_whatever_it_is_a_loss_of(out):
    "Fewer false findings, more changes left out: two rows of twenty, neither of a main measure."
    rows = [difference(-0.01, 0.02, f"measure_{i}", p=0.5, p_holm=1.0) for i in range(18)]
    rows += [difference(-0.2, -0.1, "false_finding", p=0.001, p_holm=0.02)]
    rows += [difference(0.01, 0.03, "omitted_comparison", p=0.001, p_holm=0.02)]
    pd.DataFrame(rows).to_csv(out / "figures" / "fig_2f.csv", index=False)
    rates = {"seeds": 1, "studies": 448, "patients": 167, "dataset": "rexrank", "low": 0.0, "high": 1.0}
    own = {"change_f1": (1.0, 0.103, 0.006), "prior_language_with_prior": (0.43, 0.205, 0.035)}
    talk = []
    for measure, values in own.items():
        for run, value in zip(("reference", "sft", "rl2"), values):
            test = {"against": "sft", "difference": value - values[1], "difference_low": -0.2, "difference_high": -0.05, "p_holm": 0.008}
            talk.append({"run": run, "measure": measure, "estimate": value, **rates, **(test if run == "rl2" else {})})
    pd.DataFrame(talk).to_csv(out / "figures" / "fig_3d.csv", index=False)
    page = write_report(out, "toy", SETS).read_text()
    lost = page[page.index("What does not hold") : page.index("What changed")]
    levels = "0.035 against 0.205, the references 0.430"
    assert all(text in lost for text in ("Omitted comparison, the inst", "Change F1, Eastholt", "Prior language, with prior, East", levels))
    assert "False finding" in page[page.index("What holds") : page.index("What does not hold")]
    head = page[page.index("In short</h2>") : page.index("What holds")]
    better, worse = head[head.index(" is better in ") :].split("It is worse in")
    assert "False finding" in better and all(name in worse for name in ("Omitted comparison", "Change F1", "Prior language, with prior"))


def test_a_rate_is_better_where_it_is_nearer_to_the_references():
    row = difference(-0.2, -0.05, "prior_language_with_prior", level=0.3, level_against=0.45, reference=0.2)
    assert said_of_table("t.csv", pd.DataFrame([row]), SETS)[0].verdict == "better"
    assert said_of_table("t.csv", pd.DataFrame([row | {"reference": 0.5}]), SETS)[0].verdict == "worse"
    assert said_of_table("t.csv", pd.DataFrame([row | {"reference": 0.4}]), SETS)[0].verdict == "lower", "it went past it"


def test_of_two_panels_that_made_the_same_comparison_the_loss_is_told():
    small = said_of_table("a.csv", pd.DataFrame([difference(-0.03, -0.01, p=0.01, p_holm=0.2)]), SETS)
    large = said_of_table("b.csv", pd.DataFrame([difference(-0.03, -0.01, p=0.01, p_holm=0.01)]), SETS)
    for said in (small + large, large + small):
        (one,) = main_comparisons(said)
        assert one.verdict == "worse" and "worse in Composite reward" in gains_and_losses([one], SETS)


def test_gains_and_contrasts_are_told_as_what_they_are():
    n = {"studies": 120, "patients": 80, "seeds": 2}
    gain = {"run": "rl1", "start": "sft", "reward": "step1", **n}
    rows = [gain | {"measure": "fact_f1", "estimate": 0.8, "low": 0.2, "high": 1.4, "p": 0.001, "p_holm": 0.01}]
    rows += [gain | {"measure": "judged_errors", "run": "rl2", "estimate": -3.0, "low": -5.0, "high": -1.0, "p": 0.001, "p_holm": 0.01}]
    rows += [gain | {"measure": "bleu2", "run": "rl2", "estimate": 0.5, "low": -1.0, "high": 2.0, "p": 0.5, "p_holm": 1.0}] * 6
    said = said_of_table("fig_2b.csv", pd.DataFrame(rows), SETS)
    assert len(said) == len(rows), "no run is dropped at the end"
    assert "SFT, RL step 1 gained over SFT (+0.800 % [+0.200, +1.400]; p = 0.010 after Holm; 120 studies" in said[0].text
    assert "fewer is a gain" in said[1].text and "SFT, RL steps 1+2 lost against SFT (-3.000 %" in said[1].text
    assert said[1].verdict == "worse"
    assert "undecided" in said[2].text and said[2].verdict == "undecided"
    row = {"run": "sft", "measure": "composite_step1", "contrast": "later encounters less first ones", "grouping": "patient", **n}
    row |= {"estimate": -0.2, "low": -0.3, "high": -0.1, "p": 0.01}
    (drift,) = said_of_table("table_3b_drift.csv", pd.DataFrame([row]), SETS)
    assert "of SFT, later encounters less first ones (patient): lower (-0.200 [-0.300, -0.100]" in drift.text


def test_a_long_table_that_no_sentence_fits_is_not_told_by_its_first_rows():
    table = pd.DataFrame({"camera": [f"camera {i}" for i in range(9)], "estimate": 0.5, "low": 0.4, "high": 0.6})
    assert said_of_table("t.csv", table, SETS) == [] and len(said_of_table("t.csv", table[:3], SETS)) == 1


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


def told_of(name, rows, tmp_path):
    "Sentences of a table as it is read from its file."
    pd.DataFrame(rows).to_csv(tmp_path / name, index=False)
    return [one.text for one in said_of_table(name, pd.read_csv(tmp_path / name), SETS)]


@pytest.mark.parametrize(
    "lows, said",
    [
        ((-0.02, -0.01), "sees more than SFT does at some threshold is not shown"),
        ((0.01, -0.01), "The trainings do not agree"),
        ((0.01, 0.02), "stands above what SFT reaches at any threshold"),
    ],
)
def test_seeing_more_is_said_only_where_every_training_stands_above_the_curve(lows, said, tmp_path):
    rows = [{"kind": "curve", "run": "sft", "seed": 1, "sensitivity": 0.5, "false_positives": 0.1}]
    for seed, low in enumerate(lows, 1):
        height = {"kind": "above the curve", "way": "common", "seed": seed, "estimate": 0.03, "high": 0.05, "verdict": ""}
        rows += [height | {"run": "rl2", "low": low}, height | {"run": "sft", "low": -0.04}]
    *_, last = told_of("fig_operating_point.csv", rows, tmp_path)
    assert said in last and f"{lows[0]:+.3f}" in last and "The same of SFT as it writes" in last


def test_true_errors_are_told_of_whether_or_not_they_changed_and_what_was_rewarded_is_not(tmp_path):
    row = {"run": "rl2", "start": "rl1", "estimate": 0.01, "low": -0.01, "high": 0.03, "before": 1.0, "after": 1.01, "studies": 90}
    rows = [
        row | {"measure": "errors_film", "inside": False, "verdict": "no difference shown"},
        row | {"measure": "words", "inside": False, "verdict": "no difference shown"},
        row | {"measure": "stated", "inside": False, "verdict": "less"},
        row | {"measure": "fact_f1", "inside": True, "verdict": "better"},
    ]
    (text,) = told_of("fig_hacking.csv", rows, tmp_path)
    assert "True errors (film): no difference shown" in text and "Findings stated: less" in text
    assert "Fact F1" not in text and "Words" not in text and "90 studies" in text


def test_a_difference_is_told_with_the_studies_it_rests_on(tmp_path):
    row = {"run": "rl2", "against": "sft_consensus", "dataset": "rexrank", "measure": "judged_errors", "estimate": 1.0, "low": 0.9}
    row |= {"high": 1.1, "difference": -0.2, "difference_low": -0.3, "difference_high": -0.1, "p_holm": 0.01}
    row |= {"studies": 3613, "patients": 2235, "seeds": 5, "difference_studies": 997, "difference_patients": 719, "difference_seeds": 2}
    (text,) = told_of("fig_4a.csv", [row], tmp_path)
    assert "997 studies, 719 patients, 2 seeds" in text and "3,613" not in text
