"""Panels that set systems side by side: numbers against plain computation; nobody is left out, covered or given another's colour."""

import itertools
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from unirg.analysis.design import input_told, lineage, panel_seen, settings_told
from unirg.analysis.figures import NAMES, colour_of, mark_of, name_of, once, panel_systems, read_validation, save_panel, set_others
from unirg.analysis.figures import describe_sizes
from unirg.analysis.panels import (
    BINS,
    boards_of,
    compare,
    control_pairs,
    error_columns,
    gains,
    panel_errors,
    panel_leaderboard,
    panel_radar,
    panel_rewards,
    panel_table,
    pool_seen,
    published_rows,
)
from unirg.analysis.report import decide
from unirg.analysis.statistics import holm
from unirg.core import RESEARCH_ONLY, StudyError, write_json
from unirg.reward.metrics import radcliq_v1
from unirg.reward.judge import ERROR_TYPES

matplotlib.use("Agg")
RUNS = ["base", "sft", "sft_matched", "rl_only", "rl1", "rl2"]
OTHERS = ["constant_text", "a_hospitals_own_model"]
MEASURES = ["bleu2", "bleu4", "rouge_l", "bertscore_minilm", "label_cosine", "fact_f1", "label_f1", "composite_step1"]
SETS = {"aldermoor": "Aldermoor", "brackwater": "Brackwater", "covid": "Published COVID-19 cases (unseen)"}


@pytest.fixture(scope="module")
def scores():
    "Six runs of two seeds and two other systems, one of which was run on one set only; three studies of every patient."
    rng = np.random.default_rng(5)
    systems = [f"{run}-s{seed}" for run in RUNS for seed in (1, 2)] + OTHERS
    rows = []
    for number, system in enumerate(systems):
        for dataset in list(SETS)[:1] if system == OTHERS[1] else SETS:
            for i in range(45):
                level = 0.3 + 0.03 * number + 0.05 * (i % 3)
                measured = {m: float(np.clip(level + rng.normal(0, 0.1), 0.01, 1)) for m in MEASURES}
                kinds = {kind: int(n) for kind, n in zip(ERROR_TYPES, rng.integers(0, 2, 6))}
                errors = {**kinds, "judged_errors": sum(kinds.values())}
                rows.append({"system": system, "dataset": dataset, "study_id": f"s{i}", "patient_id": f"p{i // 3}", **measured, **errors})
    return pd.DataFrame(rows)


@pytest.fixture(autouse=True)
def others():
    set_others(OTHERS)
    yield
    set_others([])
    plt.close("all")


def test_estimates_differences_and_p_are_those_of_a_plain_computation(scores):
    few = scores[scores.study_id.isin([f"s{i}" for i in range(24)]) & (scores.dataset == "aldermoor")]  # eight patients: 256 ways to swap
    table = compare(few, ["fact_f1"], "sft", resamples=4000).set_index("run")
    few = few.assign(run=few.system.str.replace(r"-s\d", "", regex=True))
    means = few.groupby(["run", "study_id", "patient_id"])["fact_f1"].mean()
    for run in ("base", "rl2", "constant_text"):
        assert table.estimate[run] == pytest.approx(means[run].mean())
        difference = (means[run] - means["sft"]).groupby("patient_id").sum()
        assert table.difference[run] == pytest.approx(difference.sum() / 24)
        swaps = np.array(list(itertools.product([1, -1], repeat=len(difference)))) @ difference.to_numpy()
        exact = (abs(swaps) >= abs(difference.sum()) - 1e-12).mean()
        assert table.p[run] == pytest.approx(exact, abs=0.03)
        each = few[few.run == run].pivot_table("fact_f1", "patient_id", "system").to_numpy()  # patients, seeds
        rng, n = np.random.default_rng(1), each.shape[1]
        patients, seeds = rng.integers(8, size=(4000, 8)), rng.integers(n, size=(4000, n))
        fixed, redrawn = each.mean(1)[patients].mean(1), [each[p][:, s].mean() for p, s in zip(patients, seeds)]
        drawn = fixed + np.sqrt(n / max(n - 1, 1)) * (redrawn - fixed)
        assert (table.low[run], table.high[run]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)
    assert (table.studies == 24).all() and (table.patients == 8).all() and table.seeds["rl2"] == 2 and table.seeds["constant_text"] == 1
    assert table.loc["sft", ["p", "difference"]].isna().all() and (table.p_holm.dropna() >= table.p.dropna()).all()


