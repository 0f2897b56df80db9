"""The study's question in one table: whom RL is held against, on which studies and seeds, and which tests are corrected together."""

import json
import shutil
from functools import partial

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from study_notebooks import run_notebook

from unirg.analysis.answer import ANSWERED, answer_table, claim_pairs, claims_table, opponents_of, panel_answer
from unirg.analysis.figures import colour_of, name_of, save_panel, validation_table
from unirg.analysis.panels import pool_seen
from unirg.analysis.report import (
    ANSWER,
    Sets,
    answer,
    answer_rows,
    controls_of,
    main_comparisons,
    said_of_claims,
    said_of_table,
    write_report,
)
from unirg.analysis.statistics import holm
from unirg.core import StudyError, write_json

matplotlib.use("Agg")
small_table = partial(answer_table, fewest=1)  # toy sets are small
TRAINING, UNSEEN = ["a", "b"], ["new"]
SETS = Sets({"a": "Aldermoor", "b": "Brackwater", "new": "Eastholt"}, ("new",))
TITLES = {"seen": "Trained on, pooled", "new": "Eastholt, never trained on", "a": "Aldermoor", "b": "Brackwater"}


def scores(noise=0.02, n=60, seeds=(1, 2), fewer=None, **gain):
    "Studies of every set, two of each patient; a run has its gain over 0.5 in every measure, and as many errors less."
    rng, rows = np.random.default_rng(3), []
    for run, more in gain.items():
        for s in [1] if run.endswith("_low") else seeds:
            for dataset in (*TRAINING, *UNSEEN):
                size = (fewer or {}).get(run, n)
                value = 0.5 + more + 0.01 * s + rng.normal(0, noise, size)
                known = {"system": f"{run}-s{s}", "dataset": dataset, "study_id": [f"s{i}" for i in range(size)]}
                known |= {"patient_id": [f"p{i // 2}" for i in range(size)], "composite_step1": value, "label_f1": value / 2}
                rows.append(pd.DataFrame({**known, "judged_errors": 3 - 2 * value}))
    return pd.concat(rows, ignore_index=True)


def validated(**means):
    "Validation composites by run, a value a seed."
    rows = [(run, str(s), value) for run, values in means.items() for s, value in enumerate(values, 1)]
    return pd.DataFrame(rows, columns=["run", "seed", "validation_composite_step1"])


def told(table, validation=None):
    said = said_of_table(ANSWER, table, SETS)
    runs = pd.DataFrame({"run": [*table.run, *table.against]})
    return answer(main_comparisons(said), SETS, controls_of([runs, *([] if validation is None else [validation])]))


def answered(gain, against=("sft", "sft_more"), **more):
    return small_table(scores(**gain, **more), "rl2", list(against), TRAINING, UNSEEN, resamples=1000)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_opponents_are_sft_each_rate_the_better_on_validation_first_and_consensus():
    systems = ["base", "sft", "sft_more", "sft_more_low", "rl1", "rl2", "sft_consensus", "theirs"]
    assert opponents_of(systems, validated(sft_more=[0.7, 0.7], sft_more_low=[0.8, 0.8]))[1:3] == ["sft_more_low", "sft_more"]
    assert opponents_of(systems, validated(sft_more=[0.8, 0.8], sft_more_low=[0.7, 0.7]))[1:3] == ["sft_more", "sft_more_low"]
    both = opponents_of(systems, validated())
    assert set(both) == {"sft", "sft_more", "sft_more_low", "sft_consensus"}, "where nothing chooses it is held against both"
    assert opponents_of(["sft", "rl2"], validated()) == ["sft"] and opponents_of(["rl2", "theirs"], validated()) == []


def test_the_learning_rate_that_is_preferred_is_so_on_the_seeds_that_both_have():
    "The low rate was tried with one seed, of which every run starts higher than of the other."
    validation = validated(sft_more=[0.81, 0.70], sft_more_low=[0.80])
    assert opponents_of(["sft", "sft_more", "sft_more_low"], validation) == ["sft", "sft_more", "sft_more_low"]
    apart = pd.concat([validated(sft_more=[0.81]), validated(sft_more_low=[0.9]).assign(seed="2")])
    assert len(opponents_of(["sft", "sft_more", "sft_more_low"], apart)) == 3, "no seed in common chooses nothing"


