"Weights shared out: SFT and GRPO by ZeRO-2, ZeRO-3, FSDP2 and DDP do what one process does, with looks, KL, LoRA, a kill and a resume."

import csv
import os
from pathlib import Path

import pytest
import yaml
from training_toys import toy_studies, toy_texts

from unirg.core import StudyError, study_root
from unirg.training import launch as launching
from unirg.training.policy import build_tiny_policy, load_policy

PLAIN = {"bf16": "no", "gradient_checkpointing": "no", "logging_steps": "1", "warmup_steps": "1", "per_device_train_batch_size": "8"}
SFT = PLAIN | {"max_steps": "6", "save_steps": "2", "eval_steps": "2", "learning_rate": "1e-3"}
GRPO = PLAIN | {"max_steps": "4", "save_steps": "2", "eval_steps": "2", "learning_rate": "1e-3", "num_generations": "4", "beta": "0.05"}
GRPO |= {"max_completion_length": "6"}
REWARD = "bertscore_minilm=1 bleu2=1"  # one of a model of its own, loaded when the first report is rewarded
KINDS = {"sft": {"kind": "sft", "trl": SFT, "batch": 8}, "grpo": {"kind": "grpo", "trl": GRPO, "batch": 4, "reward": REWARD}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy")
    return folder


@pytest.fixture
def shimmed(monkeypatch):
    "Trainers whose processes pass for GPUs."
    real = launching.command

    def command(job, kind, *more):
        line = real(job, kind, *more)
        at = line.index(f"unirg.training.{kind}")
        return [*line[:at], "cpu_gpus", kind, *line[at + 1 :]]

    monkeypatch.setattr(launching, "command", command)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("SCRIPTED", "1")
    return monkeypatch


def launcher(place, name):
    "The study's own file for accelerate, for two processes and 32 bits; nothing for torchrun."
    if name in ("one", "ddp"):
        return ""
    if name.startswith("zero"):
        pytest.importorskip("deepspeed")
    told = yaml.safe_load((study_root(Path(__file__).parents[1]) / "nbs/study/launch" / f"{name}.yaml").read_text())
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump(told | {"num_processes": 2, "mixed_precision": "no"}))
    return str(path)


def train(place, name, out, **job):
    "Train by a launch file, in two processes unless it is `one`."
    where = {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / out), }
    where["evaluate_studies"] = 5  # which two processes cannot halve
    return launching.launch({**where, **job}, processes=1 if name == "one" else 2, launcher=launcher(place, name), show=False)


def log(folder, column):
    with (Path(folder) / "log.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


@pytest.fixture(scope="module")
def alone(place):
    "What one process does, by kind."
    done = {}

    def run(kind):
        if kind not in done:
            train(place, "one", f"{kind}_one", **KINDS[kind])
            done[kind] = place / f"{kind}_one"
        return done[kind]

    return run


EACH = [("fsdp2", "sft"), ("fsdp2", "grpo"), ("zero3", "sft"), ("zero3", "grpo"), ("zero2", "grpo"), ("ddp", "grpo")]


@pytest.mark.parametrize(("name", "kind"), EACH)
def test_shared_out_killed_and_resumed_it_takes_the_steps_of_one_process(place, shimmed, alone, name, kind):
    one, out = alone(kind), f"{kind}_{name}"
    shimmed.setenv("KILLED_AT", "2")
    with pytest.raises(StudyError):
        train(place, name, out, **KINDS[kind])
    assert (place / f"{out}.work/checkpoints/checkpoint-2/whole").exists()
    shimmed.delenv("KILLED_AT")
    record = train(place, name, out, **KINDS[kind])
    assert record["processes"] == 2 and not (place / f"{out}.work").exists()
    columns = ["loss", "grad_norm", "num_input_tokens_seen"] + (["kl", "reward", "entropy"] if kind == "grpo" else ["mean_token_accuracy"])
    for column in columns:
        ours, theirs = log(place / out, column), log(one, column)
        assert ours.keys() == theirs.keys() and max(ours) == int(KINDS[kind]["trl"]["max_steps"]) <= len(ours)
        assert ours == pytest.approx(theirs, abs=1e-3, rel=2e-3), column
    for column in ("eval_composite_step1", "eval_words", "eval_reward"):
        assert log(place / out, column) == pytest.approx(log(one, column), abs=1e-6), column
    assert sorted(log(one, "eval_words")) == ([0, 2, 4, 6] if kind == "sft" else [0, 2, 4])
    mine, theirs = (load_policy(folder)[0].state_dict() for folder in (place / out, one))
    assert mine.keys() == theirs.keys() and max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 5e-3


def test_lora_under_zero3_ends_with_a_whole_policy(place, shimmed, name="zero3"):
    "Killed and resumed, its matrices merged, where neither process ever held all weights."
    shimmed.delenv("SCRIPTED")
    trl = GRPO | {"max_steps": "2", "save_steps": "1", "use_peft": "yes", "lora_r": "2", "lora_dropout": "0", "learning_rate": "1e-2"}
    job, out = KINDS["grpo"] | {"trl": trl, "reward": "bleu2=1 label_f1=1", "kind": "grpo"}, f"lora_{name}"
    shimmed.setenv("KILLED_AT", "1")
    with pytest.raises(StudyError):
        train(place, name, out, **job)
    shimmed.delenv("KILLED_AT")
    train(place, name, out, **job)
    (start, _), (learned, _) = load_policy(place / "tiny"), load_policy(place / out)
    before, after = start.state_dict(), learned.state_dict()
    assert before.keys() == after.keys() and {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert not list((place / out).glob("adapter*")) and sorted(log(place / out, "loss")) == [1, 2]
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("name", ["fsdp2", "zero3"])
def test_with_priors_and_the_best_weights_kept_it_ends_as_one_process_does(place, shimmed, name):
    "The best is not the last: the rate rises until the policy forgets."
    trl = SFT | {"max_steps": "4", "learning_rate": "0.3", "load_best_model_at_end": "yes", "metric_for_best_model": "reward"}
    job, ended = KINDS["sft"] | {"trl": trl, "prior": True, "reward": "bleu2=1"}, {}
    for kind in ("one", name):
        out = f"best_{kind}_{name}"
        ended[kind] = train(place, kind, out, **job)["kept_step"], load_policy(place / out)[0].state_dict(), log(place / out, "eval_reward")
    (kept, ours, looks), (step, theirs, _) = ended[name], ended["one"]
    assert kept == step and looks[kept] == max(looks[at] for at in looks if at), looks
    assert max(float((ours[at] - theirs[at]).abs().max()) for at in ours) < 5e-3
