"""Recipes of reinforcement learning are compared on validation studies, against their own checkpoint, and never on test studies."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from study_notebooks import run_notebook

from unirg.analysis.figures import save_panel
from unirg.analysis.recipes import panel_recipes, recipes_of, recipes_table, said_apart
from unirg.analysis.statistics import holm
from unirg.core import Settings, StudyError, write_json
from planned import plan_of

matplotlib.use("Agg")
ROOT = Path(__file__).parents[1]
MEASURES = ["composite_step1", "judged_errors"]
STUDIES = [f"{patient}{study}" for patient in range(30) for study in "xy"]
VALIDATION = {(source, study): "validation" for source in "ab" for study in STUDIES}


def scores(**gain):
    rng, found = np.random.default_rng(5), []
    for run, more in gain.items():
        for seed in (1, 2):
            for source in "ab":
                value = 0.6 + more + rng.normal(0, 0.02, len(STUDIES))
                known = {"system": f"{run}-s{seed}", "dataset": source, "study_id": STUDIES, "patient_id": [name[:-1] for name in STUDIES]}
                found.append(pd.DataFrame({**known, "composite_step1": value, "judged_errors": 2 - value}))
    return pd.concat(found, ignore_index=True)


RECIPES = {
    "rl1": {"learning_rate": 1e-4, "steps": 80, "scale_rewards": "none", "reward": "step1"},
    "rl_first": {"learning_rate": 4e-4, "steps": 30, "scale_rewards": "group", "reward": "step1"},
}


def trained(models, system, kind, start, **recipe):
    write_json(models / system / "training.json", {"kind": kind, "job": {"start": str(models / start)}, "recipe": recipe})


def test_recipes_are_those_of_reinforcement_from_the_checkpoint(tmp_path):
    write_json(tmp_path / "base-s1" / "training.json", {"kind": "sft", "job": {"blind": True}, "recipe": {}})
    trained(tmp_path, "sft-s1", "sft", "base-s1", steps=7)
    trained(tmp_path, "sft_more-s1", "sft", "sft-s1", steps=9)
    trained(tmp_path, "rl_only-s1", "grpo", "base-s1", steps=3)
    trained(tmp_path, "rl1-s1", "grpo", "sft-s1", steps=4)
    trained(tmp_path, "rl2-s1", "grpo", "rl1-s1", steps=5)
    systems = ["base-s1", "sft-s1", "sft_more-s1", "rl_only-s1", "rl1-s1", "rl2-s1"]
    assert {run: recipe["steps"] for run, recipe in recipes_of(tmp_path, systems).items()} == {"rl1": 4, "rl2": 5}
    with pytest.raises(StudyError, match="rl3-s1"):
        recipes_of(tmp_path, ["rl3-s1"])


def test_a_recipe_is_called_by_what_sets_it_apart():
    said = said_apart(RECIPES)
    assert said["rl_first"] == "rate 0.0004, 30 steps, divided by the spread of a group" and "step1" not in said["rl1"]
    assert said_apart({"rl1": RECIPES["rl1"]})["rl1"].endswith("reward step1")  # alone, it is told whole
    other = {"rl1": RECIPES["rl1"], "rl_clip": {**RECIPES["rl1"], "epsilon_high": 0.4, "save_every": 3}}
    assert said_apart(other) == {"rl1": "plain GRPO, the study's recipe", "rl_clip": "epsilon high 0.4"}


def test_nothing_to_compare_is_said_in_a_line():
    for given, recipes in ((scores(sft=0.0), {}), (scores(rl1=0.0), RECIPES)):
        with pytest.raises(StudyError, match="nothing to compare"):
            recipes_table(given, VALIDATION, recipes, "sft", ["a", "b"], MEASURES, 200)


def test_gains_are_over_the_checkpoint_by_seed_and_a_whole_panel_is_corrected():
    table = recipes_table(scores(sft=0.0, rl1=0.03, rl_first=-0.03, other=0.2), VALIDATION, RECIPES, "sft", ["a", "b"], MEASURES, 500)
    pooled = table[(table.dataset == "seen") & (table.measure == "composite_step1")].set_index("run")
    assert set(table.run) == set(RECIPES) and set(table.against) == {"sft"}
    assert pooled.studies.tolist() == [120, 120] and pooled.patients.tolist() == [60, 60]
    assert pooled.difference_low["rl1"] > 0.01 and pooled.difference_high["rl_first"] < -0.01
    each = [float(value) for value in pooled.difference_by_seed["rl1"].split()]
    assert len(each) == 2 and abs(np.mean(each) - pooled.difference["rl1"]) < 1e-4
    assert table.p_holm.tolist() == pytest.approx(list(holm(table.p.to_numpy()))) and set(table.split) == {"validation"}


@pytest.mark.parametrize("split", ["test", "train", None])
def test_other_studies_than_those_of_validation_are_refused(split):
    splits = VALIDATION | {("b", STUDIES[7]): split}
    if split is None:
        del splits["b", STUDIES[7]]
    with pytest.raises(StudyError, match=f"{split or 'no'} studies"):
        recipes_table(scores(sft=0.0, rl1=0.03), splits, RECIPES, "sft", ["a", "b"], MEASURES, 200)


def test_the_panel_shows_every_recipe_and_fewer_errors_to_the_right(tmp_path):
    table = recipes_table(scores(sft=0.0, rl1=0.03, rl_first=-0.03), VALIDATION, RECIPES, "sft", ["a", "b"], MEASURES, 200)
    figure, made = panel_recipes(table)
    assert all(path.stat().st_size > 500 for path in save_panel(figure, made, tmp_path, "recipes"))
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert labels == list(said_apart(RECIPES).values())
    assert [ax.xaxis_inverted() for ax in figure.axes] == [False, True] and len(made) == len(table)
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert not boxes[0].overlaps(boxes[1])


# ---------------------------------------------------------------- the profile


def test_a_recipe_is_searched_for_on_validation_studies_of_other_patients_than_those_of_the_results():
    plan = plan_of(Settings("recipes", root=ROOT))
    split = {task.notebook: task.parameters["split"] for task in plan.tasks.values() if "split" in task.parameters}
    assert split == {"40_generate": "validation"} and not plan.unseen and "report" not in plan.tasks
    seeds = {profile: Settings(profile, root=ROOT).get("seed") for profile in ("recipes", "phantom", "phantom_full")}
    assert len({*seeds.values()}) == 3


def test_the_recipes_of_the_study_are_among_those_compared():
    "What the panel calls the study's recipe is what the study trains with."

    own = ("out", "profile", "run", "start", "sources", "evaluate_studies")  # what is not the recipe

    def recipe(profile, run):
        parameters = plan_of(Settings(profile, root=ROOT)).tasks[f"{run}-s1"].parameters
        return {name: value for name, value in parameters.items() if name not in own}

    assert recipe("recipes", "rl1") == recipe("phantom", "rl1")
    assert recipe("recipes", "rl_long") == recipe("phantom_full", "rl1") != recipe("phantom", "rl1")


def test_the_notebook_makes_the_panel_and_its_list(tmp_path):
    from datasets import Dataset

    from unirg.data.studies import Studies

    models = tmp_path / "models"
    write_json(models / "base-s1" / "training.json", {"kind": "sft", "job": {"blind": True}, "recipe": {}})
    trained(models, "sft-s1", "sft", "base-s1")
    for run, recipe in RECIPES.items():
        trained(models, f"{run}-s1", "grpo", "sft-s1", **recipe)
    made = scores(sft=0.0, rl1=0.03, rl_first=-0.03)
    made["label_f1"] = made.composite_step1
    for (system, source), own in made[made.system.str.endswith("-s1")].groupby(["system", "dataset"]):
        (tmp_path / "scores" / system).mkdir(parents=True, exist_ok=True)
        own.to_parquet(tmp_path / "scores" / system / f"{source}.parquet")
    for source in "ab":
        table = Dataset.from_dict({"study_id": STUDIES, "split": ["validation"] * len(STUDIES)})
        Studies(table, {}, {"source": source}).save(tmp_path / "data" / source)
    told = {"out": str(tmp_path), "runs": ["sft", *RECIPES], "scored": ["sft-s1", "rl1-s1", "rl_first-s1"], "training": ["a", "b"]}
    run_notebook("67_recipes", **told, resamples=200)
    assert json.loads((tmp_path / "figures" / "67_recipes.json").read_text()) == ["fig_recipes.png", "fig_recipes.svg", "fig_recipes.csv"]
    assert set(pd.read_csv(tmp_path / "figures" / "fig_recipes.csv").dataset) == {"seen", "a", "b"}
