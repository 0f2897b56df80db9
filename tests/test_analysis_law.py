"The law over small worlds: patients serve once, a correlation draws worlds, and profiles differ in one thing."

import json

import numpy as np
import pandas as pd
import pytest

from unirg.analysis.figures import save_panel
from unirg.analysis.headroom import headroom_scores, headroom_summary, recoverable_headroom
from unirg.analysis.law import first_half, law_correlation, law_points, law_table, panel_law, read_worlds, spearman, world_name
from unirg.core import Settings, StudyError, read_json
from unirg.data.studies import Studies
from unirg.reward.composite import Composite
from unirg.training.policy import build_tiny_policy
from planned import ROOT, plan_of
from study_notebooks import run_notebook
from training_toys import toy_table, toy_texts

WORLDS = "world world_predictable world_reticent world_rare world_even world_plain world_uneven world_wordy world_early".split()


def points_of(headroom, gain, sets=("seen", "unseen")):
    "A point a world and set; each list holds a value a world."
    names = [f"world_{i}" for i in range(len(headroom))]
    rows = [pd.DataFrame({"world": names, "dataset": name, "headroom": headroom, "gain": gain}) for name in sets]
    return pd.concat(rows, ignore_index=True)


def scores(levels, patients, source, **more):
    "Scores of some systems on made-up studies, two a patient."
    draw = np.random.default_rng(len(source))
    studies = [f"{name}{letter}" for name in patients for letter in "xy"]
    noise = draw.normal(0, 0.01, len(studies))
    known = {"dataset": source, "study_id": studies, "patient_id": [name for name in patients for _ in "xy"]}
    rows = [pd.DataFrame({"system": system, **known, "composite_step1": level + noise}) for system, level in levels.items()]
    return pd.concat(rows, ignore_index=True).assign(**more)


# ---------------------------------------------------------------- the correlation


@pytest.mark.parametrize(
    ("x", "y", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [1, 4, 9, 16, 1000], 1.0),  # ranks, not values
        ([1, 1, 2, 2], [1, 1, 2, 2], 1.0),  # ties share their rank
        ([1, 2, 3, 4], [1, 1, 1, 2], 0.7745967),
        ([1, 1, 1], [1, 2, 3], float("nan")),
        ([0.5], [0.5], float("nan")),
    ],
)
def test_the_rank_correlation_is_spearmans(x, y, rho):
    assert spearman(x, y) == pytest.approx(rho, nan_ok=True)


def test_a_law_that_holds_is_found_and_one_that_does_not_is_not():
    head, draw = np.linspace(-0.02, 0.03, 9), np.random.default_rng(3)
    found = law_table(points_of(head, head + draw.normal(0, 0.002, 9)), 1000).set_index("dataset")
    assert found.holds["all"] and found.rho["all"] > 0.9 and found.low["all"] > 0.5 and found.p["all"] < 0.01
    assert list(found.index) == ["all", "seen", "unseen"] and found.points.tolist() == [18, 9, 9]
    free = [law_correlation(points_of(head, draw.permutation(head)), 300, seed)["p"] for seed in range(12)]
    assert sum(p < 0.05 for p in free) <= 3, "a test that is right one time in twenty"
    against = law_table(points_of(head, -head), 500).set_index("dataset")
    assert against.rho["all"] < -0.9 and not against.holds.any(), "the other way round is no law"


def test_a_world_is_drawn_with_both_its_points():
    "Two points of one world are one world: to count every point twice makes nothing surer."
    head = np.array([-0.01, 0.0, 0.01, 0.02, 0.03, 0.025])
    gain = np.array([0.0, 0.02, 0.01, 0.03, 0.02, 0.04])
    once, twice = (law_correlation(points_of(head, gain, sets), 4000) for sets in (("seen",), ("seen", "unseen")))
    assert twice["rho"] == pytest.approx(once["rho"])
    assert twice["p"] == pytest.approx(once["p"], abs=0.03) and twice["low"] == pytest.approx(once["low"], abs=0.1)
    assert (once["points"], twice["points"], once["worlds"], twice["worlds"]) == (6, 12, 6, 6)


def test_a_set_is_not_mistaken_for_a_law():
    "Where the unseen institution lies lower in both, but no world tells another's gain, the test says no."
    draw = np.random.default_rng(5)
    seen = points_of(draw.normal(0.02, 0.001, 8), draw.normal(0.03, 0.001, 8), ("seen",))
    unseen = points_of(draw.normal(-0.02, 0.001, 8), draw.normal(-0.01, 0.001, 8), ("unseen",))
    found = law_correlation(pd.concat([seen, unseen]), 2000)
    assert found["rho"] > 0.6 and found["p"] > 0.05


