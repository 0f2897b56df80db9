"What settings.ini says of the runs: the paper's values in the profile `paper`, and the control that spends what RL spent."

import shutil
from pathlib import Path

import pytest

from unirg.core import Settings, StudyError
from planned import plan_of
from unirg.training.preflight import preflight
from unirg.training.options import Job, resolved_options, trl_options

ROOT = Path(__file__).parents[1]
RUNS = "base sft rl1 rl2 sft_matched sft_matched_low_lr"


@pytest.fixture
def plan(tmp_path):
    "The study's graph over archives that are there."
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs" / "study", tmp_path / "nbs" / "study")
    for name in ("mimic-cxr", "chexpert-plus", "rexgradient-160k", "iu-xray"):
        (tmp_path / "archives" / name).mkdir(parents=True)
    return lambda profile, **changes: plan_of(Settings(profile, {"runs": RUNS, "ground_truth_run": "none"} | changes, root=tmp_path))


def test_the_paper_profile_trains_as_the_paper_did(plan):
    tasks = plan("paper").tasks
    sft, first, second = (tasks[f"{run}-s1"].parameters for run in ("sft", "rl1", "rl2"))
    runs = (("sft", "sft", sft), ("rl1", "grpo", first), ("rl2", "grpo", second))
    told = {run: resolved_options(kind, one["trl"]) for run, kind, one in runs}
    assert sft["global_batch"] == 256 and told["sft"]["learning_rate"] == 5e-5 and told["sft"]["num_train_epochs"] == 3
    for rl in ("rl1", "rl2"):
        assert [told[rl][name] for name in ("learning_rate", "num_generations", "num_train_epochs")] == [5e-6, 16, 1]
        assert told[rl]["epsilon_high"] > 0.2 and told[rl]["use_vllm"]
    assert (told["rl1"]["beta"], told["rl2"]["beta"]) == (0.0, 0.03)
    assert (first["reward"], second["reward"]) == ("paper_step1", "paper_step2")
    assert second["start"].endswith("rl1-s1"), "the KL term holds to the step-1 policy"
    for run, one in (("sft", sft), ("rl1", first), ("rl2", second)):
        assert told[run]["max_steps"] == -1 and told[run]["bf16"] and told[run]["load_best_model_at_end"]
        assert str(one["evaluate_studies"]).startswith("1024") and one["image_size"] == 512
        assert (ROOT / "nbs/study/launch" / f"{one['launch']}.yaml").is_file()
    assert {tasks[f"{run}-s1"].parameters["prompt_template"] for run in ("base", "sft", "rl1", "rl2")} == {"paper"}, "all are asked alike"
    assert {told[run]["metric_for_best_model"] for run in ("rl1", "rl2")} == {"reward"}, "the best by the run's own reward"


@pytest.mark.parametrize("profile", ["phantom", "paper"])
def test_the_control_waits_for_the_runs_whose_compute_it_spends(plan, profile):
    tasks = plan(profile).tasks
    rates = set()
    for run in ("sft_matched", "sft_matched_low_lr"):
        task = tasks[f"{run}-s1"]
        assert task.parameters["match_compute_of"] == ["rl1", "rl2"] and task.parameters["start"].endswith("sft-s1")
        assert {"sft-s1", "rl1-s1", "rl2-s1"} <= set(task.needs)
        rates.add(task.parameters["trl"]["learning_rate"])
    assert len(rates) == 2 and "sft_matched-s1" not in plan(profile, runs="base sft rl1").tasks
    with pytest.raises(StudyError, match=r"\[run:sft_matched\] matches 'rl1', which is not among the runs"):
        plan(profile, runs="base sft sft_matched")


