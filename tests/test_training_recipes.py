"What settings.ini says of the runs: the paper's values in the profile `paper`, and the control that spends what RL spent."

import shutil
from pathlib import Path

import pytest

from unirg.core import Settings, StudyError
from unirg.study import Plan

ROOT = Path(__file__).parents[1]
RUNS = "base sft rl1 rl2 sft_more sft_more_low"


@pytest.fixture
def plan(tmp_path):
    "The study's graph over archives that are there."
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs" / "study", tmp_path / "nbs" / "study")
    for name in ("mimic-cxr", "chexpert-plus", "rexgradient-160k", "iu-xray"):
        (tmp_path / "archives" / name).mkdir(parents=True)
    return lambda profile, **changes: Plan(Settings(profile, {"runs": RUNS} | changes, root=tmp_path))


def test_the_paper_profile_trains_as_the_paper_did(plan):
    tasks = plan("paper").tasks
    sft, first, second = (tasks[f"{run}-s1"].parameters for run in ("sft", "rl1", "rl2"))
    assert (sft["learning_rate"], sft["global_batch"], sft["epochs"], sft["steps"]) == (5e-5, 256, 3, 0)
    for rl in (first, second):
        assert (rl["learning_rate"], rl["completions_per_step"], rl["num_generations"], rl["epochs"], rl["steps"]) == (5e-6, 256, 16, 1, 0)
        assert rl["epsilon_high"] > 0.2 and rl["use_vllm"]
    assert (first["beta"], second["beta"]) == (0.0, 0.03) and (first["reward"], second["reward"]) == ("step1", "step2")
    assert second["start"].endswith("rl1-s1"), "the KL term holds to the step-1 policy"
    for one in (sft, first, second):
        assert one["best"] and one["evaluate_studies"] == 1024 and one["image_size"] == 512 and one["bf16"]
        assert (ROOT / "nbs/study/launch" / f"{one['launch']}.yaml").is_file()
    assert (sft["best_by"], second["best_by"]) == ("composite_step1", "composite_step2")


@pytest.mark.parametrize("profile", ["phantom", "paper"])
def test_the_control_waits_for_the_runs_whose_compute_it_spends(plan, profile):
    tasks = plan(profile).tasks
    rates = set()
    for run in ("sft_more", "sft_more_low"):
        task = tasks[f"{run}-s1"]
        assert task.parameters["match_run"] == ["rl1", "rl2"] and task.parameters["start"].endswith("sft-s1")
        assert {"sft-s1", "rl1-s1", "rl2-s1"} <= set(task.after)
        rates.add(task.parameters["learning_rate"])
    assert len(rates) == 2 and "sft_more-s1" not in plan(profile, runs="base sft rl1").tasks
    with pytest.raises(StudyError, match=r"\[run:sft_more\] matches 'rl1', which is not among the runs"):
        plan(profile, runs="base sft sft_more")