def test_a_pool_is_of_systems_that_were_run_on_all_of_it_and_tells_patients_apart(scores):
    pooled = pool_seen(scores, ["aldermoor", "brackwater"])
    assert OTHERS[0] in set(pooled.system) and OTHERS[1] not in set(pooled.system)
    sft = pooled[pooled.system == "sft-s1"]
    assert len(sft) == 90 and sft.patient_id.nunique() == 30 and sft.study_id.is_unique
    assert len(pool_seen(scores, [])) == 0


def test_seeds_that_were_scored_on_different_studies_are_refused(scores):
    with pytest.raises(StudyError, match="seed 2 was not scored on the same studies"):
        compare(scores.drop(scores[(scores.system == "sft-s2") & (scores.study_id == "s3")].index), ["fact_f1"])


def radcliq(rl2_is_lower_by):
    "RadCliQ-v1, of which less is better, of two runs on the same studies."
    rng = np.random.default_rng(0)
    sft = rng.uniform(0.8, 2, 60)
    parts = {"sft-s1": sft, "rl2-s1": sft - rl2_is_lower_by}
    made = pd.concat([pd.DataFrame({"system": name, "dataset": "d", "study_id": range(60), "radcliq_v1": v}) for name, v in parts.items()])
    return made.assign(study_id=made.study_id.astype(str), patient_id=made.study_id.astype(str))


def test_radcliq_is_inverted_after_averaging():
    made = radcliq(0.3)
    table = compare(made, ["radcliq_v1"]).set_index("run")
    turned = compare(made, ["radcliq_v1"], inverse=("radcliq_v1",)).set_index("run").loc["sft"]
    assert turned.measure == "1/radcliq_v1" and turned.estimate == pytest.approx(1 / made.radcliq_v1[made.system == "sft-s1"].mean())
    assert turned.low == pytest.approx(1 / table.high["sft"]) and turned.low < turned.estimate < turned.high
    assert [float(value) for value in turned.by_seed.split()] == [pytest.approx(turned.estimate, abs=1e-4)]
    with pytest.raises(StudyError, match="means nothing"):
        compare(made.assign(radcliq_v1=made.radcliq_v1 - 1.4), ["radcliq_v1"], inverse=("radcliq_v1",))


@pytest.mark.parametrize(("lower_by", "word"), [(0.3, "better"), (-0.3, "worse")])
def test_a_lower_radcliq_is_told_as_better(lower_by, word):
    "The difference of a row of 1/RadCliQ is that of 1/RadCliQ: its sign is what the report goes by."
    made = radcliq(lower_by)
    table = compare(made, ["radcliq_v1"], "sft", inverse=("radcliq_v1",))
    row = table.set_index("run").loc["rl2"]
    means = made.groupby("system").radcliq_v1.mean()
    assert row.difference == pytest.approx(1 / means["rl2-s1"] - 1 / means["sft-s1"])
    assert row.difference_low < row.difference < row.difference_high
    assert decide(row.to_dict()) == word


def test_rl_is_tested_against_its_controls_in_rows_of_their_own(scores):
    assert control_pairs([*RUNS, "sft_consensus", "rl1_prior"]) == [
        (run, control) for run in ("rl1", "rl2") for control in ("sft_matched", "sft_consensus")
    ]
    here = scores[scores.dataset == "aldermoor"]
    alone = compare(here, ["fact_f1"], "sft", resamples=200)
    table = compare(here, ["fact_f1"], "sft", resamples=200, controls=control_pairs(RUNS))
    pd.testing.assert_frame_equal(once(table)[["run", "estimate", "low", "high"]], alone[["run", "estimate", "low", "high"]])
    added = table[table.against == "sft_matched"].set_index("run")
    assert list(added.index) == ["rl1", "rl2"]
    mean = here.assign(run=here.system.str.replace(r"-s\d", "", regex=True)).groupby("run").fact_f1.mean()
    assert added.difference["rl2"] == pytest.approx(mean["rl2"] - mean["sft_matched"]) and added.estimate["rl2"] == pytest.approx(
        mean["rl2"]
    )
    tested = table.dropna(subset=["p"])
    assert tested.p_holm.tolist() == pytest.approx(holm(tested.p)), "one correction over every test of the table"


