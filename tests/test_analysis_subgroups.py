"""Subgroups: rates against plain counting, floors, and the sentence about what cannot be concluded."""

import numpy as np
import pandas as pd
import pytest

from unirg.analysis.subgroups import Floors, add_groups, cannot_conclude, order_of, panel_4d, subgroups, verdict, worst_groups
from unirg.core import StudyError


def world(n=700, seeds=(1, 2), seed=0):
    "Patients of one or two studies; two labels; women get lower scores, and sicker patients too."
    rng = np.random.default_rng(seed)
    patient = np.arange(n) * 2 // 3
    draw = {"sex": rng.choice(["female", "male"], n), "race": rng.choice(["white", "black", None], n, p=[0.6, 0.1, 0.3])}
    studies = pd.DataFrame({"source": "toy", "study_id": [f"s{i}" for i in range(n)], "view": rng.choice(["AP", "PA"], n)})
    studies["sex"], studies["race"] = draw["sex"][patient], draw["race"][patient]
    studies["age"] = np.where(rng.random(n) < 0.1, np.nan, rng.integers(18, 95, n).astype(float))
    edema = rng.random(n) < np.where(studies.sex == "female", 0.5, 0.2)
    parts = []
    for s in seeds:
        said = np.where(edema, rng.random(n) < 0.7, rng.random(n) < 0.1)
        part = pd.DataFrame(
            {"system": f"rl2-s{s}", "dataset": "toy", "study_id": studies.study_id, "patient_id": [f"p{i}" for i in patient]}
        )
        part["composite_step1"] = 0.8 - 0.3 * edema + rng.normal(0, 0.1, n)
        part["reference:Edema"], part["prediction:Edema"] = edema.astype(int), np.where(said, -1, 0)  # uncertain counts as positive
        part["reference:No Finding"], part["prediction:No Finding"] = (~edema).astype(int), (~said).astype(int)
        parts.append(part)
    return pd.concat(parts, ignore_index=True), studies


@pytest.fixture(scope="module")
def found():
    scores, studies = world()
    return scores, studies, subgroups(scores, studies, "rl2", resamples=1000)


def row(table, group, quantity, label=""):
    return table[(table.group == group) & (table.quantity == quantity) & (table.label == label)].iloc[0]


def test_rates_are_those_of_counting(found):
    scores, studies, table = found
    joined = scores.merge(studies, on="study_id")
    for group in ("female", "male"):
        part = joined[joined.sex == group]
        real, said = part["reference:Edema"] == 1, part["prediction:Edema"] == -1
        assert row(table, group, "TPR", "Edema").estimate == pytest.approx((real & said).sum() / real.sum())
        assert row(table, group, "FPR", "Edema").estimate == pytest.approx((~real & said).sum() / (~real).sum())
        missed = part["prediction:No Finding"] == 1
        assert row(table, group, "FPR", "No Finding").estimate == pytest.approx((real & missed).sum() / real.sum())
        assert row(table, group, "score").estimate == pytest.approx(part.composite_step1.mean())
        assert (
            row(table, group, "score").studies == (studies.sex == group).sum() and row(table, group, "TPR", "all").cases == real.sum() / 2
        )


def test_gaps_and_intervals_are_those_of_a_loop_over_patients(found):
    scores, studies, table = found
    each = scores.pivot_table("composite_step1", ["study_id", "patient_id"], "system")
    pooled = each.reset_index()[["study_id", "patient_id"]].merge(studies, on="study_id")
    by = {name: part.index.to_numpy() for name, part in pooled.groupby("patient_id")}
    each, woman = each.to_numpy(), (pooled.sex == "female").to_numpy()
    rng, names, drawn, n = np.random.default_rng(5), list(by), [], each.shape[1]
    for _ in range(3000):
        rows = np.concatenate([by[name] for name in rng.choice(names, len(names))])
        seeds = np.bincount(rng.integers(n, size=n), minlength=n) / n
        score = each @ (1 / n + np.sqrt(n / max(n - 1, 1)) * (seeds - 1 / n))
        drawn.append(score[rows][woman[rows]].mean() - score[rows][~woman[rows]].mean())
    women = row(table, "female", "score")
    assert [women.gap_low, women.gap_high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.3 * np.std(drawn))
    assert women.gap == pytest.approx(-row(table, "male", "score").gap) and women.p < 0.05


