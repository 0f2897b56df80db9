"What a training counts, logs and leaves, in this very process: compute, curves, LoRA, the compute of another run."

import csv
import os

from collections import Counter

import pytest
import torch
from training_toys import many_studies, toy_studies, toy_texts
from transformers import Qwen3VLForConditionalGeneration

from unirg.core import StudyError, read_json, write_json
from unirg.data import reports
from unirg.training import grpo, rows, sft, trainers
from unirg.training.options import Job
from unirg.training.policy import build_tiny_policy, load_policy
from unirg.training.rows import RowMaker

SFT = {"max_steps": "6", "logging_steps": "4", "save_steps": "8", "eval_steps": "3", "warmup_steps": "2", "learning_rate": "1e-3"}
GRPO = {"max_steps": "3", "num_generations": "4", "logging_steps": "2", "save_steps": "2", "eval_steps": "2", "warmup_steps": "1"}
GRPO |= {"max_completion_length": "8", "beta": "0.01", "report_to": "tensorboard", "learning_rate": "1e-3"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compute")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy")
    return folder


def trained(place, name, module, trl, **more):
    "Train in this process; the record it leaves, and the tokens that were seen going through the policy."
    where = {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / name), }
    own = {"kind": "sft", "batch": 8} if module is sft else {"kind": "grpo", "batch": 2, "reward": "label_f1=1 bleu2=1"}
    job, seen = write_json(place / f"{name}.json", {**own, **where, "trl": trl, "evaluate_studies": 4, **more}), Counter()

    def count(model, arguments, named):
        if isinstance(model, Qwen3VLForConditionalGeneration):
            tokens = named["input_ids"][:, -1:] if named.get("past_key_values") and named["input_ids"].shape[1] == 1 else named["input_ids"]
            seen["backward" if torch.is_grad_enabled() else "forward"] += (tokens != model.config.text_config.pad_token_id).sum().item()

    hook = torch.nn.Module.register_forward_pre_hook
    handles = []
    begin = Qwen3VLForConditionalGeneration.__init__

    def watched(self, *arguments, **named):
        begin(self, *arguments, **named)
        handles.append(hook(self, count, with_kwargs=True))

    Qwen3VLForConditionalGeneration.__init__ = watched
    try:
        module.main(job)
    finally:
        Qwen3VLForConditionalGeneration.__init__ = begin
    return read_json(place / name / "training.json"), seen


@pytest.fixture(scope="module")
def rl(place):
    return trained(place, "rl", grpo, GRPO, evaluate_studies=0)


