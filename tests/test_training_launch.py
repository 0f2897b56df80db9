"Trainers as processes: killed and resumed, on one and on two, and gone when their launcher is."

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from judge_servers import Server, answer
from training_toys import toy_studies, toy_texts

from unirg.core import StudyError, study_root
from unirg.training.launch import Follower, command, environment, errors_noted, in_words, launch, launch_path
from unirg.training.policy import build_tiny_policy, load_policy
from unirg.training.trainers import batch_split

SFT = {"max_steps": "12", "logging_steps": "2", "save_steps": "4", "eval_steps": "6", "warmup_steps": "2", "learning_rate": "1e-3"}
GRPO = {"max_steps": "4", "num_generations": "4", "logging_steps": "1", "save_steps": "1", "eval_steps": "1", "warmup_steps": "1"}
GRPO |= {"max_completion_length": "8", "beta": "0.01", "load_best_model_at_end": "yes", "metric_for_best_model": "composite_step1"}
RL = {"kind": "grpo", "trl": GRPO, "batch": 2, "reward": "label_f1=1 bleu2=1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a tiny policy and a prepared source."
    folder = tmp_path_factory.mktemp("training")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy")
    return folder


LAUNCHERS = []  # those that `started` made


@pytest.fixture(autouse=True)
def nothing_left_behind():
    "A test that failed leaves no trainer waiting for its `go`."
    yield
    for launcher in LAUNCHERS:
        launcher.kill()
        launcher.wait()
    LAUNCHERS.clear()


def job(place, name, trl=SFT, **more):
    where = {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / name), }
    return {"kind": "sft", "trl": trl, "batch": 8, "evaluate_studies": 4, **where, **more}


@pytest.fixture(scope="module")
def undisturbed(place):
    "SFT from start to end in one process."
    record = launch(job(place, "sft"), show=False)
    return record, log(place / "sft")


