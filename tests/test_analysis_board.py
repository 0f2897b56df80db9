"""The board on made-up scores: what a score is made of, what stands in training, and what a policy's own probability tells."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from unirg.analysis.board import F1S, LABELS, areas_table, board_table, copied, frequent, label_shares, levels_of
from unirg.analysis.board import panel_areas, panel_board, panel_parts, parts_table
from unirg.core import StudyError

STUDIES = 60


def scores_of(system, lift=0.0, seed=0, dataset="x", studies=STUDIES, **columns):
    "Scores of one system: BLEU-2 around .3 + lift, and labels stated at random."
    draws, ids = np.random.default_rng([seed, len(system)]), [f"s{i:02d}" for i in range(studies)]
    table = pd.DataFrame({"system": system, "dataset": dataset, "study_id": ids, "patient_id": ids})
    table["bleu2"] = np.linspace(0.1, 0.5, studies) + lift + draws.normal(0, 0.01, studies)
    known = np.random.default_rng(7).random((studies, len(LABELS))) < 0.3
    for i, label in enumerate(LABELS):
        table[f"reference:{label}"] = known[:, i].astype(int)
        table[f"prediction:{label}"] = np.where(draws.random(studies) < 0.7, known[:, i], ~known[:, i]).astype(int)
    return table.assign(in_training=[i < studies // 2 for i in range(studies)], **columns)


@pytest.mark.parametrize(
    ("report", "there"),
    [
        ("Lungs are clear.", 1),
        ("LUNGS  ARE\nCLEAR", 1),
        ("Lungs, are clear.", 1),
        ("Lungs are clear. No effusion.", 0),
        ("Clear lungs.", 0),
        ("", 0),
    ],
)
def test_a_report_stands_in_training_whatever_its_case_and_line_breaks(report, there):
    assert copied([report], ["Lungs are clear.", "Heart is normal."]).tolist() == [there]


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3), (4, 9), (5,)])
def test_levels_and_f1s_are_those_of_a_plain_computation(seeds):
    table = pd.concat([scores_of(f"sft-s{seed}", seed=seed).assign(seed=seed) for seed in seeds])
    found = levels_of(table, ["bleu2", *F1S], 200, labels=frequent(table, 10))
    truth, said = ([table[f"{kind}:{label}"].to_numpy() for label in LABELS] for kind in ("reference", "prediction"))
    assert found["bleu2"].estimate == pytest.approx(table.bleu2.mean())
    assert found["label_micro_f1"].estimate == pytest.approx(f1_score(np.stack(truth, 1), np.stack(said, 1), average="micro"))
    often = [i for i, label in enumerate(LABELS) if label in frequent(table, 10)]
    assert found["label_macro_f1"].estimate == pytest.approx(np.mean([f1_score(truth[i], said[i]) for i in often])) and often
    for level in found.values():
        low, high = np.quantile(level.drawn, [0.025, 0.975])
        assert (
            low < level.estimate < high
            and len(level.seeds) == len(seeds)
            and np.mean(level.seeds) == pytest.approx(level.estimate, abs=0.02)
        )


@pytest.mark.parametrize("floor", [0, 5, 10, 20, 100])
def test_a_label_is_frequent_by_its_references_and_without_any_there_is_no_macro_f1(floor):
    table = scores_of("sft-s1").assign(seed=1)
    labels = frequent(table, floor)
    assert labels == [label for label in LABELS if table[f"reference:{label}"].sum() >= floor]
    assert np.isnan(levels_of(table, F1S, 20, labels=labels)["label_macro_f1"].estimate) == (not labels)


@pytest.mark.parametrize(
    ("habits", "sight"),
    [(0.3, 0.0), (0.0, 0.2), (0.1, 0.1), (-0.1, 0.2), (0.2, -0.1)],
    ids=["habits", "sight", "both", "worse habits", "worse"],
)
def test_one_text_habits_and_sight_add_up_and_are_told_apart(habits, sight):
    parts = [scores_of("best_constant")]
    for seed in (1, 2):
        parts += [scores_of(f"sft_dealt-s{seed}", habits, seed), scores_of(f"sft-s{seed}", habits + sight, seed)]
    table, levels = board_table(pd.concat(parts), ["bleu2"], 2000)
    found = parts_table(table, levels, ["sft"]).set_index("part")
    assert found.estimate[["one text", "habits", "sight"]].sum() == pytest.approx(found.estimate["own score"])
    for part, size in (("habits", habits), ("sight", sight)):
        assert found.estimate[part] == pytest.approx(size, abs=0.01)
        assert (found.p_holm[part] < 0.05) == (size != 0) or size == 0
    assert found.estimate["memory"] == pytest.approx(-0.2, abs=0.02) and "context" not in found.index and np.isnan(found.p["own score"])


@pytest.mark.parametrize(
    "there", [(), ("sft_dealt-s1",), ("sft_no_context-s1",), ("best_constant",), ("best_constant", "sft_dealt-s1", "sft_no_context-s1")]
)
def test_parts_are_told_as_far_as_their_systems_are_there(there):
    table, levels = board_table(pd.concat([scores_of("sft-s1", 0.1, 1), *(scores_of(name) for name in there)]), ["bleu2", *F1S], 50)
    found = set(parts_table(table, levels, ["sft", "rl2"]).part)
    wanted = {"own score", "memory"}
    wanted |= {"sight"} if "sft_dealt-s1" in there else set()
    wanted |= {"context"} if "sft_no_context-s1" in there else set()
    wanted |= {"one text"} if "best_constant" in there else set()
    assert found == wanted | ({"habits"} if {"best_constant", "sft_dealt-s1"} <= {*there} else set())


def test_a_control_of_other_studies_is_not_compared():
    table, levels = board_table(pd.concat([scores_of("sft-s1"), scores_of("sft_dealt-s1", studies=50)]), ["bleu2"], 50)
    with pytest.raises(StudyError, match=r"sft.* not scored on the same studies of x"):
        parts_table(table, levels, ["sft"])


@pytest.mark.parametrize("studies", [10, 30, 39, 40, 60])
def test_groups_of_reports_are_scored_from_twenty_on(studies):
    table, _ = board_table(scores_of("sft-s1", studies=studies), ["bleu2"], 20)
    sizes = table.set_index("reports").studies
    assert sizes["all"] == studies and ("in training" in sizes) == (studies // 2 >= 20) and (sizes.drop("all") >= 20).all()


@pytest.mark.parametrize("positives", [5, 12, 40, 60, 100])
def test_the_area_is_that_of_scikit_learn_and_what_is_seen_goes_with_the_film(positives):
    draws, there = np.random.default_rng(positives), np.zeros((120, len(LABELS)), bool)
    there[:positives, 3] = True
    shares = {films: draws.integers(0, 17, (120, 2, len(LABELS))) / 16 for films in ("own", "dealt")}
    shares["own"][:positives, :, 3] = np.minimum(1, shares["own"][:positives, :, 3] + 0.5)
    table = areas_table(shares, there, [f"p{i}" for i in range(120)], 400, floor=5).set_index(["label", "shown"])
    enough = table.positives.ge(5) | (table.index.get_level_values(0) == "mean")
    assert {*table.often} <= {"yes", "no"} and (table.often == "yes").equals(enough)
    for films, values in shares.items():
        wanted = np.mean([roc_auc_score(there[:, 3], values[:, s, 3]) for s in range(2)])
        assert table.estimate[LABELS[3], films] == pytest.approx(wanted)
        assert table.low[LABELS[3], films] <= wanted <= table.high[LABELS[3], films] and table.positives[LABELS[3], films] == positives
    assert table.estimate[LABELS[3], "own"] > 0.75 and table.difference[LABELS[3], "own"] > 0.1
    assert set(table.reset_index().label) == {LABELS[3], "mean"}, "a label that nobody or everybody states has no curve"


def test_shares_are_of_the_samples_and_want_the_same_number_of_each_study():
    samples = {"a": ["Small left pleural effusion.", "Lungs are clear."], "b": ["Lungs are clear. Rib fracture."] * 2}
    found = label_shares(samples, ["b", "a"])
    assert found[1, LABELS.index("Pleural Effusion")] == 0.5 and found[0, LABELS.index("Fracture")] == 1 and found.shape == (2, len(LABELS))
    with pytest.raises(StudyError, match="1, 2"):
        label_shares(samples | {"c": ["Edema."]}, ["a", "c"])


def test_panels_draw_what_is_there():
    parts = [scores_of("best_constant"), scores_of("sft-s1", 0.1), scores_of("sft_dealt-s1", 0.1), scores_of("rl2-s1", 0.2)]
    table, levels = board_table(pd.concat(parts), ["bleu2", *F1S], 50)
    groups = {"No policy": ["best_constant", "nearest_film"], "Policies": ["sft", "rl2"], "Controls": ["sft_dealt", "rl2_dealt"]}
    figure, shown = panel_board(table, ["bleu2", *F1S], groups, "x")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["Best one text", "SFT", "SFT + RL", "SFT, other patients' films"] and len(shown) == len(table)
    figure, _ = panel_parts(parts_table(table, levels, ["sft", "rl2"]), ["bleu2"], ["sft", "rl2"], "x")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one text", "habits", "sight", "memory"]
    with pytest.raises(StudyError, match="no label has 10 positive references"):
        panel_areas(pd.DataFrame({"dataset": ["x"], "positives": [3], "label": ["Edema"]}), ["sft"], "x")