def test_levels_differences_and_n_are_of_the_studies_both_were_scored_on():
    gain = {"sft": 0.0, "sft_consensus": 0.02, "rl2": 0.03}
    made = scores(**gain, fewer={"sft_consensus": 20})
    table = small_table(made, "rl2", ["sft", "sft_consensus"], TRAINING, UNSEEN, resamples=300)
    table = table.set_index(["against", "dataset", "measure"])
    few = made[(made.dataset == "new") & made.study_id.isin([f"s{i}" for i in range(20)])].groupby("system")["label_f1"].mean()
    row = table.loc["sft_consensus", "new", "label_f1"]
    assert (row.studies, row.patients, row.seeds) == (20, 10, 2)
    assert row.estimate == pytest.approx(few[["rl2-s1", "rl2-s2"]].mean())
    assert row.estimate_against == pytest.approx(few[["sft_consensus-s1", "sft_consensus-s2"]].mean())
    assert row.difference == pytest.approx(row.estimate - row.estimate_against)
    assert row.difference_low < row.difference < row.difference_high
    each = [few[f"rl2-s{s}"] - few[f"sft_consensus-s{s}"] for s in (1, 2)]
    assert [float(v) for v in row.difference_by_seed.split()] == pytest.approx(each, abs=1e-4)
    assert table.loc["sft", "new", "label_f1"].studies == 60 and table.loc["sft", "seen", "label_f1"].studies == 120


def test_a_control_with_one_seed_is_compared_with_that_seed_of_rl():
    made = scores(sft=0.0, sft_more_low=0.0, rl2=0.0, noise=0.0)
    made.loc[made.system == "rl2-s2", list(ANSWERED)] += 1.0
    table = small_table(made, "rl2", ["sft", "sft_more_low"], TRAINING, UNSEEN, resamples=100).set_index(["against", "dataset", "measure"])
    low = table.loc["sft_more_low", "new", "composite_step1"]
    assert low.seeds == 1 and low.difference == pytest.approx(0, abs=1e-9), "a seed that the control has not is no gain"
    assert table.loc["sft", "new", "composite_step1"].difference == pytest.approx(0.5)


def test_holm_is_over_each_family_alone():
    table = answered({"sft": 0.0, "sft_more": 0.004, "rl2": 0.006})
    first, second = (table[table.family == name] for name in ("primary", "secondary"))
    assert set(first.dataset) == {"seen", "new"} and set(second.dataset) == {"a", "b"} and len(first) == len(second) == 2 * 2 * 3
    for part in (first, second):
        assert part.p_holm.tolist() == pytest.approx(holm(part.p))
        assert part.test.nunique() == 1 and part.family.iloc[0] in part.test.iloc[0]
    assert table.p_holm.tolist() != pytest.approx(holm(table.p).tolist())
    alone = small_table(scores(sft=0.0, rl2=0.1), "rl2", ["sft"], ["a"], UNSEEN, resamples=100)
    assert set(alone.family) == {"primary"}, "one institution trained on is the pool itself"


def test_a_small_set_is_no_part_of_the_answer():
    table = answer_table(scores(sft=0.0, rl2=0.1), "rl2", ["sft"], TRAINING, UNSEEN, resamples=100)  # 60 studies of the unseen one
    assert set(table[table.family == "primary"].dataset) == {"seen"} and "new" in set(table[table.family == "secondary"].dataset)
    assert "is open here" in told(table) and "Eastholt" not in told(table)
    assert "RL generalises better here" in told(answered({"sft": 0.0, "rl2": 0.1}, against=["sft"]))


def test_no_shared_study_is_an_error():
    with pytest.raises(StudyError, match="rl2 was scored on no study"):
        small_table(scores(sft=0.0), "rl2", ["sft"], TRAINING, UNSEEN)