def log(folder, column="loss"):
    "A column of log.csv, by step."
    with (Path(folder) / "log.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def started(config, checkpoint, processes=1):
    "Start a launcher in a process of its own; its trainer waits after that checkpoint for a file `go`. It writes the error it ends with."
    code = (
        "import json, signal, sys; from unirg.core import StudyError; from unirg.training import launch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # which a shell's background jobs have not
        "real = launch.command\n"
        "launch.command = lambda job, kind, *more: "
        "[*(line := real(job, kind, *more))[: (at := line.index(f'unirg.training.{kind}'))], 'paused_training', kind, *line[at + 1 :]]\n"
        f"try: launch.launch(json.loads(sys.argv[1]), processes={processes}, show=False)\n"
        "except StudyError as error: sys.exit(str(error))"
    )
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    env = environment() | {"PAUSED_AT": str(checkpoint)}
    env["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    launcher = subprocess.Popen([sys.executable, "-c", code, json.dumps(config)], env=env, **pipes)
    LAUNCHERS.append(launcher)
    work = Path(config["out"] + ".work")
    deadline = time.time() + 600
    while not (work / "checkpoints" / f"checkpoint-{checkpoint}" / "whole").exists():
        assert launcher.poll() is None and time.time() < deadline, (work / "output.txt").read_text()[-2000:]
        time.sleep(0.02)
    return launcher, work


def killed(config, checkpoint, processes=1):
    "Start a launcher, kill it with -9 once that checkpoint is whole, and see that its trainers end too."
    launcher, work = started(config, checkpoint, processes)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    deadline = time.time() + 60
    while left := trainers(work):
        assert time.time() < deadline, f"still there after their launcher: {left}"
        time.sleep(0.1)
    assert not Path(config["out"]).exists(), "it was killed before it ended"


def trainers(work):
    "Processes that train in this folder."
    lines = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if str(work / "job.json") in line]


def of_rank(work, rank):
    "The process number of one of several trainers."
    for line in trainers(work):
        pid = int(line.split()[0])
        if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
            return pid
    raise AssertionError(f"no rank {rank} among {trainers(work)}")


def test_finished_policy_is_whole_and_tidy(place, undisturbed):
    record, losses = undisturbed
    folder = place / "sft"
    assert sorted(losses) == [2, 4, 6, 8, 10, 12] and losses[12] < losses[2]
    assert sorted(log(folder, "tokens_per_second")) == sorted(losses) and record["recipe"]["steps"] == 12
    assert sorted(log(folder, "eval_composite_step1")) == [0, 6, 12] == sorted(log(folder, "eval_judged_errors"))
    assert record["spent"]["step"] == 12 and record["spent"]["num_tokens"] > 0 and record["kind"] == "sft"
    assert not (place / "sft.work").exists() and not list(folder.glob("checkpoint*"))
    model, processor = load_policy(folder)
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_killed_sft_resumes_to_the_same_losses(place, undisturbed):
    config = job(place, "sft_killed")
    killed(config, 4)
    half = place / "sft_killed.work" / "checkpoints" / "checkpoint-9999"  # what a kill in the middle of a save leaves
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    launch(config, show=False)
    losses = log(place / "sft_killed")
    assert losses == pytest.approx(undisturbed[1], abs=1e-5)
    ours, theirs = ((place / name / "model.safetensors").read_bytes() for name in ("sft", "sft_killed"))
    assert ours == theirs
    assert log(place / "sft_killed", "num_tokens") == log(place / "sft", "num_tokens"), "what was spent before the kill counts"


def test_two_processes_take_the_same_steps(place, undisturbed):
    config = job(place, "sft_two", {**SFT, "per_device_train_batch_size": "2"})  # and two rounds of accumulation
    killed(config, 4, processes=2)
    launcher, work = started(config, 8, processes=2)
    os.kill(of_rank(work, 1), signal.SIGKILL)  # one of the two, as when memory runs out
    told = launcher.communicate()[1]
    assert "process 1 of the training was killed by signal 9" in told.splitlines()[0], told
    assert not trainers(work) and not Path(config["out"]).exists()
    record = launch(config, processes=2, show=False)
    assert record["processes"] == 2
    assert log(place / "sft_two") == pytest.approx(undisturbed[1], abs=1e-3)


def test_a_full_disk_ends_in_one_line_and_costs_only_the_steps_since_the_last_checkpoint(place, undisturbed):
    config = job(place, "sft_full")
    launcher, work = started(config, 4)
    trainer = int(trainers(work)[0].split()[0])
    resource.prlimit(trainer, resource.RLIMIT_FSIZE, (100_000, 100_000))  # from now on no large file can be written
    (work / "go").touch()
    told = launcher.communicate()[1]
    assert "sft_full: the disk is full: free some space; last lines" in told.splitlines()[0], told
    assert not Path(config["out"]).exists() and (work / "checkpoints" / "checkpoint-4" / "whole").exists()
    launch(config, show=False)
    assert log(place / "sft_full") == pytest.approx(undisturbed[1], abs=1e-5)


def test_causes_are_told_from_what_the_libraries_say():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert in_words(str(error.value)).startswith("out of memory: lower trl.per_device_train_batch_size")
    with pytest.raises(OSError) as error, open("/dev/full", "w") as file:
        file.write("x" * 100_000)
    assert in_words(str(error.value)).startswith("the disk is full")
    assert in_words("ValueError: nothing of the kind") is None


def test_launch_configurations_are_accelerates_own_and_are_chosen_by_name(tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"one_gpu": "NO", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED", "fsdp2": "FSDP"}
    for name, kind in kinds.items():
        line = command(Path("w/job.json"), "sft", 4, name)
        read = load_config_from_file(line[line.index("--config_file") + 1])
        assert read.distributed_type == kind and read.mixed_precision == "bf16" and not read.use_cpu
        assert line[line.index("--num_processes") + 1] == "4" and line[-3:] == ["-m", "unirg.training.sft", "w/job.json"]
    with pytest.raises(StudyError, match="there is no zero9; there are fsdp2, one_gpu, zero2, zero3"):
        launch_path("zero9", study_root())


def test_several_nodes_are_one_job_of_slurms(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(StudyError, match="--executor slurm"):
        command(Path("w/job.json"), "sft", 16, "zero3", nodes=2)
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    with pytest.raises(StudyError, match="does not divide"):
        command(Path("w/job.json"), "sft", 3, nodes=2)
    for launcher, said in (
        ("", "torch.distributed.run --tee 3 --log-dir w/logs --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint"),
        ("zero3", "--num_processes 16 --tee 3 --log_dir w/logs --num_machines 2 --main_process_ip"),
    ):
        *srun, bash, option, line = command(Path("w/job.json"), "sft", 16, launcher, nodes=2)
        assert srun[0] == "srun" and {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= {*srun} and (bash, option) == ("bash", "-c")
        assert (said in line and line.endswith("-m unirg.training.sft w/job.json") and ":20041" in line) or "20041" in line
        assert ("--machine_rank $SLURM_PROCID" in line) == bool(launcher)


def test_accelerate_launches_what_a_configuration_says(place, tmp_path, undisturbed):
    own = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "use_cpu": True, "num_machines": 1, "num_processes": 1}
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(own | {"mixed_precision": "no"}))
    launch(job(place, "sft_accelerate"), launcher=str(tmp_path / "cpu.yaml"), show=False)
    assert log(place / "sft_accelerate") == pytest.approx(undisturbed[1], abs=1e-5)


def test_killed_grpo_goes_on_as_if_nothing_had_been(place):
    launch(job(place, "rl_whole", **RL), show=False)
    config = job(place, "rl", **RL)
    killed(config, 1)
    record = launch(config, show=False)
    rewards = log(place / "rl", "reward")
    assert sorted(rewards) == [1, 2, 3, 4] and record["spent"]["step"] == 4 and record["kind"] == "grpo"
    for column in ("reward", "loss", "completions/mean_length", "num_tokens"):  # the same studies, the same dice
        assert log(place / "rl", column) == pytest.approx(log(place / "rl_whole", column), abs=1e-5)
    assert sorted(log(place / "rl", "kl")) == [1, 2, 3, 4], "the KL term is there where beta is"
    looks = log(place / "rl", "eval_composite_step1")
    assert sorted(looks) == [0, 1, 2, 3, 4] and looks[record["kept_step"]] == max(looks[n] for n in (1, 2, 3, 4)), "the best"
    rows = [json.loads(line) for line in (place / "rl" / "rollouts" / "rank0.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [step for step in (1, 2, 3, 4) for _ in range(8)], "none twice for the kill"
    assert {"source", "study_id", "report", "reward", "label_f1", "bleu2"} <= set(rows[0])


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
        trl = GRPO | {"max_steps": "2", "load_best_model_at_end": "no", "beta": "0.0"}
        judged_by = {"judge": {"name": "scripted", "profile": "toy"}, "reward": "error_term=1", "evaluate_studies": 0}
        config = job(place, "rl_judged", **RL | {"trl": trl} | judged_by)
        launch(config, show=False)
    missing, errors = (log(place / "rl_judged", f"reward/{name}") for name in ("judge_missing", "judged_errors"))
    assert judged and (tmp_path / "outputs/toy/judge/scripted.sqlite").exists()
    assert all(0 <= share <= 1 for share in missing.values()) and set(errors.values()) <= {1.0}
    with pytest.raises(StudyError, match=r"no section \[judge:absent\]"):
        launch(config | {"out": str(place / "unjudged"), "judge": {"name": "absent", "profile": "toy"}}, show=False)


def test_an_interrupt_takes_the_trainer_along(place, monkeypatch):
    def interrupted(self, state):
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(job(place, "stopped"), show=False)
    assert not trainers(place / "stopped.work") and not (place / "stopped").exists()


def test_what_cannot_train_says_why_and_leaves_nothing_finished(place):
    with pytest.raises(StudyError, match=r"did you mean trl\.learning_rate"):
        launch(job(place, "odd", {"learningrate": "1"}), show=False)
    assert not (place / "odd").exists()
    with pytest.raises(StudyError, match="global_batch 7 does not divide among 2"):
        batch_split(7, 64, 2)


def test_sigterm_saves_and_ends_and_the_rest_is_done_later(place, undisturbed):
    "What a cluster sends before it takes its machines back."
    config = job(place, "sft_taken", SFT | {"save_steps": "100"})
    launcher, work = started(config | {"trl": config["trl"] | {"save_steps": "4"}}, 4, processes=2)
    os.kill(launcher.pid, signal.SIGTERM)  # the launcher alone: its trainers are told
    time.sleep(2)
    (work / "go").touch()
    launcher.wait(120)
    steps = sorted(int(path.name.split("-")[1]) for path in (work / "checkpoints").glob("checkpoint-*") if (path / "whole").exists())
    assert 4 <= steps[-1] < 12 and not Path(config["out"]).exists() and not trainers(work)
    launch(config, processes=2, show=False)  # other options of saving matter not
    ours = log(place / "sft_taken")
    assert {step: ours[step] for step in (10, 12)} == pytest.approx({step: undisturbed[1][step] for step in (10, 12)}, abs=1e-3)


def test_an_interrupt_saves_first(place):
    config = job(place, "sft_interrupted", SFT | {"max_steps": "4000", "save_steps": "4000"})
    launcher, work = started(config | {"trl": config["trl"] | {"save_steps": "4", "save_total_limit": "1"}}, 4)
    launcher.send_signal(signal.SIGINT)
    time.sleep(1)
    (work / "go").touch()
    launcher.wait(300)
    (kept,) = (work / "checkpoints").glob("checkpoint-*")
    assert 4 < int(kept.name.rpartition("-")[2]) < 4000 and (kept / "whole").exists() and not trainers(work)


def test_work_of_other_settings_is_moved_aside_and_named(place, capfd):
    config = job(place, "sft_changed")
    killed(config, 4)
    launch(config | {"trl": SFT | {"learning_rate": "5e-4"}})
    told = capfd.readouterr().out
    (aside,) = place.glob("sft_changed.checkpoints.superseded-*")
    assert "trl.learning_rate was 0.001, is 0.0005" in told and str(aside) in told
    assert (aside / "checkpoint-4" / "model.safetensors").exists()
    launch(config)
    (policy,) = place.glob("sft_changed.superseded-*")
    assert str(policy) in capfd.readouterr().out and (policy / "model.safetensors").exists()


def test_a_training_killed_between_its_last_step_and_its_end_takes_no_step_more(place, undisturbed):
    config = job(place, "sft_last")
    killed(config, 12)
    record = launch(config, show=False)
    assert record["spent"]["step"] == 12 and log(place / "sft_last") == pytest.approx(undisturbed[1], abs=1e-5)
    ours, theirs = ((place / name / "model.safetensors").read_bytes() for name in ("sft", "sft_last"))
    assert ours == theirs


def test_the_first_to_fail_is_told_not_those_it_left_behind(tmp_path):
    for rank, said in ((0, "RuntimeError: Connection closed by peer"), (1, "OutOfMemoryError: CUDA out of memory")):
        (tmp_path / "run" / "attempt_0" / str(rank)).mkdir(parents=True)
        told = {"message": {"message": said, "extraInfo": {"timestamp": "1"}}}
        (tmp_path / "run" / "attempt_0" / str(rank) / "error.json").write_text(json.dumps(told))
    (tmp_path / "run" / "attempt_0" / "0" / "other").mkdir()
    assert [rank for rank, _ in errors_noted(tmp_path)] == [1, 0]
    follower = Follower()
    for line in ("[default0]:left", "[default1]:torch.OutOfMemoryError: tried to allocate"):
        follower.line(line)
    said = follower.why(1, errors_noted(tmp_path))
    assert said.startswith("out of memory: lower trl.per_device_train_batch_size") and "[default1]" in said and "[default0]" not in said


def test_the_process_group_waits_as_long_as_its_setting_says(place):
    "The time-out reaches the group when it is made, not after."
    code = (
        "import sys, torch; from unirg.training import sft, trainers\n"
        "real = torch.distributed.init_process_group\n"
        "def seen(*a, **k):\n    print('timeout', k.get('timeout')); return real(*a, **k)\n"
        "torch.distributed.init_process_group = seen; sft.main(sys.argv[1])"
    )
    path = place / "timeout.json"
    path.write_text(json.dumps(job(place, "timeout", SFT | {"ddp_timeout": "77", "max_steps": "1"})))
    env = environment() | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29577"}
    env.pop("UNIRG_LAUNCHED")
    said = subprocess.run([sys.executable, "-c", code, str(path)], env=env, capture_output=True, text=True)
    assert "timeout 0:01:17" in said.stdout, said.stdout[-500:] + said.stderr[-1500:]