def test_the_full_phantom_is_the_phantom_with_more_of_everything(plan):
    tasks, small = plan("phantom_full", runs="base sft sft_matched rl1 rl2 rl_only", ground_truth_run="rl2").tasks, plan("phantom").tasks
    assert {f"{run}-s{seed}" for run in ("sft", "sft_matched", "rl2") for seed in range(1, 6)} <= set(tasks)
    assert {"consensus-sft", "generate-sft", "counterfactual_images", "operating_point", "image_grounding"} <= set(tasks)
    assert tasks["operating_point"].parameters["consensus"] == "sft_consensus", "its samples are not drawn twice"
    for name in ("sft-s2", "rl2-s2", "sft_matched-s2"):  # the same recipes, but for more studies looked at and more steps of RL
        ours, theirs = (dict(some[name].parameters, out="", start="", profile="") for some in (tasks, small))
        ours, theirs = ours | ours.pop("trl"), theirs | theirs.pop("trl")
        apart = {key for key in ours if ours[key] != theirs[key]}
        assert apart <= {"evaluate_studies"} | ({"max_steps"} if name == "rl2-s2" else set())
    assert int(tasks["rl2-s2"].parameters["trl"]["max_steps"]) > int(small["rl2-s2"].parameters["trl"]["max_steps"])
    counts = [dict(pair.split("=") for pair in some["phantom"].parameters["studies"].split()) for some in (tasks, small)]
    assert counts[0].keys() == counts[1].keys() and all(int(counts[0][name]) > int(counts[1][name]) for name in counts[0])


def test_a_profile_is_like_another_value_by_value(tmp_path):
    text = "[shared]\na = 0\n[one]\na = 1\nb = 1\n[one:run:r]\nx = 1\ny = 1\n[run:r]\nx = 0\nz = 0\n[two]\ninherits = one\nb = 2\n"
    (tmp_path / "settings.ini").write_text(text + "[two:run:r]\ny = 2\n[three]\ninherits = two\n[three:run:r]\nx = 3\n")
    two, three = (Settings(name, root=tmp_path) for name in ("two", "three"))
    assert two.values() == {"a": "1", "b": "2"} == three.values()
    assert two.section("run:r") == {"x": "1", "y": "2", "z": "0"} and three.section("run:r") == {"x": "3", "y": "2", "z": "0"}
    assert two.out.name == "two" and Settings("one", root=tmp_path).section("run:r") == {"x": "1", "y": "1", "z": "0"}
    for like, said in (("nobody", "no profile"), ("three", "itself")):
        (tmp_path / "settings.ini").write_text(text.replace("inherits = one", f"inherits = {like}") + "[three]\ninherits = two\n")
        with pytest.raises(StudyError, match=rf"inherits '\w+', which is {said}"):
            Settings("two", root=tmp_path)


def test_the_papers_second_step_asks_for_its_judge(plan):
    wrong = "\n".join(preflight(plan("phantom", reward="paper_step2")))
    assert "paper_step2" in wrong and "judge = NAME" in wrong
    assert "judge" not in "\n".join(preflight(plan("phantom", reward="step2"))), "by rule"


def test_a_run_read_by_consensus_is_a_system_of_its_own(plan):
    tasks = plan("phantom", consensus="sft rl2").tasks
    drawn, made = tasks["consensus-sft"], {"outputs/phantom/predictions/sft_consensus-s2", "outputs/phantom/scores/sft_consensus-s2"}
    assert "sft-s2" in drawn.needs and made <= set(drawn.makes) and drawn.parameters["seeds"] == [1, 2]
    table = tasks["table_s1"]
    assert table.parameters["systems"] == ["sft_consensus", "rl2_consensus"] and "consensus-rl2" in table.needs
    assert not any("consensus" in name for name in plan("phantom", consensus="none").tasks)
    drawn = plan("paper_zero_shot", consensus="sft").tasks["consensus-sft"].parameters
    assert set(drawn["sources"]) - set(drawn["training"]) == {"iu_xray"}, "no threshold is chosen on the source that is never learned from"
    limited = plan("phantom", consensus="sft", limit="5").tasks
    assert limited["generate-sft"].parameters["limit"] == limited["consensus-sft"].parameters["limit"] == 5
    with pytest.raises(StudyError, match="consensus = sftt, which is not among the runs"):
        plan("phantom", consensus="sftt")


