"What a training counts, logs and leaves, in this very process: compute, curves, LoRA, the compute of another run."

import csv

from collections import Counter

import pytest
import torch
from training_toys import toy_studies, toy_texts
from transformers import Qwen3VLForConditionalGeneration

from unirg.core import StudyError, read_json, write_json
from unirg.training import grpo, sft
from unirg.training.policy import build_tiny_policy, load_policy

SFT = {"steps": 6, "global_batch": 8, "log_every": 4, "save_every": 8, "evaluate_every": 3, "evaluate_studies": 5, "warmup_steps": 2}
SFT |= {"max_completion_length": 12}
GRPO = {
    "steps": 3,
    "completions_per_step": 8,
    "num_generations": 4,
    "log_every": 2,
    "save_every": 2,
    "evaluate_every": 2,
    "warmup_steps": 1,
}
GRPO |= {"evaluate_studies": 4, "max_completion_length": 8, "reward": "label_f1=1 bleu2=1", "beta": 0.01, "report_to": "tensorboard"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compute")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy")
    return folder


def trained(place, name, module, recipe, **more):
    "Train in this process; the record it leaves, and the tokens that were seen going through the policy."
    where = {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / name), "cache": str(place)}
    job, seen = write_json(place / f"{name}.json", {**where, "recipe": recipe, **more}), Counter()

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
    return trained(place, "rl", grpo, GRPO | {"evaluate_every": 0})


def log(folder, column):
    with (folder / "log.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def test_sft_counts_the_tokens_that_went_through(place):
    record, seen = trained(place, "sft", sft, SFT | {"evaluate_every": 0})
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
    record, seen = trained(place, "sft_more", sft, SFT | {"evaluate_every": 0, "match_runs": [str(place / "rl")], "steps": 999})
    wanted, spent = rl[0]["spent"]["compute"], record["spent"]["compute"]
    assert abs(spent - wanted) <= 0.75 * spent / record["spent"]["step"], "no nearer number of steps"
    assert spent == 3 * seen["backward"] and record["spent"]["step"] > 1
    twice = sft.matching_steps([place / "rl", place / "rl"], 1.0)
    assert twice == pytest.approx(2 * sft.matching_steps([place / "rl"], 1.0), abs=1)
    old = read_json(place / "rl" / "training.json")
    old["spent"].pop("compute")
    write_json(place / "old" / "training.json", old)
    with pytest.raises(StudyError, match=r"old does not say what compute"):
        sft.matching_steps([place / "old"], 1.0)


def test_what_rl_is_judged_by_is_in_the_log_and_on_tensorboard(place):
    record, _ = trained(place, "rl_watched", grpo, GRPO | {"best": True, "best_by": "composite_step2"})
    with (place / "rl_watched" / "log.csv").open() as file:
        columns = csv.DictReader(file).fieldnames
    found = grpo.curves(columns)
    assert {"reward", "reward/label_f1", "reward/bleu2"} <= set(found["reward and its components"])
    assert [title for title, names in found.items() if not names] == []
    looks = log(place / "rl_watched", "validation_composite_step2")
    assert sorted(looks) == [0, 2, 3] and looks[record["kept_step"]] == max(looks.values())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(place / "rl_watched" / "tensorboard"))
    board.Reload()
    assert {"train/reward", "train/kl", "train/validation_composite_step1"} <= set(board.Tags()["scalars"])


@pytest.mark.parametrize("module", [sft, grpo])
def test_lora_learns_little_and_leaves_a_whole_policy(place, module):
    small = {"lora_rank": 2, "best": module is grpo, "steps": 2, "evaluate_every": 1, "report_to": "none", "warmup_steps": 0}
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
    else:
        assert record["kept_step"] or not changed, "the best of them is what it began with"
    assert processor.tokenizer.eos_token_id == after.generation_config.eos_token_id


def test_a_run_whose_reports_shrink_while_the_reward_rises_stops_and_says_why(place):
    "The reward is for being unlike the reference, so that the better the policy does, the worse its reports."
    start = {"steps": 40, "learning_rate": 3e-3, "evaluate_every": 0, "save_every": 150, "global_batch": 16}
    trained(place, "taught", sft, SFT | start)
    recipe = GRPO | {"steps": 60, "reward": "bleu2=-1", "learning_rate": 2e-3, "beta": 0.0, "evaluate_every": 3, "evaluate_studies": 12}
    recipe |= {"completions_per_step": 32, "num_generations": 8, "save_every": 60, "max_completion_length": 16, "report_to": "none"}
    record, _ = trained(place, "spoilt", grpo, recipe | {"stop_on_collapse": 0.05}, start=str(place / "taught"))
    assert record["stopped"] and "while the reward rose from" in record["stopped"] and record["spent"]["step"] < 60
    load_policy(place / "spoilt")


def test_the_stop_rule_needs_a_lasting_fall_and_a_rising_reward():
    def rows(values, rewards):
        looks = [
            {"step": 10 * i, "validation_words": 20, "validation_distinct": v, "validation_composite_step1": 1}
            for i, v in enumerate(values)
        ]
        return sorted([*looks, *({"step": 10 * i + 5, "reward": r} for i, r in enumerate(rewards))], key=lambda row: row["step"])

    assert "share of distinct reports fell from 1" in sft.collapse(rows([1, 1, 0.5, 0.4], [0.1, 0.2, 0.3]), 0.2)
    assert sft.collapse(rows([1, 1, 0.5, 0.9], [0.1, 0.2, 0.3]), 0.2) is None, "it came back"
    assert sft.collapse(rows([1, 1, 1, 0.4], [0.1, 0.2, 0.3]), 0.2) is None, "one look is none"
    assert sft.collapse(rows([1, 1, 0.5, 0.4], [0.3, 0.2, 0.1]), 0.2) is None, "the reward fell too"
    assert sft.collapse(rows([1, 1, 0.5, 0.4], [0.1, 0.2, 0.3]), 0.0) is None, "off"


def test_settings_of_vllm_reach_trl_and_its_absence_is_said(place):
    recipe = grpo.GrpoRecipe(use_vllm=True, vllm_gpu_memory_utilization=0.4, vllm_max_model_length=2048, vllm_enable_sleep_mode=True)
    told = grpo.grpo_arguments(sft.Job("start", [], "out"), recipe, 1)
    assert (told.vllm_mode, told.vllm_gpu_memory_utilization, told.vllm_max_model_length) == ("colocate", 0.4, 2048)
    assert told.vllm_enable_sleep_mode and told.beta == 0.0
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(StudyError, match="vllm is not installed"):
            trained(place, "vllm", grpo, GRPO | {"use_vllm": True})