# ---------------------------------------------------------------- the report


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        ({"sft": 0.0, "sft_more": 0.0, "rl2": 0.05}, "Composite reward: RL generalises better here."),
        ({"sft": 0.0, "sft_more": 0.1, "rl2": 0.05}, "Composite reward: RL generalises worse here."),
        ({"sft": 0.0, "sft_more": 0.0, "rl2": 0.0}, "Composite reward: Whether RL generalises better is undecided here."),
    ],
)
def test_the_answer_has_verdict_difference_interval_and_n_of_every_opponent(gain, said):
    table = answered(gain)
    text = told(table)
    assert text.startswith(said) and "a family of their own" in text
    key = table.set_index(["against", "dataset", "measure"])
    for against in ("sft", "sft_more"):
        row = key.loc[against, "new", "composite_step1"]
        (paragraph,) = [part for part in text.split("\n\n") if part.startswith(f"{name_of('rl2')} against {name_of(against)}. ")]
        found = "undecided" if row.p_holm >= 0.05 else "better" if row.difference > 0 else "worse"
        assert f"Composite reward: {found} on Eastholt (never trained on) (difference {row.difference:+.3f} [" in paragraph
        assert "60 studies, 30 patients, 2 seeds" in paragraph and "Label F1, per report: " in paragraph


def test_an_opponent_that_rl_does_not_beat_leaves_the_answer_undecided():
    text = told(answered({"sft": 0.0, "sft_more": 0.0, "sft_consensus": 0.05, "rl2": 0.05}, ("sft", "sft_more", "sft_consensus")))
    assert "undecided here. It is better than SFT, more there, but that is not shown against SFT, consensus." in text


def test_a_measure_that_says_otherwise_is_told_beside_the_composite():
    made = scores(sft=0.0, sft_more=0.0, rl2=0.05).assign(label_f1=lambda t: 0.8 - t.composite_step1)
    text = told(small_table(made, "rl2", ["sft", "sft_more"], TRAINING, UNSEEN, resamples=1000))
    assert text.startswith("Composite reward: RL generalises better here. Label F1, per report: RL generalises worse here.")


def test_institutions_where_it_is_shown_are_named_where_others_leave_it_open():
    made = scores(sft=0.0, sft_more=0.0, rl2=0.05)
    small = made[(made.dataset == "new") & made.study_id.isin(["s0", "s2", "s4", "s6"])].assign(dataset="tiny")
    table = small_table(pd.concat([made, small]), "rl2", ["sft", "sft_more"], TRAINING, ["new", "tiny"], resamples=1000)
    sets = Sets({"new": "Eastholt", "tiny": "Four films"}, ("new", "tiny"))
    text = answer(main_comparisons(said_of_table(ANSWER, table, sets)), sets)
    assert "RL is better than each of them on Eastholt (never trained on); elsewhere" in text and "generalises better here" not in text


def test_the_panel_counts_whatever_another_table_says_of_the_same_comparison():
    "In another panel the same difference does not stand, or is a loss, for the number of tests there."
    table = answered({"sft": 0.0, "sft_more": 0.0, "rl2": 0.05})
    mine = said_of_table(ANSWER, table, SETS)
    low = {"difference": -0.2, "difference_low": -0.3, "difference_high": -0.1, "p_holm": 0.01}
    other = said_of_table("fig_4a.csv", table.assign(**low), SETS)
    for said in (mine + other, other + mine):
        kept = {one.about: one for one in main_comparisons(said)}
        assert {one.source for one in kept.values()} == {ANSWER} and {one.verdict for one in kept.values()} == {"better"}


def test_page_and_sentences_hold_the_numbers_of_the_panel(tmp_path):
    table = answered({"sft": 0.0, "sft_more": 0.0, "rl2": 0.05})
    (tmp_path / "figures").mkdir()
    save_panel(panel_answer(table, TITLES)[0], table, tmp_path / "figures", "answer")
    write_json(tmp_path / "figures" / "66_answer.json", ["fig_answer.png", "fig_answer.csv"])
    page = write_report(tmp_path, "toy", SETS).read_text()
    head = page[page.index("In short</h2>") : page.index("What holds")]
    assert "RL generalises better here" in head and f'data-source="{ANSWER}"' in head and "<cite>fig_answer.csv</cite>" in head
    assert "Panel answer: RL against SFT and its controls" in page
    missing = page[page.index("Panels of the paper that this run did not make") :]
    assert "answer" not in missing[: missing.index("</li>")]
    write_json(tmp_path / "figures" / "66_answer.json", [])  # of a profile without such a run
    (tmp_path / "figures" / "fig_S1.csv").write_text("run,seed\nsft,1\n")
    write_json(tmp_path / "figures" / "65_table_s1.json", ["fig_S1.csv"])
    for file in (tmp_path / "figures").glob("fig_answer.*"):
        file.unlink()
    page = write_report(tmp_path, "toy", SETS).read_text()
    assert "Panel answer" not in page and "66 answer" not in page and 'id="fig_S1"' in page