def test_a_difference_says_on_how_many_studies_it_rests(scores):
    here = scores[scores.dataset == "aldermoor"]
    kept = sorted(here.study_id.unique())[:7]
    here = here[~here.system.str.startswith("sft_matched") | here.study_id.isin(kept)]
    table = compare(here, ["fact_f1"], "sft", resamples=200, controls=[("rl2", "sft_matched")])
    against = table[table.run == "rl2"].set_index("against")
    assert against.difference_studies["sft_matched"] == 7 < against.difference_studies["sft"] == against.studies["sft"]
    assert against.difference_patients["sft_matched"] == here[here.study_id.isin(kept)].patient_id.nunique()


def test_many_tests_do_not_by_themselves_make_every_result_undecided():
    "Holm multiplies the smallest p by the number of tests: with too few draws nothing could ever stand."
    rng = np.random.default_rng(3)
    sizes = {f"sft_{i}-s1": 0.0 for i in range(30)} | {"sft-s1": 0.0, "rl2-s1": 1.0}
    rows = [
        {"system": system, "dataset": "d", "study_id": str(i), "patient_id": str(i), "fact_f1": gain + rng.normal(0, 0.1)}
        for system, gain in sizes.items()
        for i in range(40)
    ]
    table = compare(pd.DataFrame(rows), ["fact_f1"], "sft", resamples=50).set_index("run")
    assert table.p_holm["rl2"] < 0.05


def test_published_numbers_stand_only_beside_the_same_measure_on_the_same_benchmark():
    path = Path(__file__).parents[1] / "nbs/study/data/published.csv"
    assert len(published_rows(path, {}, "1/radcliq_v1", ["findings"])) == 0  # the phantom
    assert len(published_rows(path, {"mine": "iu_xray"}, "composite_step1", ["findings"])) == 0
    assert len(published_rows(path, {"mine": "iu_xray"}, "radcliq_v1", ["findings"])) == 0
    found = published_rows(path, {"mine": "iu_xray"}, "1/radcliq_v1", ["findings", "findings_impression"])
    assert set(found.dataset) == {"mine"} and found.published.all() and found.source.str.contains("arXiv 2601.17151|ReXrank").all()
    assert found[found.run == "UniRG-CXR (published)"].set_index("board").estimate.to_dict() == {
        "findings": 4.80,
        "findings_impression": 5.14,
    }
    assert not set(pd.read_csv(path, comment="#").measure) & {"bertscore_minilm", "label_cosine", "fact_f1"}


@pytest.mark.parametrize("measure", ["bleu2", "bertscore", "sembscore", "radgraph", "1/radcliq_v1"])
def test_the_published_board_of_iu_x_ray_is_there_with_every_system(measure):
    path = Path(__file__).parents[1] / "nbs/study/data/published.csv"
    found = published_rows(path, {"mine": "iu_xray"}, measure, ["findings"])
    found = found[found.source.str.contains("ReXrank's public repository")]
    assert len(found) == found.run.nunique() == 25 and found.run.str.endswith("(published)").all()
    golden = Path(__file__).parents[2] / "shared/golden/rexrank_iu_findings.csv"
    if golden.is_file():
        theirs = pd.read_csv(golden).rename(columns={"inverse_radcliq_v1": "1/radcliq_v1"}).set_index("system")[measure]
        assert found.set_index(found.run.str.removesuffix(" (published)")).estimate.to_dict() == theirs.to_dict()


