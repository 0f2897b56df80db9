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
    return lambda profile, **changes: Plan(Settings(profile, {"runs": RUNS, "beyond": "none"} | changes, root=tmp_path))


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
    assert {tasks[f"{run}-s1"].parameters["wording"] for run in ("base", "sft", "rl1", "rl2")} == {"full"}, "all are asked alike"
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


def test_the_full_phantom_is_the_phantom_with_more_of_everything(plan):
    tasks, small = plan("phantom_full", runs="base sft sft_more rl1 rl2 rl_only", beyond="rl2").tasks, plan("phantom").tasks
    assert {f"{run}-s{seed}" for run in ("sft", "sft_more", "rl2") for seed in range(1, 6)} <= set(tasks)
    assert {"consensus-sft-s5", "score-sft_consensus-s5", "follows", "operating_point", "sight"} <= set(tasks)
    assert tasks["operating_point"].parameters["consensus"] == "sft_consensus", "its samples are not drawn twice"
    for name in ("sft-s2", "rl2-s2", "sft_more-s2"):  # the same recipes, but for more steps of RL at a lower rate
        ours, theirs = (dict(some[name].parameters, out="", start="", profile="") for some in (tasks, small))
        apart = {key for key in ours if ours[key] != theirs[key]}
        assert apart <= ({"steps", "learning_rate", "save_every", "evaluate_every"} if name == "rl2-s2" else set())
    assert tasks["rl2-s2"].parameters["steps"] > small["rl2-s2"].parameters["steps"]
    counts = [dict(pair.split("=") for pair in some["phantom"].parameters["studies"].split()) for some in (tasks, small)]
    assert counts[0].keys() == counts[1].keys() and all(int(counts[0][name]) > int(counts[1][name]) for name in counts[0])


def test_a_profile_is_like_another_value_by_value(tmp_path):
    text = "[shared]\na = 0\n[one]\na = 1\nb = 1\n[one:run:r]\nx = 1\ny = 1\n[run:r]\nx = 0\nz = 0\n[two]\nlike = one\nb = 2\n"
    (tmp_path / "settings.ini").write_text(text + "[two:run:r]\ny = 2\n[three]\nlike = two\n[three:run:r]\nx = 3\n")
    two, three = (Settings(name, root=tmp_path) for name in ("two", "three"))
    assert two.values() == {"a": "1", "b": "2"} == three.values()
    assert two.section("run:r") == {"x": "1", "y": "2", "z": "0"} and three.section("run:r") == {"x": "3", "y": "2", "z": "0"}
    assert two.out.name == "two" and Settings("one", root=tmp_path).section("run:r") == {"x": "1", "y": "1", "z": "0"}
    for like, said in (("nobody", "no profile"), ("three", "itself")):
        (tmp_path / "settings.ini").write_text(text.replace("like = one", f"like = {like}") + "[three]\nlike = two\n")
        with pytest.raises(StudyError, match=rf"is like '\w+', which is {said}"):
            Settings("two", root=tmp_path)


def test_the_papers_second_step_asks_for_its_judge(plan):
    with pytest.raises(StudyError, match=r"\[run:rl1\] reward = paper_step2 .* judge = NAME"):
        plan("phantom", reward="paper_step2")
    plan("phantom", reward="step2")  # by rule


def test_a_run_read_by_consensus_is_a_system_of_its_own(plan):
    tasks = plan("phantom", consensus="sft rl2").tasks
    drawn, scored = tasks["consensus-sft-s2"], tasks["score-sft_consensus-s2"]
    assert drawn.after[0] == "sft-s2" and drawn.makes[0].name == "sft_consensus-s2" and scored.after[0] == "consensus-sft-s2"
    assert scored.parameters["system"] == "sft_consensus-s2" and scored.parameters["predictions"] == "predictions/sft_consensus-s2"
    table = tasks["table_s1"]
    assert table.parameters["systems"] == ["sft_consensus", "rl2_consensus"] and "score-rl2_consensus-s1" in table.after
    assert not any("consensus" in name for name in plan("phantom", consensus="none").tasks)
    drawn = plan("paper", consensus="sft").tasks["consensus-sft-s1"].parameters
    assert set(drawn["sources"]) - set(drawn["training"]) == {"iu_xray"}, "no threshold is chosen on the source that is never learned from"
    limited = plan("phantom", consensus="sft", limit="5").tasks
    assert limited["score-sft_consensus-s1"].parameters["limit"] == limited["consensus-sft-s1"].parameters["limit"] == 5
    with pytest.raises(StudyError, match="consensus = sftt, which is not among the runs"):
        plan("phantom", consensus="sftt")


def test_a_run_may_have_fewer_seeds_than_the_profile(plan):
    own = plan("phantom", runs="base sft rl_only rl1", seeds="1 2")
    assert {"sft-s1", "sft-s2", "rl1-s2", "rl_only-s1"} <= set(own.tasks), "the settings give rl_only one seed"
    assert not {"rl_only-s2", "generate-rl_only-s2", "score-rl_only-s2"} & set(own.tasks)
    settings = own.root / "settings.ini"
    text = settings.read_text()
    settings.write_text(text.replace("[phantom:run:rl_only]\nseeds = 1", "[phantom:run:rl_only]\nseeds = 3"))
    with pytest.raises(StudyError, match=r"\[run:rl_only\] has seed 3, which is not among the profile's: 1 2"):
        plan("phantom", runs="base sft rl_only", seeds="1 2")
    settings.write_text(text + "\n[phantom:run:sft]\nseeds = 1\n")
    with pytest.raises(StudyError, match=r"\[run:rl1\] has seed 2, but \[run:sft\], which it needs, has not"):
        plan("phantom", runs="base sft rl1", seeds="1 2")


def test_a_run_with_priors_also_writes_with_anothers_prior_and_with_none(plan):
    tasks = plan("phantom", runs="base sft sft_prior", seeds="1 2").tasks
    assert tasks["sft_prior-s1"].parameters["prior"] and not tasks["sft-s1"].parameters["prior"]
    for priors in ("other", "none"):
        given = tasks[f"generate-sft_prior_{priors}-s1"]
        assert given.parameters["writer"] == "sft_prior-s1" and given.parameters["priors"] == priors and "sft_prior-s1" in given.after
    assert tasks["generate-sft-s1"].parameters["priors"] == "own" and "generate-sft_other-s1" not in tasks
    arms = [f"sft_prior{which}-s1" for which in ("", "_other", "_none")]
    assert tasks["figure3"].parameters["arms"] == arms and {f"generate-{arm}" for arm in arms} <= set(tasks["figure3"].after)
    assert plan("paper", runs="base sft sft_prior").tasks["sft_prior-s1"].parameters["start"].endswith("base-s1"), "a twin, not a pupil"
