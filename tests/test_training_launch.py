"Trainers as processes: killed and resumed, on one and on two, and gone when their launcher is."

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from judge_servers import Server, answer
from training_toys import toy_studies, toy_texts

from unirg.core import StudyError
from unirg.training.launch import Follower, environment, launch
from unirg.training.policy import build_tiny_policy, load_policy
from unirg.training.sft import batch_split

SFT = {"steps": 12, "global_batch": 8, "log_every": 2, "save_every": 4, "evaluate_every": 6, "evaluate_studies": 4, "warmup_steps": 2}
SFT |= {"max_completion_length": 12}
GRPO = {"steps": 4, "completions_per_step": 8, "num_generations": 4, "log_every": 1, "save_every": 1, "evaluate_every": 2}
GRPO |= {"evaluate_studies": 4, "max_completion_length": 8, "reward": "label_f1=1 bleu2=1", "warmup_steps": 1, "beta": 0.01, "best": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a tiny policy and a prepared source."
    folder = tmp_path_factory.mktemp("training")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy")
    return folder


def job(place, name, recipe, **more):
    where = {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / name), "cache": str(place)}
    return {**where, "recipe": recipe, **more}


@pytest.fixture(scope="module")
def undisturbed(place):
    "SFT from start to end in one process."
    record = launch("unirg.training.sft", job(place, "sft", SFT), show=False)
    return record, log(place / "sft")


def log(folder, column="loss"):
    "A column of log.csv, by step."
    with (Path(folder) / "log.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def killed(module, config, checkpoint, processes=1):
    "Start a launcher, kill it with -9 once that checkpoint is whole, and see that its trainers end too."
    code = f"import json, sys; from unirg.training.launch import launch; launch({module!r}, json.loads(sys.argv[1]), processes={processes})"
    launcher = subprocess.Popen([sys.executable, "-c", code, json.dumps(config)], env=environment(), stdout=subprocess.DEVNULL)
    work = Path(config["out"] + ".work")
    deadline = time.time() + 120
    while not (work / "checkpoints" / f"checkpoint-{checkpoint}" / "whole").exists():
        assert launcher.poll() is None and time.time() < deadline, (work / "output.txt").read_text()[-2000:]
        time.sleep(0.005)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    deadline = time.time() + 10
    while left := trainers(work):
        assert time.time() < deadline, f"still there after their launcher: {left}"
        time.sleep(0.1)
    assert not Path(config["out"]).exists(), "it was killed before it ended"


def trainers(work):
    "Processes that train in this folder."
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if str(work / "job.json") in line]


def test_finished_policy_is_whole_and_tidy(place, undisturbed):
    record, losses = undisturbed
    folder = place / "sft"
    assert sorted(losses) == [2, 4, 6, 8, 10, 12] and losses[12] < losses[2]
    assert sorted(log(folder, "validation_composite_step1")) == [0, 6, 12] == sorted(log(folder, "validation_judged_errors"))
    assert record["spent"]["step"] == 12 and record["spent"]["num_tokens"] > 0 and record["kind"] == "sft"
    assert not (place / "sft.work").exists() and not list(folder.glob("checkpoint*"))
    model, processor = load_policy(folder)
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_killed_sft_resumes_to_the_same_losses(place, undisturbed):
    config = job(place, "sft_killed", SFT)
    killed("unirg.training.sft", config, 4)
    half = place / "sft_killed.work" / "checkpoints" / "checkpoint-9999"  # what a kill in the middle of a save leaves
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    launch("unirg.training.sft", config, show=False)
    losses = log(place / "sft_killed")
    assert losses == pytest.approx(undisturbed[1], abs=1e-5)
    ours, theirs = ((place / name / "model.safetensors").read_bytes() for name in ("sft", "sft_killed"))
    assert ours == theirs


def test_two_processes_take_the_same_steps(place, undisturbed):
    config = job(place, "sft_two", {**SFT, "per_device_batch": 2})  # and two rounds of accumulation
    killed("unirg.training.sft", config, 4, processes=2)
    record = launch("unirg.training.sft", config, processes=2, show=False)
    assert record["processes"] == 2
    assert log(place / "sft_two") == pytest.approx(undisturbed[1], abs=1e-3)


def test_killed_grpo_goes_on(place):
    config = job(place, "rl", GRPO)
    killed("unirg.training.grpo", config, 1)
    record = launch("unirg.training.grpo", config, show=False)
    rewards = log(place / "rl", "reward")
    assert sorted(rewards) == [1, 2, 3, 4] and record["spent"]["step"] == 4 and record["kind"] == "grpo"
    assert sorted(log(place / "rl", "kl")) == [1, 2, 3, 4], "the KL term is there where beta is"
    looks = log(place / "rl", "validation_composite_step1")
    assert sorted(looks) == [0, 2, 4] and looks[record["kept_step"]] == max(looks.values()), "the best weights were kept"


def test_a_language_model_judges_the_rollouts(place, tmp_path, monkeypatch):
    "Every second text is judged; the others are missing, which TRL leaves out."
    judged = []

    def judge(candidate, number, request):
        judged.append(candidate)
        return answer("100000") if len(candidate) % 2 else {"status": 400, "body": "{}"}

    with Server(judge) as server:
        monkeypatch.setenv("UNIRG_ROOT", str(tmp_path))
        described = f"[judge:scripted]\nendpoint = {server.address}\nmodel = m\nretries = 0\n"
        (tmp_path / "settings.ini").write_text(f"[shared]\n[toy]\n[source:toy]\nlayout = table\ncredentialed = no\n{described}")
        recipe = GRPO | {"steps": 2, "reward": "error_term=1", "evaluate_every": 0, "best": False, "beta": 0.0}
        config = job(place, "rl_judged", recipe, judge={"name": "scripted", "profile": "toy"})
        launch("unirg.training.grpo", config, show=False)
    missing, errors = (log(place / "rl_judged", f"reward/{name}") for name in ("judge_missing", "judged_errors"))
    assert judged and (tmp_path / "outputs/toy/judge/scripted.sqlite").exists()
    assert all(0 <= share <= 1 for share in missing.values()) and set(errors.values()) <= {1.0}
    with pytest.raises(StudyError, match=r"no section \[judge:absent\]"):
        launch("unirg.training.grpo", config | {"out": str(place / "unjudged"), "judge": {"name": "absent", "profile": "toy"}}, show=False)


def test_an_interrupt_takes_the_trainer_along(place, monkeypatch):
    def interrupted(self, state):
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch("unirg.training.sft", job(place, "stopped", SFT), show=False)
    assert not trainers(place / "stopped.work") and not (place / "stopped").exists()


def test_what_cannot_train_says_why_and_leaves_nothing_finished(place):
    with pytest.raises(StudyError, match="SftRecipe takes no 'learningrate'"):
        launch("unirg.training.sft", job(place, "odd", {"learningrate": 1}), show=False)
    assert not (place / "odd").exists()
    with pytest.raises(StudyError, match="global_batch 7 does not divide among 2"):
        batch_split(7, 64, 2)
    with pytest.raises(StudyError, match="global_batch 16 is more than the 9 training studies"):
        batch_split(16, 64, 1, rows=9)