def test_published_radcliq_is_that_of_the_published_components_by_our_function():
    path, names = Path(__file__).parents[1] / "nbs/study/data/published.csv", ["radgraph", "bertscore", "sembscore", "bleu2"]
    table = pd.read_csv(path, comment="#")
    table = table[table.source.str.contains("ReXrank's public")].pivot(index="system", columns="measure", values="value")
    ours = 1 / radcliq_v1(*(table[name].to_numpy() for name in names))
    assert np.allclose(ours, table["1/radcliq_v1"], atol=0.02), (ours - table["1/radcliq_v1"]).abs().max()


def test_a_published_system_is_drawn_below_ours_and_stays_in_the_table(scores):
    table = compare(scores, ["fact_f1"], "sft", resamples=50).assign(board="findings")
    published = pd.DataFrame(
        [
            {
                "run": "Theirs (published)",
                "dataset": "aldermoor",
                "measure": "fact_f1",
                "board": "findings",
                "estimate": 0.9,
                "published": True,
            }
        ]
    )
    figure, made = panel_leaderboard(pd.concat([table, published]), [*RUNS, *OTHERS], SETS, "fact_f1")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][-1] == "Theirs (published)"
    assert made.published.sum() == 1


def test_a_study_of_findings_and_impression_stands_on_both_boards(scores):
    both = scores.assign(**{"findings:fact_f1": scores.fact_f1.where(scores.study_id != "s1") / 2})
    boards = boards_of(both, "findings_impression", "fact_f1")
    assert list(boards) == ["findings", "findings_impression"] and "s1" not in set(boards["findings"].study_id)
    assert boards["findings"].fact_f1.mean() < boards["findings_impression"].fact_f1.mean()
    assert list(boards_of(scores, "findings", "fact_f1")) == ["findings"]


def test_a_gain_is_against_the_checkpoint_of_the_same_seed(scores):
    here = scores[scores.dataset == "aldermoor"]
    one = here[here.system != "rl1-s2"]  # the ablation has one seed
    table = gains(one, ["rl1", "rl2"], "sft", ["fact_f1", "judged_errors"], resamples=200).set_index(["run", "measure"])
    mean = here.groupby("system")[["fact_f1", "judged_errors"]].mean()
    assert table.estimate["rl1", "fact_f1"] == pytest.approx(100 * (mean.fact_f1["rl1-s1"] / mean.fact_f1["sft-s1"] - 1))
    fewer = 100 * (1 - mean.judged_errors[["rl2-s1", "rl2-s2"]].mean() / mean.judged_errors[["sft-s1", "sft-s2"]].mean())
    assert table.estimate["rl2", "judged_errors"] == pytest.approx(fewer)
    assert table.estimate["rl2", "balance"] == pytest.approx((table.estimate["rl2", "fact_f1"] + fewer) / 2)
    assert table.seeds["rl1", "fact_f1"] == 1 and table.seeds["rl2", "fact_f1"] == 2
    with pytest.raises(StudyError, match="rl1"):
        gains(here[here.system != "rl1-s2"].replace({"system": {"rl1-s1": "rl1-s9"}}), ["rl1"], "sft", ["fact_f1"])


def test_a_run_of_one_seed_is_tested_against_that_seed(scores):
    here = scores[(scores.dataset == "aldermoor") & ~scores.system.isin(["rl1-s2"])]
    table = compare(here, ["fact_f1"], "sft", resamples=200).set_index("run")
    means = here.groupby("system").fact_f1.mean()
    assert table.difference["rl1"] == pytest.approx(means["rl1-s1"] - means["sft-s1"])
    assert table.estimate["sft"] == pytest.approx(means[["sft-s1", "sft-s2"]].mean())  # its own level is of all its seeds
    assert table.difference[OTHERS[0]] == pytest.approx(means[OTHERS[0]] - means[["sft-s1", "sft-s2"]].mean())


def test_every_report_is_in_one_class_of_errors(scores):
    made = error_columns(scores)
    assert (made[list(BINS)].sum(axis=1) == 1).all()
    assert made["at most 1"].mean() == (scores.judged_errors <= 1).mean() and made["4 or more"].mean() == (scores.judged_errors >= 4).mean()