@pytest.mark.parametrize(("head", "gain"), [([0.01, 0.02, 0.03], [0.02] * 3), ([0.01] * 3, [0.01, 0.02, 0.03])])
def test_what_does_not_vary_has_no_order_and_the_panel_says_so(head, gain, tmp_path):
    points = points_of(head, gain)
    law = law_table(points, 100)
    assert law.rho.isna().all() and not law.holds.any()
    ends = {f"{name}_{end}": points[name] for name in ("headroom", "gain") for end in ("low", "high")}
    figure, table = panel_law(points.assign(**ends, gain_seeds=1), law)
    assert "no order" in figure.get_supxlabel()
    assert all(path.stat().st_size > 300 for path in save_panel(figure, table, tmp_path, "worlds"))


def test_a_world_without_a_set_of_the_others_is_named():
    points = points_of([0.01, 0.02, 0.03], [0.01, 0.02, 0.03])
    with pytest.raises(StudyError, match="world_2 has not"):
        law_correlation(points.drop(points.index[-1]), 50)


def test_signs_are_counted():
    found = law_correlation(points_of([-0.01, 0.01, 0.02, -0.02], [-0.02, 0.01, -0.01, 0.03], ("seen",)), 50)
    assert found["same_sign"] == 2


# ---------------------------------------------------------------- one world's points

BEFORE = {"greedy-s1": 0.60, "mbr-s1": 0.62, "greedy-s2": 0.60, "mbr-s2": 0.64}
AFTER = {"rl1-s1": 0.66, "sft_matched-s1": 0.62, "rl1-s2": 0.66, "sft_matched-s2": 0.60}


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_points_are_told_with_their_seeds(seeds):
    take = lambda levels: {name: level for name, level in levels.items() if int(name[-1]) in seeds}  # noqa: E731
    before = [scores(take(BEFORE), [f"{s}{i}" for i in range(20)], s, believed=0.03) for s in "abe"]
    before = pd.concat(before).assign(believed=lambda t: t.believed * t.system.str.startswith("mbr"))
    after = pd.concat([scores(take(AFTER), [f"{s}{i}" for i in range(20, 50)], s) for s in "abe"])
    found = law_points(before, after, "rl1", "sft_matched", ["a", "b"], resamples=200)
    found = found.set_index(["dataset", "quantity"])
    assert set(found.index) == {(d, q) for d in ("seen", "unseen") for q in ("headroom", "believed", "gain")}
    assert found.estimate["seen", "headroom"] == pytest.approx(0.02 if len(seeds) == 1 else 0.03)
    assert found.estimate["unseen", "gain"] == pytest.approx(0.04 if len(seeds) == 1 else 0.05)
    assert found.estimate["seen", "believed"] == pytest.approx(0.03)
    assert (found.seeds == len(seeds)).all() and all(len(each.split()) == len(seeds) for each in found.by_seed)
    assert found.patients["seen", "gain"] == 60 and found.studies["unseen", "headroom"] == 40


def test_no_patient_serves_twice():
    before, after = scores(BEFORE, ["p1", "p2"], "a", believed=0.0), scores(AFTER, ["p2", "p3"], "a")
    with pytest.raises(StudyError, match=r"1 patients would serve .* p2"):
        law_points(before, after, "rl1", "sft_matched", ["a"])
    law_points(before, scores(AFTER, ["p2", "p3"], "b"), "rl1", "sft_matched", ["a", "b"], resamples=20)  # another institution's p2


def test_halves_are_about_equal_and_always_the_same():
    names = [f"east{i:05d}" for i in range(1000)]
    half = first_half(names)
    assert 430 < half.sum() < 570 and (half == first_half(pd.Series(names))).all()
    assert first_half(names[::-1]).tolist() == half.tolist()[::-1]


# ---------------------------------------------------------------- the tool

DRAWN = {"s1": ["Left pleural effusion."] * 3 + ["No pleural effusion."], "s2": ["The heart is enlarged."] * 4}
GREEDY = {"s1": "No pleural effusion.", "s2": "The heart is enlarged."}
TRUE = {"s1": "There is a left pleural effusion.", "s2": "Cardiomegaly."}
FACTS = Composite(weights={"fact_f1": 1.0})


def test_headroom_is_what_choosing_gains():
    table = headroom_scores(FACTS, DRAWN, GREEDY, TRUE)
    assert table.headroom["s1"] > 0.5 and table.headroom["s2"] == 0 and table.believed["s2"] == 0
    assert (table.oracle >= table.mbr - 1e-12).all() and table.believed["s1"] > 0
    found = headroom_summary(table, ["p1", "p2"], 100)
    assert found["headroom"] == pytest.approx(table.headroom.mean()) and (found["studies"], found["patients"]) == (2, 2)


