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

from unirg.analysis.answer import ANSWERED, answer_table, claim_pairs, claims_table, baselines_for, panel_answer
from unirg.analysis.figures import colour_of, save_panel, validation_table
from unirg.analysis.panels import pool_seen
from unirg.analysis.report import Sets, answer_markdown, decide
from unirg.analysis.statistics import holm
from unirg.core import StudyError, write_json

matplotlib.use("Agg")
small_table = partial(answer_table, min_studies=1)  # toy sets are small
TRAINING, UNSEEN = ["a", "b"], ["new"]
SETS = Sets({"a": "Aldermoor", "b": "Brackwater", "new": "Eastholt"}, ("new",))
TITLES = {"seen": "Trained on, pooled", "new": "Eastholt, never trained on", "a": "Aldermoor", "b": "Brackwater"}


def scores(noise=0.02, n=60, seeds=(1, 2), fewer=None, **gain):
    "Studies of every set, two of each patient; a run has its gain over 0.5 in every measure, and as many errors less."
    rng, rows = np.random.default_rng(3), []
    for run, more in gain.items():
        for s in [1] if run.endswith("_low_lr") else seeds:
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


def answered(gain, against=("sft", "sft_matched"), **more):
    return small_table(scores(**gain, **more), "rl2", list(against), TRAINING, UNSEEN, resamples=1000)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_the_opponents_are_sft_each_rate_the_better_on_validation_first_and_consensus():
    systems = ["base", "sft", "sft_matched", "sft_matched_low_lr", "rl1", "rl2", "sft_consensus", "theirs"]
    assert baselines_for(systems, validated(sft_matched=[0.7, 0.7], sft_matched_low_lr=[0.8, 0.8]))[1:3] == [
        "sft_matched_low_lr", "sft_matched",
    ]
    assert baselines_for(systems, validated(sft_matched=[0.8, 0.8], sft_matched_low_lr=[0.7, 0.7]))[1:3] == [
        "sft_matched", "sft_matched_low_lr",
    ]
    both = baselines_for(systems, validated())
    assert set(both) == {"sft", "sft_matched", "sft_matched_low_lr", "sft_consensus"}, "where nothing chooses it is held against both"
    assert baselines_for(["sft", "rl2"], validated()) == ["sft"] and baselines_for(["rl2", "theirs"], validated()) == []


def test_one_text_for_everybody_is_an_opponent_of_every_seed():
    table = scores(rl2=0.1, sft=0.0)
    text = scores(seeds=(1,), one=0.105).assign(system="best_constant")
    made = small_table(pd.concat([table, text]), "rl2", ["sft", "best_constant"], TRAINING, UNSEEN, resamples=500)
    levels = made[made.dataset == "seen"].set_index(["against", "measure"])
    assert baselines_for(["sft", "rl2", "best_constant"], validated()) == ["sft", "best_constant"]
    assert levels.estimate["best_constant", "composite_step1"] == levels.estimate["sft", "composite_step1"], "RL's seeds all count"
    assert levels.p_holm["sft", "composite_step1"] < 0.05 < levels.p_holm["best_constant", "composite_step1"]
    assert levels.difference["best_constant", "composite_step1"] == pytest.approx(0.0, abs=0.01)


def test_the_learning_rate_that_is_preferred_is_so_on_the_seeds_that_both_have():
    "The low rate was tried with one seed, of which every run starts higher than of the other."
    validation = validated(sft_matched=[0.81, 0.70], sft_matched_low_lr=[0.80])
    assert baselines_for(["sft", "sft_matched", "sft_matched_low_lr"], validation) == ["sft", "sft_matched", "sft_matched_low_lr"]
    apart = pd.concat([validated(sft_matched=[0.81]), validated(sft_matched_low_lr=[0.9]).assign(seed="2")])
    assert len(baselines_for(["sft", "sft_matched", "sft_matched_low_lr"], apart)) == 3, "no seed in common chooses nothing"


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
    made = scores(sft=0.0, sft_matched_low_lr=0.0, rl2=0.0, noise=0.0)
    made.loc[made.system == "rl2-s2", list(ANSWERED)] += 1.0
    table = small_table(made, "rl2", ["sft", "sft_matched_low_lr"], TRAINING, UNSEEN, resamples=100).set_index(
        ["against", "dataset", "measure"]
    )
    low = table.loc["sft_matched_low_lr", "new", "composite_step1"]
    assert low.seeds == 1 and low.difference == pytest.approx(0, abs=1e-9), "a seed that the control has not is no gain"
    assert table.loc["sft", "new", "composite_step1"].difference == pytest.approx(0.5)


def test_holm_is_over_each_family_alone():
    table = answered({"sft": 0.0, "sft_matched": 0.004, "rl2": 0.006})
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
    assert "Eastholt" not in "".join(answer_markdown(table, SETS))
    assert "Eastholt" in "".join(answer_markdown(answered({"sft": 0.0, "rl2": 0.1}, against=["sft"]), SETS))