def test_errors_by_type_are_drawn_of_some_and_tabled_of_all(scores):
    table = compare(error_columns(scores), [*BINS, *ERROR_TYPES, "judged_errors"], "sft", resamples=50)
    figure, made = panel_errors(table, RUNS, {"aldermoor": "Aldermoor"}, ["sft", "rl2"])
    assert set(made.run) == set(RUNS)
    told = {text.get_text() for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()}
    assert {"SFT", "SFT + RL"} <= told and "Base" not in told


def test_a_system_scored_on_fewer_studies_is_named_with_its_own_n(scores):
    here = scores[(scores.dataset == "aldermoor") & ~((scores.system == OTHERS[0]) & (scores.study_id > "s3"))]
    table = compare(here, ["fact_f1"], "sft", resamples=50)
    fewer = table.set_index("run").loc[OTHERS[0]]
    assert (
        describe_sizes(table) == f"45 studies, 15 patients; {name_of(OTHERS[0])}: {fewer.studies}, {fewer.patients}" and fewer.studies < 45
    )
    figure, _ = panel_table(table, ["fact_f1"], [*RUNS, *OTHERS], {"aldermoor": "Aldermoor"})
    assert any(describe_sizes(table) in text.get_text() for text in figure.axes[0].texts)


# ---------------------------------------------------------------- what is seen


def drawn(scores):
    "Every panel with its systems, on long names and more systems than the study has."
    controls = control_pairs(RUNS)
    table = compare(scores, MEASURES, "sft", resamples=50, controls=controls)
    runs = [*RUNS, *OTHERS]
    counted = compare(error_columns(scores), [*BINS, *ERROR_TYPES, "judged_errors"], "sft", resamples=50, controls=controls)
    rewards = {"rl1": "step1", "rl2": "step2", "rl_only": "bleu", "sft_matched": "facts"}
    gained = gains(
        scores[scores.dataset == "aldermoor"], list(rewards), "sft", ["bleu2", "fact_f1", "composite_step1", "judged_errors"], 50
    )
    boards = pd.concat([table.assign(board=board) for board in ("findings", "findings_impression")])
    return {
        "1d": panel_leaderboard(boards, runs, SETS, "composite_step1"),
        "2a": panel_radar(table, MEASURES[:7], ["base", "sft", "rl2", *OTHERS], SETS),
        "2a_table": panel_table(table, MEASURES[:7], runs, SETS),
        "2b": panel_rewards(gained, rewards),
        "2f": panel_errors(counted, runs, SETS),
        "4a": panel_systems(table, MEASURES[:4], runs, list(SETS), SETS),
    }


@pytest.fixture(scope="module")
def made(scores):
    set_others(OTHERS)
    return drawn(scores)


@pytest.mark.parametrize("panel", ["1d", "2a", "2a_table", "2b", "2f", "4a"])
def test_every_system_is_in_the_table_with_its_n_interval_and_test(made, panel):
    _, table = made[panel]
    wanted = {"rl1", "rl2", "rl_only", "sft_matched"} if panel == "2b" else {*RUNS, *OTHERS}
    assert wanted <= set(table.run)
    assert table[["estimate", "low", "high", "studies", "patients"]].notna().all().all() and (table.low <= table.high).all()
    assert {"p", "p_holm", "test"} <= set(table) and table.p.notna().any()


@pytest.mark.parametrize("panel", ["1d", "2a", "2a_table", "2b", "2f", "4a"])
def test_no_label_covers_another_and_all_are_saved(made, panel, tmp_path):
    figure, table = made[panel]
    figure.draw_without_rendering()
    outside = set()  # ticks beyond the view are there, and not drawn
    for axis in (axis for ax in figure.axes for axis in (getattr(ax, "xaxis", None), getattr(ax, "yaxis", None)) if axis):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        outside |= {label for tick in ticks if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in outside]
    shown = [text for text in shown if text.get_text() != RESEARCH_ONLY]
    boxes = [(text.get_text(), text.get_window_extent().padded(-0.6)) for text in shown]
    covered = [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]
    assert len(boxes) > 10 and covered == []
    legends = [legend for ax in figure.axes if (legend := ax.get_legend())] + figure.legends
    assert not [1 for legend in legends for ax in figure.axes if legend.get_window_extent().padded(-2).overlaps(ax.get_window_extent())]
    files = save_panel(figure, table, tmp_path, panel)
    assert [path.suffix for path in files] == [".png", ".svg", ".csv"] and all(path.stat().st_size > 500 for path in files)
    pd.testing.assert_frame_equal(
        pd.read_csv(files[2])[["run", "measure"]], table[["run", "measure"]].reset_index(drop=True), check_dtype=False
    )