def test_where_the_samples_are_wrong_together_headroom_is_below_zero():
    table = headroom_scores(FACTS, DRAWN, GREEDY, {"s1": "No pleural effusion.", "s2": "Cardiomegaly."})
    assert table.headroom["s1"] < 0 < table.believed["s1"]


@pytest.mark.parametrize(
    ("samples", "greedy", "references", "said"),
    [
        (DRAWN, {"s1": "Clear."}, TRUE, "1 of 2 studies have no greedy report, the first: s2"),
        (DRAWN, GREEDY, {"s2": "Clear."}, "no reference, the first: s1"),
        (DRAWN, GREEDY, TRUE | {"s1": ""}, "no reference"),
        ({"s1": ["One."]}, GREEDY, TRUE, "two are the least"),
        ({}, GREEDY, TRUE, "no study has samples"),
    ],
)
def test_what_cannot_be_measured_is_named(samples, greedy, references, said):
    with pytest.raises(StudyError, match=said):
        headroom_scores(FACTS, samples, greedy, references)


def test_a_policy_is_asked_about_validation_studies_alone_and_once(tmp_path):
    policy, table = build_tiny_policy(toy_texts(), tmp_path / "tiny", 32), toy_table(30)
    told = {"reward": "bleu", "samples": 4, "resamples": 50, "max_new_tokens": 6, "target_sections": "findings"}
    found, scores = recoverable_headroom(policy, table, tmp_path / "asked", **told)
    wanted = {row["study_id"] for row in table.remove_columns("image") if row["split"] == "validation"}
    assert set(scores.index) == wanted and found["studies"] == len(wanted) == 6
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "asked").glob("*.json")}
    again, _ = recoverable_headroom(policy, table, tmp_path / "asked", **told)
    assert again == found and {p.name: p.stat().st_mtime_ns for p in (tmp_path / "asked").glob("*.json")} == written
    assert len(recoverable_headroom(policy, table, tmp_path / "few", limit=2, **told)[1]) == 2
    with pytest.raises(StudyError, match="no study of split dev has a reference"):
        recoverable_headroom(policy, table, tmp_path / "none", split="dev", **told)


# ---------------------------------------------------------------- all worlds


def panel(folder, world, headroom=0.02, gain=0.03, sets=("seen", "unseen"), quantities=("headroom", "believed", "gain")):
    values = {"headroom": headroom, "believed": 0.05, "gain": gain}
    ends = {"studies": 100, "patients": 50, "seeds": 1, "by_seed": "0.0100", "level": 0.6}
    rows = [
        {"dataset": d, "quantity": q, "estimate": values[q], "low": values[q] - 0.01, "high": values[q] + 0.01, **ends}
        for d in sets
        for q in quantities
    ]
    (folder / world / "figures").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / world / "figures" / "fig_recoverable.csv", index=False)


def test_worlds_that_have_not_run_are_named_and_the_others_shown(tmp_path):
    for i, world in enumerate(WORLDS[:4]):
        panel(tmp_path, world, 0.01 * i, 0.01 * i)
    told = {"out": str(tmp_path / "worlds"), "worlds": WORLDS, "resamples": 200}
    run_notebook("78_worlds", **told)
    folder = tmp_path / "worlds" / "figures"
    assert json.loads((folder / "78_worlds.json").read_text()) == ["fig_worlds.png", "fig_worlds.svg", "fig_worlds.csv"]
    table = pd.read_csv(folder / "fig_worlds.csv")
    law = table[table.world == "correlation"].set_index("dataset")
    assert law.rho["all"] == pytest.approx(1) and law.worlds["all"] == 4
    assert "Not yet run: even" in (folder / "fig_worlds.svg").read_text()
    points, missing = read_worlds(tmp_path, WORLDS)
    assert missing == WORLDS[4:] and set(points.world) == set(WORLDS[:4])
    assert (read_worlds(tmp_path, WORLDS, "believed")[0].headroom == 0.05).all()


def test_two_worlds_have_no_order(tmp_path):
    panel(tmp_path, "world"), panel(tmp_path, "world_even")
    with pytest.raises(StudyError, match="2 worlds have run, and an order takes three: unirg-run --profile world_rare"):
        read_worlds(tmp_path, ["world", "world_even", "world_rare"])


def test_a_panel_without_its_gain_is_named(tmp_path):
    for world in ("world", "world_even"):
        panel(tmp_path, world)
    panel(tmp_path, "world_rare", quantities=("headroom",))
    with pytest.raises(StudyError, match=r"world_rare.*no gain of set 'seen'"):
        read_worlds(tmp_path, ["world", "world_even", "world_rare"])