def test_the_standardised_mean_is_the_weighted_mean_of_strata_and_removes_a_difference_of_case_mix(found):
    scores, studies, table = found
    pooled = (
        scores.groupby("study_id")
        .agg(score=("composite_step1", "mean"), sick=("reference:Edema", "max"))
        .join(studies.set_index("study_id"))
    )
    strata = pooled.sick.astype(str) + pooled["view"]
    share, women = strata.value_counts(normalize=True), pooled[pooled.sex == "female"]
    by_hand = (women.groupby(strata[women.index]).score.mean() * share).sum()
    adjusted = row(table, "female", "standardised score")
    assert adjusted.estimate == pytest.approx(by_hand) and adjusted.covered == 1
    assert abs(adjusted.gap) < 0.03 < abs(row(table, "female", "score").gap)


def test_unknown_is_a_row_of_its_own_and_compared_with_nothing(found):
    _, studies, table = found
    unknown = row(table[table.attribute == "race"], "unknown", "score")
    assert unknown.studies == studies.race.isna().sum() and np.isnan(unknown.gap) and unknown.verdict == "not compared"
    assert (
        row(table[table.attribute == "race"], "black", "score").other_patients
        == studies[studies.race == "white"].index.map(lambda i: i * 2 // 3).nunique()
    )


def test_small_groups_are_suppressed_with_their_n_kept():
    scores, studies = world(120)
    studies.loc[studies.race.notna(), "race"] = np.where(np.arange(studies.race.notna().sum()) < 10, "asian", "white")
    table = subgroups(scores, studies, "rl2", resamples=200)
    asian = table[(table.group == "asian")]
    assert (
        (asian.verdict == "suppressed").all()
        and asian[["estimate", "low", "gap", "p", "cases"]].isna().all(axis=None)
        and (asian.patients > 0).all()
    )
    assert "asian" in cannot_conclude(table) and "fewer than 30 patients" in cannot_conclude(table)
    figure, plotted = panel_4d(table, ["rl2"])
    assert len(plotted) == len(table) and any("not shown" in text.get_text() for text in figure.axes[0].texts)


@pytest.mark.parametrize(
    "said, changed",
    [
        ("parity", {}),
        ("suppressed", {"patients": 29}),
        ("too few", {"patients": 99}),
        ("too few", {"other_patients": 99}),
        ("too few", {"cases": 9}),
        ("too few", {"other_cases": 9}),
        ("open", {"patients": 199}),
        ("open", {"gap_high": 0.06}),
        ("gap", {"p_holm": 0.04}),
        ("not compared", {"group": "unknown"}),
    ],
)
def test_what_may_be_said_of_a_gap(said, changed):
    row = {"group": "female", "patients": 200, "other_patients": 200, "cases": 10, "other_cases": 10}
    assert verdict(row | {"gap_low": -0.04, "gap_high": 0.03, "p_holm": 0.5} | changed, Floors()) == said


def test_the_sentence_follows_the_table(found):
    _, _, table = found
    said = cannot_conclude(table)
    assert "race is unknown for 3" in said and "The mean score of female, male" in said
    claimed = table[table.quantity.isin(["TPR", "FPR"]) & (table.verdict == "parity") & (table.label != "all")]
    count = claimed.quantity.value_counts()
    assert f"of {count.get('TPR', 0)} true-positive and {count.get('FPR', 0)} false-positive rates" in said
    assert "can be claimed for" not in cannot_conclude(table.assign(verdict="too few"))


def test_the_worst_group_is_the_lowest_score_and_the_highest_rate_of_false_positives(found):
    _, _, table = found
    worst = worst_groups(table).set_index(["attribute", "quantity", "label"])
    for quantity, label, pick in (("score", "", "idxmin"), ("FPR", "No Finding", "idxmax")):
        part = table[(table.attribute == "age") & (table.quantity == quantity) & (table.label == label) & (table.group != "unknown")]
        assert worst.group["age", quantity, label] == part.set_index("group").estimate.agg(pick)
    sizes = table[table.attribute == "age"].drop_duplicates("group").set_index("group").patients
    row = worst.loc[("age", "score", "")]
    assert row.few == (min(sizes[row.group], sizes[row.best]) < Floors().compared)
    assert set(worst.few) == {True, False}


def test_the_order_of_rows_changes_nothing_and_the_order_of_groups_is_fixed(found):
    scores, studies, table = found
    again = subgroups(scores.sample(frac=1, random_state=1), studies.sample(frac=1, random_state=2), "rl2", resamples=1000)
    pd.testing.assert_frame_equal(again, table)
    assert order_of(["unknown", "other", "60 and over, white", "under 60, white", "80 and over", "18-39"])[-2:] == ["other", "unknown"]


def test_ages_at_the_edges_and_studies_that_are_missing():
    groups = add_groups(pd.DataFrame({"sex": None, "race": "black", "age": [17.9, 18, 59.9, 60, 80]}))
    assert groups.age.tolist() == ["under 18", "18-39", "40-59", "60-79", "80 and over"]
    assert groups.age_race.tolist() == ["under 60, not white"] * 3 + ["60 and over, not white"] * 2 and (groups.sex == "unknown").all()
    scores, studies = world(60)
    with pytest.raises(StudyError, match="'s0'"):
        subgroups(scores, studies.iloc[1:], "rl2")
    with pytest.raises(StudyError, match="no scores of run 'rl9'"):
        subgroups(scores, studies, "rl9")


def test_an_estimate_on_fewer_than_ten_cases_is_in_no_table_and_no_ranking():
    scores, studies = world(700)
    rare = scores["reference:Edema"] * 0
    rare[scores.study_id.isin(studies[studies.sex == "male"].study_id[:8])] = 1  # eight men, no woman
    scores = scores.assign(**{"reference:Rare": rare, "prediction:Rare": 0})
    table = subgroups(scores, studies, "rl2", resamples=200)
    few = table[(table.quantity == "TPR") & (table.label == "Rare") & (table.verdict != "suppressed")]
    assert (few.cases < 10).any() and few[few.cases < 10][["estimate", "low", "high", "gap", "gap_low", "gap_high"]].isna().all(axis=None)
    assert row(table, "male", "TPR", "Rare").cases == 8, "how few they are stays"
    worst = worst_groups(table)
    assert "Rare" not in set(worst[worst.quantity == "TPR"].label) and (worst.cases >= 10).all()


def test_a_large_group_among_few_others_is_not_called_small():
    scores, studies = world(400)
    studies["race"] = np.where(np.arange(400) // 2 * 2 % 300 < 40, "black", "white")
    table = subgroups(scores, studies, "rl2", resamples=200)
    white = row(table[table.attribute == "race"], "white", "score")
    assert white.patients >= 100 > white.other_patients and white.verdict == "too few"
    (said,) = [part for part in cannot_conclude(table).split(". ") if "cannot be compared" in part]
    assert "white" in said and said.endswith("(fewer than 100 patients in it or among the others)")


def test_parity_of_a_false_positive_rate_wants_positives_of_the_label_too():
    scores, studies = world(n=1600, seeds=(1,))
    place = scores.study_id.str[1:].astype(int)
    for label, every in {"Fracture": 10, "Pneumonia": 400}.items():  # 160 and 4 studies have it, and every one is found
        scores[f"reference:{label}"] = scores[f"prediction:{label}"] = (place % every == 0).astype(int)
    found = subgroups(scores, studies, "rl2", resamples=200)
    rates = found[(found.attribute == "sex") & (found.quantity == "FPR")].set_index(["group", "label"]).verdict
    assert set(rates.xs("Fracture", level="label")) == {"parity"} and set(rates.xs("Pneumonia", level="label")) == {"open"}