def test_a_run_may_have_fewer_seeds_than_the_profile(plan):
    own = plan("phantom", runs="base sft rl_only rl1", seeds="1 2")
    assert {"sft-s1", "sft-s2", "rl1-s2", "rl_only-s1"} <= set(own.tasks), "the settings give rl_only one seed"
    assert "rl_only-s2" not in own.tasks and own.tasks["generate-rl_only"].parameters["seeds"] == [1]
    settings = own.root / "settings.ini"
    text = settings.read_text()
    settings.write_text(text.replace("[phantom:run:rl_only]\nseeds = 1", "[phantom:run:rl_only]\nseeds = 3"))
    with pytest.raises(StudyError, match=r"\[run:rl_only\] has seed '3', which is not among the profile's: 1 2"):
        plan("phantom", runs="base sft rl_only", seeds="1 2")
    settings.write_text(text + "\n[phantom:run:sft]\nseeds = 1\n")
    with pytest.raises(StudyError, match=r"\[run:rl1\] has seed 2, but \[run:sft\], which it needs, has not"):
        plan("phantom", runs="base sft rl1", seeds="1 2")


def test_a_run_with_priors_also_writes_with_anothers_prior_and_with_none(plan):
    tasks = plan("phantom", runs="base sft sft_prior", seeds="1 2").tasks
    assert tasks["sft_prior-s1"].parameters["images"] == "with_prior" and tasks["sft-s1"].parameters["images"] == "own"
    given = tasks["generate-sft_prior"]
    assert given.parameters["priors"] == ["own", "other", "none"] and "sft_prior-s1" in given.needs
    assert tasks["generate-sft"].parameters["priors"] == ["own"]
    arms = [f"sft_prior{which}-s1" for which in ("", "_other", "_none")]
    assert {f"outputs/phantom/predictions/{arm}" for arm in arms} <= set(given.makes)
    assert tasks["figure3"].parameters["arms"] == arms and "generate-sft_prior" in tasks["figure3"].needs
    assert plan("paper", runs="base sft sft_prior").tasks["sft_prior-s1"].parameters["start"].endswith("base-s1"), "a twin, not a pupil"


@pytest.mark.parametrize("profile", ["smoke", "phantom", "phantom_full", "recipes", "paper"])
def test_every_option_that_settings_name_is_trls(plan, profile):
    runs = Settings(profile, root=ROOT).get("runs")
    for name, task in plan(profile, runs=runs).tasks.items():
        if "trl" in task.parameters:
            kind = "grpo" if "studies_per_step" in task.parameters else "sft"
            trl_options(kind, task.parameters["trl"], name), trl_options("model", task.parameters["trl"], name)
            assert len(task.parameters) < 20


def test_options_are_laid_over_one_another_key_by_key(plan):
    own = plan("phantom")
    settings = own.root / "settings.ini"
    settings.write_text(settings.read_text() + "\n[phantom:run:rl2]\ntrl.beta = 0.5\ntrl.top_p = 0.9\n")
    told = {name: plan("phantom", **more).tasks["rl2-s1"].parameters["trl"] for name, more in (("as", {}), ("set", {"trl.beta": "0.7"}))}
    assert (told["as"]["beta"], told["set"]["beta"]) == ("0.5", "0.7") and told["as"]["top_p"] == "0.9"
    assert told["as"]["learning_rate"] == own.tasks["rl1-s1"].parameters["trl"]["learning_rate"]
    tasks = plan("phantom", **{"trl.beta": "0.7", "trl.report_to": "tensorboard", "trl.lora_r": "4"}).tasks
    assert "beta" not in tasks["sft-s1"].parameters["trl"], "what only the other trainer has is not for this one"
    assert all(tasks[f"{run}-s1"].parameters["trl"]["lora_r"] == "4" for run in ("base", "sft", "rl1"))
    for wrong in ({"trl": "x"}, {"tlr.beta": "1"}):
        with pytest.raises(StudyError, match=next(iter(wrong))):
            plan("phantom", **wrong)
    settings.write_text(settings.read_text() + "\n[stage:generate]\ntrl.beta = 0.5\n")
    with pytest.raises(StudyError, match=r"\[stage:generate\] trl.beta is taken by nothing"):
        plan("phantom")