def log(folder, column):
    with (folder / "log.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def test_sft_counts_the_tokens_that_went_through(place):
    record, seen = trained(place, "sft", sft, SFT, evaluate_studies=0)
    passes = record["spent"]["passes"]
    assert passes == {"forward": seen["backward"], "backward": seen["backward"], "generated": 0} and seen["forward"] == 0
    assert record["spent"]["compute"] == 3 * seen["backward"] and record["spent"]["step"] == 6


def test_grpo_counts_the_tokens_that_went_through(place, rl):
    record, seen = rl
    passes, completions = record["spent"]["passes"], 3 * 8
    assert passes["backward"] == seen["backward"]
    # the last token of a report is written but never read
    assert passes["forward"] == seen["forward"] + seen["backward"] + completions
    assert 0 < passes["generated"] <= completions * 8


def test_sft_spends_the_compute_of_another_run(place, rl):
    record, seen = trained(place, "sft_matched", sft, SFT | {"max_steps": "999"}, evaluate_studies=0, match_compute_of=[str(place / "rl")])
    wanted, spent = rl[0]["spent"]["compute"], record["spent"]["compute"]
    assert abs(spent - wanted) <= 0.75 * spent / record["spent"]["step"], "no nearer number of steps"
    assert spent == 3 * seen["backward"] and record["spent"]["step"] > 1
    assert record["recipe"]["steps"] == record["spent"]["step"]
    twice = trainers.matching_steps([place / "rl", place / "rl"], 1.0)
    assert twice == pytest.approx(2 * trainers.matching_steps([place / "rl"], 1.0), abs=1)
    old = read_json(place / "rl" / "training.json")
    old["spent"].pop("compute")
    write_json(place / "old" / "training.json", old)
    with pytest.raises(StudyError, match=r"old does not say what compute"):
        trainers.matching_steps([place / "old"], 1.0)


def test_what_rl_is_judged_by_is_in_the_log_and_on_tensorboard(place):
    best = {"load_best_model_at_end": "yes", "metric_for_best_model": "reward"}
    record, _ = trained(place, "rl_watched", grpo, GRPO | best | {"max_steps": "4"})
    with (place / "rl_watched" / "log.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    found = grpo.curves(columns)
    assert {"reward", "reward/label_f1", "reward/bleu2"} <= set(found["reward and its components"])
    assert [title for title, names in found.items() if not names] == ["sampling against training"], "which vLLM alone has"
    looks = log(place / "rl_watched", "eval_reward")
    assert sorted(looks) == [0, 2, 4] and looks[record["kept_step"]] == max(looks[2], looks[4])
    assert looks == pytest.approx({step: log(place / "rl_watched", "eval_label_f1")[step] + bleu for step, bleu in log(
        place / "rl_watched", "eval_bleu2").items()}, abs=1e-5)  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(place / "rl_watched" / "tensorboard"))
    board.Reload()
    assert {"train/reward", "train/kl", "eval/composite_step1"} <= set(board.Tags()["scalars"])


@pytest.mark.parametrize("module", [sft, grpo])
def test_lora_learns_little_and_leaves_a_whole_policy(place, module):
    small = {"use_peft": "yes", "lora_r": "2", "max_steps": "2", "eval_steps": "1", "save_steps": "1", "warmup_steps": "0"}
    small["report_to"] = "none"
    small |= {"load_best_model_at_end": "yes", "metric_for_best_model": "composite_step1"} if module is grpo else {}
    record, _ = trained(place, f"lora_{module.__name__[-4:]}", module, ({**SFT} if module is sft else {**GRPO}) | small)
    folder = place / f"lora_{module.__name__[-4:]}"
    (before, _), (after, processor) = load_policy(place / "tiny"), load_policy(folder)
    assert not list(folder.glob("adapter*")) and {n for n, _ in before.named_parameters()} == {n for n, _ in after.named_parameters()}
    changed = {name for (name, a), (_, b) in zip(before.named_parameters(), after.named_parameters()) if not torch.equal(a, b)}
    assert all("proj" in name or "mlp" in name or "fc" in name or "qkv" in name or "linear" in name for name in changed), (
        "no norm, no embedding"
    )
    if module is sft:
        assert changed and record["kept_step"] == 2
    assert processor.tokenizer.eos_token_id == after.generation_config.eos_token_id


def test_a_run_whose_reports_shrink_while_the_reward_rises_stops_and_says_why(place):
    "The reward is for being unlike the reference, so that the better the policy does, the worse its reports."
    start = {"max_steps": "40", "learning_rate": "3e-3", "save_steps": "150", "per_device_train_batch_size": "16"}
    trained(place, "taught", sft, SFT | start, evaluate_studies=0, batch=16)
    recipe = GRPO | {"max_steps": "60", "learning_rate": "2e-3", "beta": "0.0", "eval_steps": "3", "per_device_train_batch_size": "32"}
    recipe |= {"num_generations": "8", "save_steps": "60", "max_completion_length": "16", "report_to": "none", "logging_steps": "1"}
    own = {"reward": "bleu2=-1", "batch": 4, "evaluate_studies": 12, "stop_on_collapse": 0.05}
    record, _ = trained(place, "spoilt", grpo, recipe, **own, start=str(place / "taught"))
    assert record["stopped"] and "while the reward rose from" in record["stopped"] and record["spent"]["step"] < 60
    load_policy(place / "spoilt")


def test_the_stop_rule_needs_a_lasting_fall_and_a_rising_reward():
    def rows(values, rewards):
        looks = [
            {"step": 10 * i, "eval_words": 20, "eval_distinct": v, "eval_composite_step1": 1}
            for i, v in enumerate(values)
        ]
        return sorted([*looks, *({"step": 10 * i + 5, "reward": r} for i, r in enumerate(rewards))], key=lambda row: row["step"])

    assert "share of distinct reports fell from 1" in trainers.collapse(rows([1, 1, 0.5, 0.4], [0.1, 0.2, 0.3]), 0.2)
    assert trainers.collapse(rows([1, 1, 0.5, 0.9], [0.1, 0.2, 0.3]), 0.2) is None, "it came back"
    assert trainers.collapse(rows([1, 1, 1, 0.4], [0.1, 0.2, 0.3]), 0.2) is None, "one look is none"
    assert trainers.collapse(rows([1, 1, 0.5, 0.4], [0.3, 0.2, 0.1]), 0.2) is None, "the reward fell too"
    assert trainers.collapse(rows([1, 1, 0.5, 0.4], [0.1, 0.2, 0.3]), 0.0) is None, "off"


def test_settings_of_vllm_reach_trl_and_its_absence_is_said(place):
    own = {"vllm_gpu_memory_utilization": "0.4", "vllm_max_model_length": "2048", "vllm_enable_sleep_mode": "yes", "use_vllm": "yes"}
    own |= {"vllm_importance_sampling_mode": "token_truncate", "num_generations": "4"}
    told = trainers.trainer_config(grpo.GRPOConfig, Job("grpo", "start", [], "out", trl=own), 8, looks=False)
    assert (told.vllm_mode, told.vllm_gpu_memory_utilization, told.vllm_max_model_length) == ("colocate", 0.4, 2048)
    assert told.vllm_enable_sleep_mode and told.beta == 0.0 and told.vllm_importance_sampling_mode == "token_truncate"
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(StudyError, match="vllm is not installed"):
            trained(place, "vllm", grpo, GRPO | {"use_vllm": "yes"})


def test_muon_goes_on_where_it_was(place):
    "Killed and resumed, as with AdamW: the same weights."
    options = SFT | {"max_steps": "4", "save_steps": "2", "logging_steps": "1"}
    more = {"muon_learning_rate": 3e-3, "evaluate_studies": 0}
    trained(place, "muon_whole", sft, options, **more)

    class Killed(trainers.CheckpointCompletion):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    real, trainers.CheckpointCompletion = trainers.CheckpointCompletion, Killed
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(place, "muon", sft, options, **more)
    finally:
        trainers.CheckpointCompletion = real
    trained(place, "muon", sft, options, **more)
    assert log(place / "muon", "loss") == pytest.approx(log(place / "muon_whole", "loss"), abs=1e-6)
    assert log(place / "muon", "learning_rate") == log(place / "muon_whole", "learning_rate")
    mine, theirs = (load_policy(place / name)[0].state_dict() for name in ("muon", "muon_whole"))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-6
    start = load_policy(place / "tiny")[0].state_dict()
    moved = {name for name in mine if not torch.equal(mine[name], start[name])}
    assert {"model.visual.patch_embed.proj.weight", "model.language_model.embed_tokens.weight"} <= moved


@pytest.mark.parametrize("text", ["", "secret finding", "the heart is enlarged"])
def test_nothing_that_a_row_holds_reaches_the_screen_where_no_reward_is_had(place, capfd, monkeypatch, text):
    "TRL warns of a missing reward with the whole row."
    monkeypatch.setattr(grpo.Rollouts, "__call__", lambda self, completions, **columns: [None] * len(completions))
    trained(place, f"unrewarded{len(text)}", grpo, GRPO | {"report_to": "none", "max_steps": "1"}, evaluate_studies=0)
    told = "".join(capfd.readouterr()).lower()
    assert "pleural effusion" not in told and "heart is" not in told and "indication" not in told and "completion" not in told


def test_a_loss_that_is_no_number_ends_the_training(place):
    with pytest.raises(StudyError, match=r"the loss is \w+ at step \d+: lower trl.learning_rate"):
        trained(place, "lost", sft, SFT | {"learning_rate": "1e30", "max_grad_norm": "1e30", "logging_steps": "1"}, evaluate_studies=0)


def test_a_look_changes_nothing_that_is_learned(place):
    "Neither dice nor weights: the losses are those of a training without looks."
    options = SFT | {"logging_steps": "1", "eval_steps": "1"}
    trained(place, "looked", sft, options)
    trained(place, "unlooked", sft, options, evaluate_studies=0)
    assert log(place / "looked", "loss") == log(place / "unlooked", "loss")
    assert sorted(log(place / "looked", "eval_words")) == list(range(7)) and not log(place / "unlooked", "seconds").get(0)


class Begun(Exception):
    "The first batch is there."


@pytest.mark.parametrize("more", [{}, {"evaluate_studies": 8, "evaluate_on": "toy/train"}, {"studies": 20}, {"n_augmented_copies": 3}])
@pytest.mark.parametrize("module", [sft, grpo])
def test_what_is_done_before_the_first_batch_does_not_grow_with_the_table(place, tmp_path, monkeypatch, module, more):
    "Neither a film nor a text is looked at study by study: half a million studies begin as a hundred do."
    looked = Counter()

    def counted(where, name):
        own = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *given, **named: looked.update([name]) or own(*given, **named))

    for where, name in ((RowMaker, "parts"), (RowMaker, "image"), (rows, "target_text"), (reports, "clean")):
        counted(where, name)
    def begin(*given):
        raise Begun

    monkeypatch.setattr(module.SFTTrainer if module is sft else module.GRPOTrainer, "training_step", begin)
    found = []
    for studies in (100, 1000):
        looked.clear()
        tables = {"tables": [str(many_studies(tmp_path / f"{studies}", studies))], "evaluate_studies": 0}
        with pytest.raises(Begun):
            trained(place, f"{tmp_path.name}-{studies}", module, SFT if module is sft else GRPO, **tables | more)
        found.append(dict(looked))
    assert found[0] == found[1] and 0 < found[0]["image"] < 100, "so few are made that a step and a look can take them"


def test_a_resumed_run_is_the_same_run_to_a_tracker(place, tmp_path, monkeypatch):
    "By what decides its weights, not by when it was started or how it is watched."
    where = {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(tmp_path / "run"), "batch": 8}
    named, folders = [], []
    for more in ({}, {"logging_steps": "1"}, {"learning_rate": "1e-2"}):
        for name in ("WANDB_RUN_ID", "WANDB_RESUME", "TENSORBOARD_LOGGING_DIR"):
            monkeypatch.delenv(name, raising=False)
        sft.set_up(sft.SFTConfig, Job("sft", **where, trl=SFT | more), 8, max_length=None)
        named.append(os.environ["WANDB_RUN_ID"])
        folders.append(os.environ["TENSORBOARD_LOGGING_DIR"])
        assert os.environ["WANDB_RESUME"] == "allow"
    assert named[0] == named[1] != named[2] and named[0].startswith("run-") and len({*folders}) == 1
