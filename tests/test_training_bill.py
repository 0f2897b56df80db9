"What a plan costs: against arithmetic done by hand, against TRL's own values and torch's own counts, and against what runs took."

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unirg.core import Settings, StudyError, write_json
from planned import plan_of
from unirg.study import billed
from unirg.training.bill import (
    DEFAULTS,
    SIZES,
    bill,
    bill_line,
    bill_text,
    checkpoint_bytes,
    hours,
    launch_file,
    policy_size,
    processes_of,
    rounded,
    studies_in,
)

ROOT = Path(__file__).parents[1]
DAY = 86400


def study(tmp_path, text=""):
    "A study's root like ours, with more in its settings."
    if not (tmp_path / "nbs").exists():
        (tmp_path / "nbs").mkdir()
        (tmp_path / "nbs/study").symlink_to(ROOT / "nbs/study")
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text() + "\n" + text)
    return tmp_path


def paper_plan(profile, root=ROOT, **overrides):
    return plan_of(Settings(profile, {name: str(value) for name, value in overrides.items()}, root=root), raises=False)


def by_run(found):
    return {run.run: run for run in found.runs}


def within(value, low, high, factor=2.0):
    return low / factor <= value <= high * factor


@pytest.fixture(scope="module")
def paper():
    return by_run(bill(paper_plan("paper")))


def test_the_papers_bill_is_that_of_the_arithmetic_by_hand(paper):
    sft, rl1 = paper["sft-s1"], paper["rl1-s1"]
    assert within(sft.seconds / 3600, 6, 9, 1.0), "SFT, 8 H100"
    assert within(sft.steps, 540_000 * 3 / 256, 540_000 * 3 / 256, 1.05)
    assert within(rl1.steps, 2110, 2110, 1.05) and within(rl1.seconds / DAY, 2.5, 2.5)
    assert within(rl1.reports, 8.64e6, 8.64e6, 1.05), "16 of each study"
    assert within(rl1.checkpoint, 140e9, 140e9, 1.02) and rl1.processes == 8
    assert rl1.judge_calls == 0 and paper["rl2-s1"].judge_calls == paper["rl2-s1"].reports
    assert paper["rl_only-s1"].reports == pytest.approx(3 * rl1.reports, rel=0.001)


def test_the_other_reading_of_the_batch_is_a_profile_of_its_own(paper):
    other = by_run(bill(paper_plan("paper_256_reports")))["rl1-s1"]
    assert within(other.steps, 33_750, 33_750, 1.05) and within(other.seconds / DAY, 6, 6)
    assert other.reports == pytest.approx(paper["rl1-s1"].reports, rel=0.001) and other.studies_a_step == 16


def test_a_control_of_equal_compute_spends_what_it_matches(paper):
    spent = paper["rl1-s1"].compute + paper["rl2-s1"].compute
    for control in ("sft_matched-s1", "sft_matched_low_lr-s1"):
        assert paper[control].compute == pytest.approx(spent, rel=0.01)


@pytest.mark.parametrize("name, count", [(1.0, 1.0), (0.15, 0.6), (2.5, 10.0)])
def test_a_judges_price_is_its_tokens_times_its_prices(tmp_path, name, count):
    root = study(tmp_path, f"[paper:judge:chexprompt]\nprompt_price = {name}\ncompletion_price = {count}\n")
    settings = (root / "settings.ini").read_text()
    settings = settings.replace("[judge:chexprompt]\n", f"[judge:chexprompt]\nprompt_price = {name}\ncompletion_price = {count}\n")
    (root / "settings.ini").write_text(settings.replace("[paper:judge:chexprompt]", "[judge:other]\nendpoint = x\nmodel = y"))
    rl2 = by_run(bill(paper_plan("paper", root)))["rl2-s1"]
    assert within(rl2.judge_price, 8.64e6 * (1000 * name + 50 * count) / 1e6, 8.64e6 * (1600 * name + 150 * count) / 1e6, 1.0)
    assert 1900 / 2 < rl2.judge_price / name * 0.15 < 31_000 * 2, "training.md's range"
    assert f"for {rounded(rl2.judge_price)}" in bill_text(bill(paper_plan("paper", root)))


# ---------------------------------------------------------------- sizes