@pytest.mark.parametrize(("profile", "name"), [("world", "average"), ("world_even", "even"), ("world_half_as_ill", "half as ill")])
def test_worlds_are_named_in_words(profile, name):
    assert world_name(profile) == name


# ---------------------------------------------------------------- the profiles


def test_a_world_differs_from_the_average_one_in_what_its_section_says():
    plans = {profile: plan_of(Settings(profile, root=ROOT)) for profile in WORLDS}
    average = plans["world"].tasks
    assert Settings("worlds", root=ROOT).listed("worlds") == WORLDS
    kinds = set()
    for profile, plan in plans.items():
        assert not plan.wrong and set(plan.tasks) == set(average)
        assert plan.seeds == [1, 2] and plan.unseen == ["rexrank"] and len(plan.training) == 2
        own, usual = plan.tasks["phantom"].parameters, average["phantom"].parameters
        differs = {name for name in own if own[name] != usual[name]} - {"out", "profile"}
        assert differs <= {"reader_threshold", "reader_unevenness", "reader_wording", "reader_boilerplate", "prevalence"}
        assert own["keep_films"] and bool(differs) == (profile != "world")
        kinds.add(tuple(sorted((name, own[name]) for name in differs)))
        for run in ("sft-s1", "rl1-s1", "sft_matched-s1"):
            same = {k: v for k, v in plan.tasks[run].parameters.items() if k not in ("out", "start")}
            assert same == {k: v for k, v in average[run].parameters.items() if k not in ("out", "start")}
        assert plan.tasks["sft_matched-s1"].parameters["match_compute_of"] == ["rl1"] and plan.tasks["base-s1"].parameters["atlas"]
        assert plan.tasks["recoverable"].parameters["scored"] and {"generate-rl1", "sft-s2"} <= set(plan.tasks["recoverable"].needs)
    assert len(kinds) == len(WORLDS), "no two worlds are the same"


def test_the_panel_over_worlds_rests_on_the_worlds_panels():
    plan = plan_of(Settings("worlds", root=ROOT))
    assert list(plan.tasks) == ["worlds"] and not plan.wrong
    task = plan.tasks["worlds"]
    assert task.parameters["worlds"] == WORLDS
    assert {path.split("/")[-3] for path in task.reads} == set(WORLDS) and all(path.endswith("fig_recoverable.csv") for path in task.reads)
    assert not [name for name in plan_of(Settings("phantom", root=ROOT)).tasks if name in ("worlds", "recoverable")]


def test_a_worlds_patients_are_in_no_other_result():
    seeds = {profile: Settings(profile, root=ROOT).get("seed") for profile in ("phantom", "phantom_full", "recipes", "world")}
    assert len({*seeds.values()}) == 4


def test_the_notebook_of_one_world_makes_its_points(tmp_path):
    from unirg.analysis.scoring import save_scores, score_predictions

    for source, split in (("a", None), ("e", "test")):
        table = toy_table(40, source=source)
        table = table.remove_columns("patient_id").add_column("patient_id", table["study_id"]).select_columns(table.column_names)
        if split:
            table = table.remove_columns("split").add_column("split", [split] * len(table)).select_columns(table.column_names)
        Studies(table, {}, {"source": source, "seen": 40, "rows": 40, "quarantined": 0}).save(tmp_path / "data" / source)
        rows = [row for row in table.remove_columns("image") if row["split"] == "test"]
        for system, text in (("rl1-s1", "The heart is enlarged."), ("sft_matched-s1", "No pleural effusion.")):
            made = score_predictions({row["study_id"]: text for row in rows}, rows, "findings", system)
            save_scores(made, tmp_path / "scores" / system / f"{source}.parquet")
    build_tiny_policy(toy_texts(), tmp_path / "models" / "sft-s1", 32)
    told = {"out": str(tmp_path), "runs": ["sft", "sft_matched", "rl1"], "sources": ["a", "e"], "training": ["a"]}
    few = {"samples": 3, "max_new_tokens": 6, "resamples": 50, "reward": "facts"}
    run_notebook("68_recoverable", **told, **few, scored=["sft-s1", "sft_matched-s1", "rl1-s1"])
    table = pd.read_csv(tmp_path / "figures" / "fig_recoverable.csv").set_index(["dataset", "quantity"])
    assert set(table.index) == {(d, q) for d in ("seen", "unseen") for q in ("headroom", "believed", "gain")}
    assert read_json(tmp_path / "figures" / "68_recoverable.json")[0] == "fig_recoverable.png"
    assert table.studies["unseen", "headroom"] + table.studies["unseen", "gain"] == 40, "a half for each"
    with pytest.raises(StudyError, match="no run sft_matched"):
        run_notebook("68_recoverable", **told, **few, scored=["sft-s1", "rl1-s1"])