# ---------------------------------------------------------------- the panel


def test_right_is_better_in_every_axis_and_stars_stand_the_correction():
    table = answered({"sft": 0.0, "sft_more": 0.05, "rl2": 0.05})
    figure, made = panel_answer(table, TITLES)
    pd.testing.assert_frame_equal(made, table)
    for ax, measure in zip(figure.axes, ANSWERED):
        assert ax.xaxis_inverted() == (measure == "judged_errors") and "right is better" in ax.get_xlabel()
        stars = sum(text.get_text() == "*" for text in ax.texts)
        assert stars == (table[table.measure == measure].p_holm < 0.05).sum() > 0
        drawn = {tuple(to_rgb(line.get_color())) for line in ax.lines}
        assert {tuple(to_rgb(colour_of(other))) for other in ("sft", "sft_more")} <= drawn
    assert figure.axes[2].xaxis_inverted() and "axis reversed" in figure.axes[2].get_xlabel()


def test_n_is_in_the_row_labels_and_no_label_covers_another(tmp_path):
    table = answered({"sft": 0.0, "sft_consensus": 0.0, "rl2": 0.05}, ("sft", "sft_consensus"), fewer={"sft_consensus": 20})
    figure, _ = panel_answer(table, TITLES)
    figure.draw_without_rendering()
    labels = [label for label in figure.axes[0].get_yticklabels() if label.get_text()]
    assert [label.get_text().split("\n")[0] for label in labels] == [
        "The answer", "Trained on, pooled", "Eastholt, never trained on", "Beside it, each set alone", "Aldermoor", "Brackwater",
    ]  # fmt: skip
    assert "120 studies, 60 patients" in labels[1].get_text() and "SFT, consensus: 40, 20" in labels[1].get_text()
    boxes = [label.get_window_extent() for label in labels]
    assert not [1 for i, one in enumerate(boxes) for other in boxes[i + 1 :] if one.padded(-0.6).overlaps(other.padded(-0.6))]
    assert all(path.stat().st_size > 500 for path in save_panel(figure, table, tmp_path, "answer"))


def test_the_readme_table_tells_each_difference_with_its_verdict():
    known = {"family": "primary", "run": "rl2", "against": "sft", "dataset": "new", "p_holm": 0.01}
    known |= {"studies": 400, "patients": 200, "seeds": 2}
    rows = [
        {"measure": "composite_step1", "difference": 0.02, "difference_low": 0.01, "difference_high": 0.03},
        {"measure": "label_f1", "difference": -0.02, "difference_low": -0.03, "difference_high": -0.01},
        {"measure": "judged_errors", "difference": 0.2, "difference_low": 0.1, "difference_high": 0.3, "p_holm": 0.2},
    ]
    table = pd.DataFrame([known | {"estimate": 1.0, "low": 0.9, "high": 1.1} | row for row in rows])
    head, _, line = answer_rows(pd.concat([table, table.assign(family="secondary", dataset="a")]), SETS)
    assert head == "| Against | on | Composite reward | Label F1, per report | Judged errors a report | n |"
    assert line == (
        "| SFT | Eastholt (never trained on) | **+0.020 [+0.010, +0.030]** better | **-0.020 [-0.030, -0.010]** worse "
        "| +0.200 [+0.100, +0.300] | 400 studies, 200 patients, 2 seeds |"
    )