def test_the_table_of_sizes_is_what_torch_counts_on_the_meta_device():
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    shapes = {  # of the hub's configs
        "Qwen/Qwen3-VL-2B-Instruct": (2048, 28, 16, 6144, True, 1024, 24, 4096, [5, 11, 17]),
        "Qwen/Qwen3-VL-4B-Instruct": (2560, 36, 32, 9728, True, 1024, 24, 4096, [5, 11, 17]),
        "Qwen/Qwen3-VL-8B-Instruct": (4096, 36, 32, 12288, False, 1152, 27, 4304, [8, 16, 24]),
    }
    for name, (width, layers, heads, inner, tied, seen, depth, seen_inner, deep) in shapes.items():
        text = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner, vocab_size=151936)
        text |= dict(num_key_value_heads=8, head_dim=128, tie_word_embeddings=tied)
        vision = dict(hidden_size=seen, depth=depth, intermediate_size=seen_inner, out_hidden_size=width, deepstack_visual_indexes=deep)
        vision |= dict(num_heads=16, patch_size=16, spatial_merge_size=2, num_position_embeddings=2304)
        with torch.device("meta"):
            model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied))
        assert sum(weights.numel() for weights in model.parameters()) == SIZES[name], name


@pytest.mark.parametrize(
    "policy, size",
    [
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696),
        ("Qwen/Qwen3-VL-8B-Instruct@0123abc", 8_767_123_696),
        ("google/medgemma-4b-it", 4_000_000_000),
        ("HuggingFaceTB/SmolVLM-500M", None),
        ("llava-hf/llava-1.5-7b-hf", 7_000_000_000),
        ("somebody/policy", None),
        ("nowhere/at/all", None),
        ("Qwen/Qwen2.5-VL-72B-Instruct", 72_000_000_000),
    ],
)
def test_a_policys_size_is_known_without_its_weights(policy, size):
    assert policy_size(policy) == size


def test_a_policy_on_disk_is_counted_by_its_files(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}, tmp_path / "model-1-of-2.safetensors")
    save_file({"c": np.zeros((), np.float32)}, tmp_path / "model-2-of-2.safetensors")
    assert policy_size(str(tmp_path)) == 3 * 5 + 7 + 1


def test_what_is_read_as_trls_own_value_is_trls_own_value():
    from trl import GRPOConfig, ModelConfig, SFTConfig

    from unirg.training.options import own_defaults

    fields = {field.name: field.default for config in (SFTConfig, GRPOConfig, ModelConfig) for field in dataclasses.fields(config)}
    for name, value in DEFAULTS.items():
        own = own_defaults("grpo", True, True)  # where we differ
        assert (own.get(name, fields[name]) or 0) == value, name


@pytest.mark.parametrize(
    "launch, trl, a_weight",
    [
        ("zero3", {"dtype": "bfloat16"}, 16),
        ("zero2", {"dtype": "bfloat16"}, 14),
        ("fsdp2", {"dtype": "bfloat16"}, 12),
        ("one_gpu", {"dtype": "bfloat16"}, 6),
        ("one_gpu", {}, 12),
        ("", {"dtype": "float32"}, 12),
    ],
)
def test_a_checkpoint_holds_so_many_bytes_a_weight(launch, trl, a_weight):
    assert checkpoint_bytes(1000, {"trl": trl}, launch_file(ROOT, launch))[0] == 1000 * a_weight


def test_loras_checkpoint_is_small_and_its_policy_is_whole():
    saved, policy = checkpoint_bytes(8 * 10**9, {"trl": {"use_peft": "yes", "lora_r": "16", "dtype": "bfloat16"}}, {})
    assert saved < 1e9 and policy == 16e9


@pytest.mark.parametrize(
    "launch, processes, count", [("", 1, 1), ("", 2, 2), ("zero3", 1, 8), ("zero3", 4, 4), ("zero3", 16, 16), ("one_gpu", 1, 1)]
)
def test_processes_are_those_of_the_launch_file_unless_told(launch, processes, count):
    assert processes_of(ROOT, {"launch": launch, "processes": processes}) == count


# ---------------------------------------------------------------- plans of any kind


@pytest.mark.parametrize(
    "setting, steps",
    [
        ({"trl.max_steps": 7}, 7),
        ({"train_limit": 100}, math.ceil(100 * 3 / 256)),
        ({"train_limit": 1000, "trl.num_train_epochs": 0.5}, math.ceil(500 / 256)),
        ({"train_limit": 256, "global_batch": 64, "trl.num_train_epochs": 1}, 4),
        ({"sources": "iu_xray"}, math.ceil(3000 * 3 / 256)),
    ],
)
def test_steps_follow_from_studies_epochs_and_batch(setting, steps):
    sources = {"runs": "base sft", "figures": "", "sources": "mimic_cxr iu_xray"} | setting
    assert by_run(bill(paper_plan("paper", **sources)))["sft-s1"].steps == steps


@pytest.mark.parametrize(
    "profile",
    ["smoke", "phantom", "phantom_full", "recipes", "paper_try", "paper_zero_shot", "references", "world", "world_rare", "worlds"],
)
def test_every_profile_has_a_bill_and_a_line_of_it(profile):
    found = bill(paper_plan(profile))
    line = bill_line(found)
    assert ("\n" not in line and line.startswith("bill: ")) if found.runs else line == ""
    assert all(run.seconds > 0 and run.steps > 0 for run in found.runs)
    assert bill_text(found).count("\n") >= len(found.runs)


