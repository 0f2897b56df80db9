"""The smoke study by a real SLURM of this one machine as two nodes: preparing and reports in shards, a training over both nodes.

Every kind of job once: runs and figures that are more of the same are left out, for a job costs seconds of asking.
UNIRG_WHOLE=1 leaves nothing out.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from wheel import installed

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)] or ([] if os.geteuid() == 0 else ["root"])
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: see tests/slurm.sh")
FEWER = {
    "runs = base sft rl_only rl1 rl2\nground_truth_run": "runs = base sft rl1\nground_truth_run",
    "figures = 61_figure1 62_figure2 63_figure3 64_figure4 65_table_s1 66_primary_comparison\n\n": "figures = 61_figure1 65_table_s1\n\n",
}
SETTINGS = {
    **({} if os.environ.get("UNIRG_WHOLE") else FEWER),
    "[phantom:source:mimic_cxr]\n": "[phantom:source:mimic_cxr]\nshards = 2\n",
    "[smoke:stage:sft]\n": "[smoke:stage:sft]\nnodes = 2\nprocesses = 2\n",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([ROOT / "tests/slurm.sh", "start", folder, "2"], check=True)
    yield
    subprocess.run([ROOT / "tests/slurm.sh", "stop", folder], check=True)


def jobs(state="all"):
    done = subprocess.run(["squeue", "--noheader", f"--states={state}", "--format=%i %T %k %D"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def start(root, environment, *arguments):
    polls = ["--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "3"]
    command = ["unirg-run", "--profile", "smoke", "--executor", "slurm", *arguments, "--", *polls]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def study(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    environment, root = installed(folder), folder / "study"
    environment.pop("UNIRG_ROOT", None)
    subprocess.run(["unirg-new", root], env=environment, check=True)
    text = (root / "settings.ini").read_text()
    for before, after in SETTINGS.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    (root / "settings.ini").write_text(text + "\n[smoke:stage:generate]\nshards = 2\n")
    first, state = start(root, environment), root / "outputs/smoke/runs/.state/sft-s1.json"
    for _ in range(2400):  # the runner is killed in the middle of the training over two nodes
        if state.exists() or first.poll() is not None:
            break
        time.sleep(0.25)
    time.sleep(3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    again = start(root, environment)
    out, _ = again.communicate(timeout=1800)
    return {"root": root, "code": again.returncode, "out": out}


@pytest.mark.timeout(2400)
def test_the_smoke_study_runs_through_it_to_the_report(study):
    print(study["out"])
    assert study["code"] == 0, study["out"][-3000:]
    assert (study["root"] / "outputs/smoke/report.html").stat().st_size > 10_000
    assert len(pd.read_csv(study["root"] / "outputs/smoke/figures/fig_S1.csv"))


def test_each_task_was_a_job_and_none_is_left(study):
    told = jobs()
    assert jobs("running,pending,configuring,completing") == []
    rules = {line.split()[2].removeprefix("rule_").split("_wildcards")[0] for line in told if "COMPLETED" in line and "rule_" in line}
    assert {"phantom", "list_archive", "read_shard", "prepare", "base", "sft", "rl"} <= rules
    assert {"write_shard", "generate", "consensus", "figure", "report"} <= rules
    assert any("rule_sft" in line and line.split()[-1] == "2" for line in told), "the training had two nodes"


def test_the_training_ran_on_both_nodes(study):
    record = json.loads((study["root"] / "outputs/smoke/models/sft-s1/training.json").read_text())
    assert record["processes"] == 2


def test_what_shards_read_is_what_one_job_reads(study):
    counts = json.loads((study["root"] / "outputs/smoke/data/mimic_cxr/counts.json").read_text())
    listed = pd.read_csv(study["root"] / "outputs/smoke/archives/mimic_cxr/mimic-cxr-2.0.0-metadata.csv.gz")
    assert counts["seen"] == counts["rows"] + counts["quarantined"] == listed["study_id"].nunique()
    written = json.loads((study["root"] / "outputs/smoke/predictions/rl1-s1/mimic_cxr.json").read_text())
    assert written and all(record["model_prediction"] for record in written.values())