def test_a_ring_is_a_measure_inside_the_runs_own_reward_and_the_figure_says_so(made):
    figure, table = made["2b"]
    inside = table.set_index(["reward", "measure"]).rewarded
    assert inside["step2", "judged_errors"] and inside["step2", "composite_step1"] and inside["step1", "composite_step1"]
    assert not inside["step1", "judged_errors"] and not inside["step2", "bleu2"] and inside["bleu", "bleu2"] and inside["facts", "fact_f1"]
    assert inside[:, "balance"].isna().all(), "a mean of what is inside and what is outside is neither"
    called = {"BLEU-2": "bleu", "Fact F1": "facts", "Composite": "step1", "Composite + errors": "step2"}
    rewards = [called[label.get_text()] for label in figure.axes[0].get_yticklabels()]
    for ax, measure in zip(figure.axes, dict.fromkeys(table.measure)):
        drawn = {line.get_ydata()[0]: line.get_markerfacecolor() for line in ax.lines if line.get_marker() in "oD"}
        rings = {reward for place, reward in enumerate(rewards) if drawn[place] == "white"}
        assert rings == {reward for reward in rewards if inside[reward, measure] is not pd.NA and inside[reward, measure]}, measure
    said = figure.get_supxlabel()
    assert "Ring: inside the run's own reward" in said and "* p < 0.05" in said and "diamond" in said