def test_the_phantoms_line_does_not_say_days():
    assert bill(paper_plan("phantom")).seconds(bill(paper_plan("phantom")).left) < 3600


def test_a_try_takes_less_than_an_hour_by_what_is_stated():
    found = bill(paper_plan("paper_try"))
    assert found.seconds(found.runs) < 3600 and {run.processes for run in found.runs} == {1}
    assert {run.steps for run in found.runs if run.run != "sft_matched-s1"} == {20}
    assert all(run.studies <= 512 for run in found.runs)


def test_what_nobody_can_know_is_said_to_be_unknown():
    found = bill(paper_plan("paper", policy="somebody/policy"))
    assert {run.seconds for run in found.runs} == {None}
    assert "unknown" in bill_line(found) and "unknown" in bill_text(found)


def test_prepared_sources_are_counted_not_believed(tmp_path):
    root = study(tmp_path)
    plan = paper_plan("paper", root)
    assert studies_in(plan, "mimic_cxr") == 210_000
    counts = {"rows": 200, "split": {"train": 100, "test": 100}, "sections": {"neither": 20}}
    write_json(plan.out / "data/mimic_cxr/counts.json", counts)
    assert studies_in(plan, "mimic_cxr") == 90, "a study without text is not learned from"
    assert bill(plan).images < bill(paper_plan("paper")).images


def test_a_setting_of_the_bill_that_there_is_not_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="tflop"):
        bill(paper_plan("paper", study(tmp_path, "[paper:bill]\ntflop = 1\n")))
    with pytest.raises(StudyError, match="fast"):
        bill(paper_plan("paper", study(tmp_path, "[paper:bill]\ntflops = fast\n")))


# ---------------------------------------------------------------- what was measured


START = 120.0  # stated seconds before a training's first step, which no log counts


def finished(plan, run, seconds, steps):
    write_json(plan.out / "models" / run / "training.json", {"spent": {"seconds": seconds, "step": steps}})


@pytest.mark.parametrize("slower", [0.3, 1.0, 7.0])
def test_finished_runs_correct_the_times_of_the_others(tmp_path, slower):
    plan = paper_plan("paper_try", study(tmp_path))
    stated = by_run(bill(plan))
    finished(plan, "rl1-s1", (stated["rl1-s1"].seconds - START) * slower, 20)
    found = bill(plan)
    runs = by_run(found)
    assert runs["rl2-s1"].seconds - START == pytest.approx((stated["rl2-s1"].seconds - START) * slower)
    assert runs["sft-s1"].seconds == pytest.approx(stated["sft-s1"].seconds), "SFT was not measured"
    assert runs["rl1-s1"].finished and len(found.left) == len(found.runs) - 1
    assert "paper_try measured" in bill_text(found) and "done" in bill_text(found)


def test_a_run_that_was_stopped_early_counts_by_its_steps(tmp_path):
    plan = paper_plan("paper_try", study(tmp_path))
    stated = by_run(bill(plan))
    finished(plan, "rl1-s1", stated["rl1-s1"].seconds - START, 10)
    assert by_run(bill(plan))["rl2-s1"].seconds - START == pytest.approx(2 * (stated["rl2-s1"].seconds - START))


def test_the_papers_bill_takes_the_speed_of_the_try(tmp_path):
    root = study(tmp_path)
    tried, paper = paper_plan("paper_try", root), paper_plan("paper", root)
    stated = by_run(bill(paper))
    for name, run in by_run(bill(tried)).items():
        finished(tried, name, (run.seconds - START) * 3, run.steps)
    for text in (billed(paper), billed(paper, tried)):  # by measured_in, and at the end of a try
        assert "paper_try measured here" in text and "3 x" in text
        assert hours(3 * stated["rl1-s1"].seconds) in text


def test_the_command_prints_the_bill_of_archives_that_are_not_here():
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "--profile", "paper", "--bill"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^rl1-s1\s+2110\s", done.stdout, re.M) and "as stated in [bill]" in done.stdout and "disk: " in done.stdout
    assert "settings have to be mended" in done.stdout and not (ROOT / "outputs/paper").exists()


def test_numbers_are_told_in_three_figures():
    told = [rounded(8_640_000), rounded(140.3e9, "B"), rounded(999, "B"), rounded(0), hours(60), hours(7200), hours(5 * DAY)]
    assert told == ["8.64 M", "140 GB", "999 B", "0", "1 min 0 s", "2.0 h", "5.0 days"]
    assert json.dumps(told)