def test_the_run_that_the_answer_is_about_is_the_one_its_panel_names():
    rows = [
        {"run": run, "against": "sft", "dataset": "new", "measure": "composite_step1", "estimate": 0.5, "low": 0.4, "high": 0.6}
        | {"difference": 0.1, "difference_low": 0.05, "difference_high": 0.15, "p_holm": 0.01, "studies": 200}
        for run in ("rl1", "rl_facts", "rl1_prior")
    ]
    panel = said_of_table(ANSWER, pd.DataFrame(rows[:1]).assign(family="primary"), SETS)
    others = said_of_table("fig_4a.csv", pd.DataFrame(rows), SETS)
    assert {one.about.run for one in main_comparisons([*others, *panel])} == {"rl1"}
    assert {one.about.run for one in main_comparisons(others)} == {"rl_facts"}


# ---------------------------------------------------------------- the paper's other claims


def stages(*runs, prior=False, steps=30):
    "A lineage: SFT, then a step of reinforcement learning for each (run, reward)."
    steps = [{"run": run, "kind": "grpo", "job": {"prior": prior}, "recipe": {"reward": how, "steps": steps}} for run, how in runs]
    return [{"run": "base", "kind": "base", "job": {}, "recipe": {}}, {"run": "sft", "kind": "sft", "job": {}, "recipe": {}}, *steps]


def test_a_claim_compares_runs_of_the_same_checkpoint_and_compute():
    told = {"base": stages()[:1], "sft": stages(), "rl1": stages(("rl1", "step1"))}
    assert claim_pairs(told) == {"steps": [], "combined": []}  # nothing to hold it against
    told |= {"rl2": stages(("rl1", "step1"), ("rl2", "step2")), "rl_bleu": stages(("rl_bleu", "bleu"))}
    told |= {"rl_facts": stages(("rl_facts", "fact_f1=1")), "rl1_prior": stages(("rl1_prior", "step1"), prior=True)}
    told["rl_labels"] = stages(("rl_labels", "labels"), steps=5)  # of less compute
    told["rl_only"] = [stages()[0], {**stages(("rl_only", "step1"))[-1]}]  # did not start from SFT
    assert claim_pairs(told) == {"steps": [("rl2", "rl1")], "combined": [("rl1", "rl_bleu"), ("rl1", "rl_facts")]}


INSIDE = {"rl1": {"composite_step1"}, "rl2": {"composite_step1", "judged_errors"}, "rl_bleu": set(), "rl_facts": {"label_f1"}}


def test_on_balance_is_the_difference_of_the_gains_that_panel_2b_shows_on_the_seeds_that_both_have():
    from unirg.analysis.panels import gains

    measures = ["composite_step1", "label_f1", "judged_errors"]
    given, pairs = scores(sft=0.0, rl1=0.05, rl_bleu=-0.03), {"steps": [], "combined": [("rl1", "rl_bleu")]}
    fewer = given[given.system != "rl_bleu-s2"]
    for scored, seeds in ((given, 2), (fewer, 1)):
        table = claims_table(scored, pairs, TRAINING, UNSEEN, measures, INSIDE, resamples=500).set_index("claim")
        both = scored if seeds == 2 else scored[scored.system.str.endswith("-s1")]
        shown = gains(pool_seen(both, TRAINING), ["rl1", "rl_bleu"], "sft", measures, 50)
        shown = shown[shown.measure == "balance"].set_index("run")["estimate"]
        assert table.difference["combined"] == pytest.approx(shown["rl1"] - shown["rl_bleu"])
        assert table.estimate["combined"] == pytest.approx(shown["rl1"])
        assert table.difference_low["combined"] > 0 and table.seeds.tolist() == [seeds, seeds]
        assert table.measures.tolist() == [" ".join(measures), "label_f1 judged_errors"]


def test_a_gain_over_a_checkpoint_without_scores_is_refused():
    for value in (np.nan, 0.0):
        given = scores(sft=0.0, rl1=0.05, rl_bleu=-0.03)
        given.loc[given.system.str.startswith("sft"), "label_f1"] = value
        with pytest.raises(StudyError, match="label_f1"):
            claims_table(given, {"steps": [], "combined": [("rl1", "rl_bleu")]}, TRAINING, UNSEEN, ["label_f1"], INSIDE)