def test_no_shared_study_is_an_error():
    with pytest.raises(StudyError, match="rl2 was scored on no study"):
        small_table(scores(sft=0.0), "rl2", ["sft"], TRAINING, UNSEEN)


# ---------------------------------------------------------------- the results page


@pytest.mark.parametrize(("gain", "found"), [(0.05, "better"), (-0.05, "worse"), (0.0, "undecided")])
def test_the_answer_has_a_sign_for_every_opponent_measure_and_set(gain, found):
    table = answered({"sft": 0.0, "sft_matched": 0.0, "rl2": gain}, n=120)
    assert {decide(row) for row in table[table.against == "sft"].to_dict("records")} == {found}, "fewer errors are better"
    lines = [line for line in answer_markdown(table, SETS) if line.startswith("|")]
    first = [line.split(" | ")[0] for line in lines]
    assert first == ["| SFT + RL against", "|---|---|---|---|", "| SFT", "| SFT, same compute as RL", "| SFT + RL itself"]
    assert sum(line.count(" / ") for line in lines) == 3 * 3, "trained on and never trained on, in every cell"


def test_an_opponent_that_rl_does_not_beat_is_marked_beside_one_that_it_beats():
    made = answered({"sft": 0.0, "sft_consensus": 0.05, "rl2": 0.05}, ("sft", "sft_consensus"), n=120)
    by = {line.split(" | ")[0]: line for line in answer_markdown(made, SETS)}
    assert by["| SFT"].count("▲") == 6 and "▼" not in by["| SFT"] and by["| SFT, consensus"].count("○") > 0


def test_a_measure_that_says_otherwise_stands_beside_the_composite():
    made = scores(sft=0.0, rl2=0.05, n=120).assign(label_f1=lambda t: 0.8 - t.composite_step1)
    line = answer_markdown(small_table(made, "rl2", ["sft"], TRAINING, UNSEEN, resamples=1000), SETS)[2]
    assert [cell.count("▲") - cell.count("▼") for cell in line.split(" | ")[1:]] == [2, -2, 2]


# ---------------------------------------------------------------- the panel


def test_right_is_better_in_every_axis_and_stars_stand_the_correction():
    table = answered({"sft": 0.0, "sft_matched": 0.05, "rl2": 0.05})
    figure, made = panel_answer(table, TITLES)
    pd.testing.assert_frame_equal(made, table)
    for ax, measure in zip(figure.axes, ANSWERED):
        assert ax.xaxis_inverted() == (measure == "judged_errors") and "right is better" in ax.get_xlabel()
        stars = sum(text.get_text() == "*" for text in ax.texts)
        assert stars == (table[table.measure == measure].p_holm < 0.05).sum() > 0
        drawn = {tuple(to_rgb(line.get_color())) for line in ax.lines}
        assert {tuple(to_rgb(colour_of(other))) for other in ("sft", "sft_matched")} <= drawn
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


def test_the_claims_are_corrected_together():
    pairs = {"steps": [("rl2", "rl1")], "combined": [("rl1", "rl_bleu"), ("rl1", "rl_facts")]}
    given = scores(sft=0.0, rl1=0.02, rl2=0.05, rl_bleu=-0.02, rl_facts=0.02)
    table = claims_table(given, pairs, TRAINING, UNSEEN, ["composite_step1", "judged_errors"], INSIDE, resamples=500, min_studies=1)
    assert table[["claim", "run", "against", "dataset"]].values.tolist() == [
        ["steps", "rl2", "rl1", "seen"],
        ["steps", "rl2", "rl1", "new"],
        ["combined", "rl1", "rl_bleu", "seen"],
        ["combined_outside", "rl1", "rl_bleu", "seen"],
        ["combined", "rl1", "rl_facts", "seen"],
        ["combined_outside", "rl1", "rl_facts", "seen"],
    ]
    assert table.p_holm.tolist() == pytest.approx(list(holm(table.p.to_numpy())))
    assert {row.claim: decide(row._asdict()) for row in table.itertuples() if row.against != "rl_facts"}["combined"] == "better"
    turned = {"steps": [("rl1", "rl2")], "combined": []}
    less = claims_table(given, turned, TRAINING, UNSEEN, ["label_f1"], INSIDE, resamples=500, min_studies=100)
    assert less.dataset.tolist() == ["seen"], "a set of few studies is no part of a claim"
    assert decide(less.iloc[0].to_dict()) == "worse", "more judged errors than the step after it"
    assert claims_table(given, {"steps": [], "combined": []}, TRAINING, UNSEEN, ["label_f1"], INSIDE).empty


# ---------------------------------------------------------------- the notebook


@pytest.mark.parametrize("runs", [["base", "sft"], ["base", "rl_only"], []])
def test_a_profile_without_rl_from_sft_has_no_such_panel(tmp_path, runs):
    (tmp_path / "figures").mkdir()
    run_notebook("66_primary_comparison", out=str(tmp_path), runs=runs, scored=[f"{run}-s1" for run in runs])
    assert json.loads((tmp_path / "figures" / "66_primary_comparison.json").read_text()) == [] and not list(
        (tmp_path / "figures").glob("fig_*")
    )


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
