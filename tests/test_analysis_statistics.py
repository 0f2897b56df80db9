"""Statistics against slow or independent computations: loops, full enumeration, scipy."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from unirg.analysis import statistics
from unirg.analysis.statistics import (
    bootstrap_p,
    compare_runs,
    f1_with_interval,
    holm,
    interval,
    mean_with_interval,
    means_with_intervals,
    paired_difference,
    paired_differences,
    randomisation_p,
    ratios,
    resampled_means,
    scored,
    split_system,
    summarise,
    is_significant,
)
from unirg.core import StudyError


def visits(patients=60, seed=0):
    "Scores of three measures that differ by patient, 1 to 6 studies each."
    rng = np.random.default_rng(seed)
    names = np.repeat([f"p{i}" for i in range(patients)], rng.integers(1, 7, patients))
    own = dict(zip(dict.fromkeys(names), rng.normal(0, 0.1, patients)))
    base = np.array([own[name] for name in names])
    scores = pd.DataFrame({m: 0.5 + base + rng.normal(0, 0.05, len(names)) for m in ("a", "b", "c")})
    return scores, names


def loop_bootstrap(statistic, patients, resamples=4000, seed=99):
    "The clustered bootstrap as a textbook has it: draw patients, take all their studies, compute."
    rng, names = np.random.default_rng(seed), sorted(set(patients))
    rows = {name: np.flatnonzero(patients == name) for name in names}
    found = [statistic(np.concatenate([rows[name] for name in rng.choice(names, len(names))])) for _ in range(resamples)]
    return np.quantile(found, [0.025, 0.975]), np.std(found)


def test_intervals_are_those_of_a_loop_over_resampled_patients():
    scores, patients = visits()
    table = means_with_intervals(scores, patients, 4000).set_index("measure")
    for name in scores:
        values = scores[name].to_numpy()
        (low, high), spread = loop_bootstrap(lambda rows, v=values: v[rows].mean(), patients)
        assert table.low[name] == pytest.approx(low, abs=0.15 * spread) and table.high[name] == pytest.approx(high, abs=0.15 * spread)
        assert table.estimate[name] == pytest.approx(values.mean())
    assert (table.studies == len(patients)).all() and (table.patients == 60).all()


def test_without_repeated_patients_it_is_scipys_bootstrap():
    scores = np.random.default_rng(3).gamma(2, 1, 200)
    ours = mean_with_interval(scores, np.arange(200), 4000)
    theirs = stats.bootstrap((scores,), np.mean, n_resamples=4000, method="percentile", random_state=1).confidence_interval
    assert [ours["low"], ours["high"]] == pytest.approx(list(theirs), abs=0.02)


def test_several_measures_share_their_resamples_and_the_order_of_rows_changes_nothing():
    scores, patients = visits()
    together = means_with_intervals(scores, patients)
    alone = means_with_intervals(scores[["b"]], patients)
    assert together.iloc[1].to_dict() == pytest.approx(alone.iloc[0].to_dict())
    shuffled = np.random.default_rng(1).permutation(len(patients))
    again = means_with_intervals(scores.iloc[shuffled], patients[shuffled])
    assert again["low"].to_numpy() == pytest.approx(together["low"].to_numpy(), rel=1e-12)


def test_an_inverse_is_taken_of_the_mean_of_each_resample():
    scores, patients = visits()
    scores["a"] += 0.2
    table = means_with_intervals(scores, patients, 2000, inverse=("a",)).set_index("measure")
    plain = means_with_intervals(scores, patients, 2000).set_index("measure")
    (low, high), _ = loop_bootstrap(lambda rows: 1 / scores["a"].to_numpy()[rows].mean(), patients, 2000)
    assert table.estimate["a"] == pytest.approx(1 / scores["a"].mean()) and table.estimate["a"] < (1 / scores["a"]).mean()
    assert [table.low["a"], table.high["a"]] == pytest.approx([low, high], rel=0.02)
    assert table.loc["b"].equals(plain.loc["b"])


def test_a_mean_near_zero_has_an_inverse_without_upper_end_and_never_a_negative_one():
    scores, patients = np.random.default_rng(0).normal(0.02, 0.2, 100), np.arange(100)
    found = means_with_intervals(pd.DataFrame({"radcliq": scores}), patients, inverse=("radcliq",)).iloc[0]
    assert found.low > 0 and np.isinf(found.high)


def test_p_is_that_of_all_possible_swaps():
    difference = np.random.default_rng(5).normal(0.3, 0.6, 9)
    every = [abs(np.dot(signs, difference)) for signs in itertools.product([1, -1], repeat=9)]
    exact = np.mean(np.array(every) >= abs(difference.sum()) - 1e-12)
    assert randomisation_p(difference, np.arange(9), 20_000) == pytest.approx(exact, abs=0.01)
    paired = stats.permutation_test((difference, np.zeros(9)), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert exact == pytest.approx(paired.pvalue)


def test_swaps_are_by_patient_and_p_is_never_zero():
    difference, patients = np.full(40, 0.1), np.repeat([f"p{i}" for i in range(4)], 10)
    assert randomisation_p(difference, patients, 20_000) == pytest.approx(2 / 16, abs=0.01)  # four patients: all kept or all swapped
    assert randomisation_p(difference, np.arange(40), 999) == 1 / 1000
    assert randomisation_p(np.zeros(40), patients, 100) == 1


def test_several_measures_at_once_give_the_p_values_of_each_alone():
    scores, patients = visits()
    shift = scores - np.random.default_rng(2).normal(0.01, 0.1, scores.shape)
    together = randomisation_p((scores - shift).to_numpy(), patients, 500)
    assert together == pytest.approx([randomisation_p((scores[m] - shift[m]).to_numpy(), patients, 500) for m in scores])
    table = paired_differences(scores, shift, patients, 500)
    assert table["p"].to_numpy() == pytest.approx(together) and table["p_holm"].to_numpy() == pytest.approx(holm(together))


def test_a_difference_of_inverses_is_tested_by_swapping_before_inverting():
    rng = np.random.default_rng(7)
    one, other = rng.uniform(0.5, 1.5, 8), rng.uniform(0.8, 1.9, 8)
    found = paired_differences(pd.DataFrame({"r": one}), pd.DataFrame({"r": other}), np.arange(8), 20_000, inverse=("r",)).iloc[0]

    def statistic(swapped):
        return 1 / np.where(swapped, other, one).mean() - 1 / np.where(swapped, one, other).mean()

    every = np.array([abs(statistic(np.array(s))) for s in itertools.product([False, True], repeat=8)])
    assert found.estimate == pytest.approx(1 / one.mean() - 1 / other.mean())
    assert found.p == pytest.approx(np.mean(every >= abs(found.estimate) - 1e-12), abs=0.015)


def test_the_paired_interval_is_that_of_the_differences():
    scores, patients = visits()
    (low, high), spread = loop_bootstrap(lambda rows: (scores["a"] - scores["b"]).to_numpy()[rows].mean(), patients)
    found = paired_difference(scores["a"], scores["b"], patients, 4000)
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=0.15 * spread)


def test_ratios_divide_within_the_resample():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(40), 3)
    below = rng.integers(0, 2, 120).astype(float)
    above = below * (rng.random(120) < 0.7)
    (low, high), spread = loop_bootstrap(lambda rows: above[rows].sum() / below[rows].sum(), patients)
    estimate, resampled = ratios(above, below, patients, 4000)
    found = interval(resampled[:, 0])
    assert estimate[0] == pytest.approx(above.sum() / below.sum())
    assert [found["low"], found["high"]] == pytest.approx([low, high], abs=0.15 * spread)


def test_f1_is_a_ratio_of_sums_and_null_without_any_case():
    counts = np.random.default_rng(4).integers(0, 2, (90, 3)).astype(float)
    patients = np.arange(90) // 2
    tp, fp, fn = counts.sum(0)
    found = f1_with_interval(counts, patients)
    assert found["estimate"] == pytest.approx(2 * tp / (2 * tp + fp + fn)) and found["support"] == tp + fn and found["patients"] == 45
    assert f1_with_interval(np.zeros((9, 3)), np.arange(9))["low"] is None


def test_the_bootstrap_p_is_below_five_percent_where_the_interval_excludes_zero():
    rng = np.random.default_rng(8)
    for shift in (0.5, 1.5, 1.9, 2.1, 2.5, 4.0):
        drawn = rng.normal(shift, 1, 4000)
        low = interval(drawn)["low"]
        assert (bootstrap_p(drawn) < 0.05) == (low > 0) and bootstrap_p(-drawn) == bootstrap_p(drawn)
    assert bootstrap_p(np.ones(99)) == 2 / 100


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(6)
    for _ in range(50):
        p = rng.random(7) ** 3
        rejected, left = set(), list(np.argsort(p))
        while left and p[left[0]] <= 0.05 / len(left):
            rejected.add(left.pop(0))
        assert set(np.flatnonzero(holm(p) <= 0.05)) == rejected


def table_of(seeds, shift, seed=0, run="rl2"):
    scores, patients = visits(seed=seed)
    rng = np.random.default_rng(seed + 1)
    parts = []
    for s in seeds:
        part = scores + shift + rng.normal(0, 0.05, len(scores))[:, None] + 0.02 * s
        parts.append(part.assign(system=f"{run}-s{s}", dataset="toy", study_id=[str(i) for i in range(len(part))], patient_id=patients))
    return pd.concat(parts, ignore_index=True)


def test_seeds_are_pooled_study_by_study_and_shown():
    table = table_of([1, 2, 3], 0)
    found = summarise(table, ["a"]).iloc[0]
    assert found.estimate == pytest.approx(table["a"].mean()) and found.seeds == 3
    assert [float(v) for v in found.by_seed.split()] == pytest.approx(table.groupby("system")["a"].mean().tolist(), abs=1e-4)
    alone = table[table["system"] == "rl2-s2"]
    one = summarise(alone, ["a"]).iloc[0]
    assert [one.low, one.high] == pytest.approx([mean_with_interval(alone["a"], alone.patient_id)[end] for end in ("low", "high")])


def test_the_interval_of_several_seeds_holds_their_spread():
    part = scored(split_system(table_of([1, 2, 3, 4, 5], 0)), ["a"])
    drawn = resampled_means(part, 4000, 0)[:, 0]
    fixed = resampled_means(part._replace(values=part.values.mean(1, keepdims=True)), 4000, 0)[:, 0]
    spread = part.values[:, :, 0].mean(0).std(ddof=1) / np.sqrt(5)
    assert drawn.std() == pytest.approx(np.hypot(fixed.std(), spread), rel=0.05) and drawn.mean() == pytest.approx(fixed.mean(), abs=0.003)


def test_means_and_shares_of_seeds_far_apart_stay_where_they_can_be():
    table = pd.concat([table_of([1], 0).assign(a=1.0), table_of([1], 0).assign(a=0.0, system="rl2-s2")])
    found = summarise(table, ["a"]).iloc[0]
    assert (found.low, found.estimate, found.high) == (0, 0.5, 1)
    counts = np.array([[[1, 0, 0], [0, 0, 1]]] * 40)
    found = f1_with_interval(counts, range(40))
    assert (found["low"], found["high"], found["support"]) == (0, 1, 40)


def test_what_all_seeds_have_in_common_cancels_in_a_difference():
    table = pd.concat([table_of([1, 2, 5], 0, run="sft"), table_of([1, 2, 5], 0.05, run="rl2")])
    level, gap = summarise(table, ["a"]).iloc[0], compare_runs(table, [("rl2", "sft")], ["a"]).iloc[0]
    assert gap.high - gap.low < 0.5 * (level.high - level.low)  # each seed's .02 more than the last is in both


def test_a_difference_is_told_where_test_and_interval_agree():
    row = {"difference_low": 0.1, "difference_high": 0.2, "p_holm": 0.01}
    assert is_significant(row) and not is_significant(row | {"difference_low": -0.1}) and not is_significant(row | {"p_holm": 0.06})
    assert not is_significant({}) and is_significant({"low": -2, "high": -1, "p_holm": 0.04}, "")


def test_runs_are_compared_on_pooled_seeds_with_holm_over_all_rows():
    table = pd.concat([table_of([1, 2], 0, run="sft"), table_of([1, 2], 0.05, run="rl2")])
    found = compare_runs(table, [("rl2", "sft")], ["a", "b"])
    assert found["estimate"].tolist() == pytest.approx([0.05, 0.05], abs=0.02) and (found["low"] > 0).all()
    assert found["p_holm"].to_numpy() == pytest.approx(holm(found["p"])) and found["test"].str.contains("randomisation").all()
    means = table.groupby("system")["a"].mean()
    shown = [float(v) for v in found.by_seed[0].split()]
    assert shown == pytest.approx([means[f"rl2-s{s}"] - means[f"sft-s{s}"] for s in (1, 2)], abs=1e-4)


def test_a_run_of_fewer_seeds_is_compared_with_those_seeds_of_the_other():
    table = pd.concat([table_of([1, 2], 0, run="sft"), table_of([1], 0.05, run="rl_bleu"), table_of([7], 0.05, run="other")])
    means = table.groupby("system")["a"].mean()
    found = compare_runs(table, [("rl_bleu", "sft"), ("other", "sft")], ["a"]).set_index("run")
    assert found.estimate["rl_bleu"] == pytest.approx(means["rl_bleu-s1"] - means["sft-s1"])
    assert found.estimate["other"] == pytest.approx(means["other-s7"] - means[["sft-s1", "sft-s2"]].mean())  # no seed is shared
    assert found.seeds.to_dict() == {"rl_bleu": 1, "other": 1}


def test_what_cannot_be_computed_is_said():
    table = table_of([1, 2], 0)
    with pytest.raises(StudyError, match="seed 2 was not scored on the same studies"):
        summarise(table.iloc[:-1], ["a"])
    with pytest.raises(StudyError, match="study 1 has a score that is no number"):
        mean_with_interval([1.0, np.nan], ["p", "q"])
    with pytest.raises(StudyError, match="one patient a study"):
        mean_with_interval([1.0, 2.0], ["p"])


def test_a_study_of_an_unknown_patient_is_a_patient_of_its_own():
    found = mean_with_interval([0.0, 1.0, 0.0, 1.0], ["p", None, None, "p"])
    assert found["patients"] == 3 and found["studies"] == 4


def test_draws_that_are_kept_are_those_drawn_anew(monkeypatch):
    rng = np.random.default_rng(3)
    first, second = (pd.DataFrame(rng.normal(size=(400, 2)), columns=["a", "b"]) for _ in range(2))
    patients = rng.integers(300, size=400)
    kept = [statistics.paired_differences(first, second, patients, 50, seed) for seed in (0, 1, 0)]
    monkeypatch.setattr(statistics, "KEPT", 0)
    anew = [statistics.paired_differences(first, second, patients, 50, seed) for seed in (0, 1, 0)]
    for one, other in zip(kept, anew):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert not kept[0].equals(kept[1])