def test_the_claims_are_corrected_together_and_told_one_by_one():
    pairs = {"steps": [("rl2", "rl1")], "combined": [("rl1", "rl_bleu"), ("rl1", "rl_facts")]}
    given = scores(sft=0.0, rl1=0.02, rl2=0.05, rl_bleu=-0.02, rl_facts=0.02)
    table = claims_table(given, pairs, TRAINING, UNSEEN, ["composite_step1", "judged_errors"], INSIDE, resamples=500, fewest=1)
    assert table[["claim", "run", "against", "dataset"]].values.tolist() == [
        ["steps", "rl2", "rl1", "seen"],
        ["steps", "rl2", "rl1", "new"],
        ["combined", "rl1", "rl_bleu", "seen"],
        ["combined_outside", "rl1", "rl_bleu", "seen"],
        ["combined", "rl1", "rl_facts", "seen"],
        ["combined_outside", "rl1", "rl_facts", "seen"],
    ]
    assert table.p_holm.tolist() == pytest.approx(list(holm(table.p.to_numpy())))
    steps, combined, outside = said_of_claims({"table_claims.csv": table}, SETS)
    assert "shown against SFT, RL on BLEU-2 by Judged errors a report (" in outside.text and "neither was rewarded for" in outside.text
    assert steps.text.count(": shown on") == 1 and "shown on Eastholt (never trained on) (difference -0.0" in steps.text
    assert "shown against SFT, RL on BLEU-2" in combined.text and "not shown against SFT, RL on facts" in combined.text
    turned = {"steps": [("rl1", "rl2")], "combined": []}
    less = claims_table(given, turned, TRAINING, UNSEEN, ["label_f1"], INSIDE, resamples=500, fewest=100)
    assert less.dataset.tolist() == ["seen"], "a set of few studies is no part of a claim"
    assert "the contrary is shown on" in said_of_claims({"table_claims.csv": less}, SETS)[0].text
    assert claims_table(given, {"steps": [], "combined": []}, TRAINING, UNSEEN, ["label_f1"], INSIDE).empty
    assert said_of_claims({}, SETS) == []


def test_priors_count_as_help_where_reports_are_worse_without_them():
    found = [
        ("rl1_prior_other", "rl1_prior", "judged_errors", 0.4),
        ("rl1_prior_none", "rl1_prior", "composite_step1", 0.0),
        ("rl1_prior_none", "rl1_prior", "judged_errors", -0.4),
        ("rl1_prior", "sft", "judged_errors", -0.4),
    ]
    table = pd.DataFrame(found, columns=["run", "against", "measure", "difference"]).assign(dataset="a", estimate=0.5, low=0.1, high=0.9)
    table = table.assign(difference_low=table.difference - 0.1, difference_high=table.difference + 0.1, p_holm=0.01, studies=90)
    (told,) = said_of_claims({"fig_3a.csv": table}, SETS)
    assert told.text.startswith("That RL step 1 with priors is helped by the patient's own prior: shown by Judged errors a report with")
    assert "; not shown by Composite reward with no prior" in told.text
    assert "; the contrary is shown by Judged errors a report with no prior" in told.text


# ---------------------------------------------------------------- the notebook


@pytest.mark.parametrize("runs", [["base", "sft"], ["base", "rl_only"], []])
def test_a_profile_without_rl_from_sft_has_no_such_panel(tmp_path, runs):
    (tmp_path / "figures").mkdir()
    run_notebook("66_answer", out=str(tmp_path), runs=runs, scored=[f"{run}-s1" for run in runs])
    assert json.loads((tmp_path / "figures" / "66_answer.json").read_text()) == [] and not list((tmp_path / "figures").glob("fig_*"))


def test_the_validation_table_holds_runs_that_kept_validation_scores(tmp_path):
    for name, value in (("sft-s1", 0.7), ("rl2-s1", 0.8)):
        (tmp_path / name).mkdir()
        pd.DataFrame({"step": [1, 2], "eval_composite_step1": [0.1, value]}).to_csv(tmp_path / name / "log.csv", index=False)
        write_json(tmp_path / name / "training.json", {})
    (tmp_path / "rl1-s1").mkdir()
    table = validation_table(tmp_path, ["sft", "rl1", "rl2"], ["sft-s1", "rl1-s1", "rl2-s1"])
    assert table.values.tolist() == [["sft", "1", 0.7], ["rl2", "1", 0.8]]
    shutil.rmtree(tmp_path / "sft-s1")
    assert validation_table(tmp_path, ["sft"], ["sft-s1"]).empty