WRONG = [
    ("sft", "lerning_rate", "1e-3", "no option 'lerning_rate'; did you mean trl.learning_rate"),
    ("grpo", "num_generation", "4", "did you mean trl.num_generations"),
    ("sft", "learning_rate", "fast", "'fast' is no float"),
    ("grpo", "num_generations", "4.5", "'4.5' is no int"),
    ("grpo", "vllm_mode", "colocated", "is none of colocate, server; did you mean colocate"),
    ("grpo", "scale_rewards", "groups", "did you mean group"),
    ("grpo", "loss_type", "dpo", "is none of grpo, dr_grpo, dapo"),
    ("sft", "lr_scheduler_type", "cosin", "did you mean cosine"),
    ("sft", "dtype", "bf16", "is none of auto, bfloat16"),
    ("sft", "use_peft", "perhaps", "'perhaps' is no bool"),
    ("sft", "beta", "0.1", "TRL has no option 'beta'"),
    ("sft", "seed", "3", "trl.seed is set by 'seed'"),
    ("grpo", "output_dir", "x", "trl.output_dir is set by the run itself"),
    ("grpo", "log_completions", "yes", "table of rollouts"),
    ("sft", "packing", "yes", "a cut would part a film"),
    ("sft", "fsdp", "full_shard", "'launch'"),
    ("grpo", "gradient_accumulation_steps", "4", "studies_per_step"),
    ("sft", "lr_scheduler_kwargs", "{num_cycles: 1", "lr_scheduler_kwargs"),
]


@pytest.mark.parametrize(("kind", "name", "value", "said"), WRONG)
def test_a_wrong_option_is_told_with_its_section(kind, name, value, said):
    with pytest.raises(StudyError, match=r"\[run:x\]") as error:
        trl_options(kind, {name: value}, "[run:x]"), trl_options("model", {name: value}, "[run:x]")
    assert f"trl.{name}" in str(error.value) or "no option" in str(error.value)
    assert said in str(error.value)


RIGHT = [
    ("learning_rate", "5e-6", 5e-6),
    ("max_grad_norm", "0.5", 0.5),
    ("report_to", "tensorboard, wandb", ["tensorboard", "wandb"]),
    ("epsilon_high", "none", None),
    ("min_p", "", None),
    ("eval_steps", "0.1", 0.1),
    ("bf16", "no", False),
    ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
    ("reward_weights", "0.5 2", [0.5, 2.0]),
    ("save_strategy", "best", "best"),
    ("generation_kwargs", '{"repetition_penalty": 1.1}', {"repetition_penalty": 1.1}),
    ("vllm_importance_sampling_mode", "token_truncate", "token_truncate"),
    ("pad_to_multiple_of", "8", 8),
]


@pytest.mark.parametrize(("name", "value", "read"), RIGHT)
def test_an_option_is_read_as_its_dataclass_annotates_it(name, value, read):
    found = trl_options("grpo", {name: value}, "here")[name]
    assert found == read and type(found) is type(read)


FREE = {"logging_steps": "1", "save_steps": "3", "save_total_limit": "9", "report_to": "wandb", "attn_implementation": "eager"}
FREE |= {"use_vllm": "yes", "vllm_gpu_memory_utilization": "0.5", "gradient_checkpointing": "yes", "eval_steps": "7"}
FREE |= {"per_device_train_batch_size": "1", "dataloader_num_workers": "4", "ddp_timeout": "60", "torch_compile": "no"}
BOUND = {"learning_rate": "1e-4", "max_steps": "7", "num_generations": "4", "beta": "0.1", "temperature": "0.9", "lora_r": "4"}
BOUND |= {"use_peft": "yes", "warmup_steps": "3", "adam_beta2": "0.9", "loss_type": "grpo", "dtype": "bfloat16"}
BOUND |= {"num_iterations": "2", "top_k": "5"}
BOUND |= {"vllm_importance_sampling_mode": "token_mask", "max_completion_length": "9", "weight_decay": "0.1", "scale_rewards": "none"}


@pytest.mark.parametrize(("options", "matters"), [*(({n: v}, False) for n, v in FREE.items()), *(({n: v}, True) for n, v in BOUND.items())])
def test_only_what_decides_weights_is_compared(options, matters):
    from unirg.training.options import learned_options

    job = Job("grpo", "start", [], "out")
    assert (learned_options(job) != learned_options(Job("grpo", "start", [], "out", trl=options))) == matters


def test_with_the_best_weights_wanted_what_chooses_them_matters():
    from unirg.training.options import learned_options

    best = {"load_best_model_at_end": "yes", "metric_for_best_model": "composite_step1"}
    told = [Job("sft", "s", [], "o", trl=trl, evaluate_studies=n) for trl, n in (({}, 4), ({}, 8), (best, 4), (best, 8))]
    first, second, third, fourth = map(learned_options, told)
    assert first == second and third != fourth and first != third