def seen_by(colour, kind):
    "CIE L*a*b* of a colour as someone with this vision sees it (Machado and others, 2009; sRGB, D65)."
    sight = {
        "all three cones": np.eye(3),
        "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    }[kind]
    c = np.array(to_rgb(colour))
    linear = np.clip(np.array(sight) @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_studys_own_systems_are_told_apart_whatever_ones_colour_vision_and_whoever_else_is_there():
    own = ["sft", "sft_matched", "sft_matched_low_lr", "sft_consensus", "rl1", "rl2", "sft_prior", "sft_prior_other", "sft_prior_none"]
    own += ["rl1_prior", "rl1_prior_other", "rl1_prior_none"]
    look = {run: (colour_of(run), mark_of(run)) for run in own}
    set_others(["x", "sft_consensus", "sft_prior_other"])
    assert {run: (colour_of(run), mark_of(run)) for run in own} == look, "a notebook that names other systems draws them the same"
    assert len({name_of(run) for run in own}) == len(own) and not any("_" in name_of(run) for run in own)
    for one, other in itertools.combinations(own, 2):
        for kind in ("all three cones", "protanopia", "deuteranopia"):
            apart = np.linalg.norm(seen_by(look[one][0], kind) - seen_by(look[other][0], kind))
            assert apart > 10 or (apart > 2 and look[one][1] != look[other][1]), (one, other, kind)


def test_a_system_has_one_colour_in_every_figure_and_no_other_has_it(made):
    runs = [*NAMES, *OTHERS]
    assert len({tuple(np.round(colour_of(run), 3)) for run in runs}) == len(runs)
    assert all(mark_of(run) == "o" for run in ("base", "sft", "rl_only", "rl1", "rl2")) and len({mark_of(run) for run in OTHERS}) == 2
    for run in ("rl2", "constant_text"):
        for panel in ("1d", "2a", "2a_table", "2f", "4a"):
            figure = made[panel][0]
            used = [line.get_color() for ax in figure.axes for line in ax.lines] + [
                patch.get_facecolor() for ax in figure.axes for patch in ax.patches
            ]
            used += [text.get_color() for ax in figure.axes for text in ax.texts]
            assert to_rgb(colour_of(run)) in {to_rgb(colour) for colour in used}, (run, panel)


def test_colours_do_not_depend_on_what_else_a_figure_shows(scores):
    before = colour_of("constant_text"), colour_of("rl2")
    panel_radar(
        compare(scores[scores.system.isin(["rl2-s1", "constant_text"])], MEASURES[:3], resamples=10), MEASURES[:3], ["constant_text"], SETS
    )
    assert (colour_of("constant_text"), colour_of("rl2")) == before


# ---------------------------------------------------------------- 1b


def trained(folder, name, start, **recipe):
    kind = "grpo" if "reward" in recipe else "sft"
    job = {"start": str(folder / start), "blind": name.startswith("base")}
    write_json(folder / name / "training.json", {"kind": kind, "job": job, "recipe": {"steps": 10, "learning_rate": 2e-4, **recipe}})


def test_the_method_is_told_from_the_recipes_of_the_runs(tmp_path):
    trained(tmp_path, "base-s1", "base-s1.fresh", global_batch=16)
    trained(tmp_path, "sft-s1", "base-s1", global_batch=256)
    grpo = {"completions_per_step": 64, "num_generations": 8, "epsilon": 0.2, "epsilon_high": 0.28, "loss_type": "dapo"}
    trained(tmp_path, "rl1-s1", "sft-s1", reward="fact_f1=0.5 bleu2=0", beta=0.0, **grpo)
    trained(tmp_path, "rl2-s1", "rl1-s1", reward="step2", beta=0.03, **grpo)
    stages = lineage(tmp_path, "rl2-s1")
    assert [(stage["run"], stage["kind"]) for stage in stages] == [("base", "base"), ("sft", "sft"), ("rl1", "grpo"), ("rl2", "grpo")]
    told = [settings_told(stage) for stage in stages]
    assert told[1]["reports a step"] == "256" and told[1]["learning rate"] == "2e-4"
    assert {key: value for key, value in told[2].items() if key.startswith("reward")} == {"reward: fact_f1": "0.5"}
    assert told[3]["KL weight"] == "0.03" and told[3]["reward: error_term"] == "0.5"
    with pytest.raises(StudyError, match="rl3-s1"):
        lineage(tmp_path, "rl3-s1")


def test_a_lineage_that_leads_to_itself_ends(tmp_path):
    trained(tmp_path, "a-s1", "b-s1", global_batch=1)
    trained(tmp_path, "b-s1", "a-s1", global_batch=1)
    with pytest.raises(StudyError, match="itself"):
        lineage(tmp_path, "a-s1")


# ---------------------------------------------------------------- 1b and 1c: studies without a report, and what validation says


def test_studies_without_a_report_are_counted_apart():
    studies = pd.DataFrame({"study_id": [str(i) for i in range(8)], "patient_id": list("aabbccdd"), "split": ["train"] * 4 + ["test"] * 4})
    studies = studies.assign(source="mimic_cxr", institution="Aldermoor", reported=[True, True, True, False, True, False, False, False])
    figure, table = panel_seen(studies, ["mimic_cxr"])
    table = table.set_index("split")
    assert table.studies.to_dict() == {"train": 3, "test": 1} and table.patients.to_dict() == {"train": 2, "test": 1}
    assert table.without_report.to_dict() == {"train": 1, "test": 3}
    said = [text.get_text() for text in figure.axes[0].texts]
    assert "3 studies\n2 patients\n(1 without a report)" in said and "1 studies\n1 patients\n(3 without a report)" in said
    told = input_told({"job": {"tables": ["data/mimic_cxr"], "target_sections": "findings"}}, {"mimic_cxr": studies})
    assert (told["studies"], told["patients"], told["left out"]) == ("3", "2", "1 without a report")


def test_validation_is_that_of_the_weights_that_were_kept(tmp_path):
    pd.DataFrame({"step": [0, 5, 10, 20], "eval_composite_step1": [0.1, None, 0.7, 0.4]}).to_csv(tmp_path / "log.csv", index=False)
    for kept, value in ((20, 0.4), (10, 0.7), (15, 0.7)):
        write_json(tmp_path / "training.json", {"kept_step": kept})
        assert read_validation(tmp_path) == value
