"The paper's plan for a try, by a random policy as the hub has them, on phantom archives and a CPU: up to scores and the paper's bill."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_like import hub_like_policy

from unirg.phantom.archives import write_world

ROOT = Path(__file__).parents[1]
MINE = """
[mine]
inherits = paper_try
# one run of each trainer; the others differ by settings
runs = base sft_mimic rl_combined
figures =
report = no
[mine:source:mimic_cxr]
root = world/mimic_cxr
institution = Aldermoor
credentialed = no
[mine:source:iu_xray]
root = world/iu_xray
institution = Dunmere
[mine:stage:base]
policy = hub
"""
# what a CPU without weights, judge and vLLM cannot do, and what would take it long
HERE = {"launch": "", "reward": "step1", "eval_reward": "step1", "judge": "", "model_measures": "", "image_size": 64}
HERE |= {"trl.use_vllm": "no", "trl.bf16": "no", "trl.dtype": "float32", "trl.gradient_checkpointing": "no"}
HERE |= {"trl.max_completion_length": 12, "trl.max_steps": 2, "trl.save_steps": 2, "trl.eval_steps": 2, "trl.logging_steps": 1}
HERE |= {"max_new_tokens": 16, "prepared_image_size": 128, "global_batch": 4, "studies_per_step": 2, "evaluate_studies": "4 mimic_cxr"}
HERE |= {"trl.dataloader_num_workers": 0, "trl.num_generations": 2, "workers": 2}


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    root = tmp_path_factory.mktemp("try")
    write_world(root / "world", {"mimic_cxr": 30, "iu_xray": 20}, 3, 1, 128)
    hub_like_policy(root / "hub")
    (root / "nbs").mkdir()
    (root / "nbs/study").symlink_to(ROOT / "nbs/study")
    (root / "settings.ini").write_text((ROOT / "settings.ini").read_text() + MINE)
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    given = [f"--set={name}={value}" for name, value in HERE.items()]
    done = subprocess.run(
        [sys.executable, "-c", code, "--profile", "mine", *given], capture_output=True, text=True, cwd=root, env=environment, timeout=1100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "outputs/mine", done.stdout


def test_it_goes_from_archives_to_scores(tried):
    out, _ = tried
    for run in ("base", "sft_mimic", "rl_combined"):
        assert {path.stem for path in (out / "scores" / f"{run}-s1").glob("*.parquet")} == {"mimic_cxr", "iu_xray"}
    records = {run: json.loads((out / "models" / f"{run}-s1/training.json").read_text()) for run in ("sft_mimic", "rl_combined")}
    assert {record["job"]["prompt_template"] for record in records.values()} == {"paper"}
    assert [Path(table).name for table in records["rl_combined"]["job"]["tables"]] == ["mimic_cxr"]
    assert records["rl_combined"]["spent"]["step"] == 2 and records["rl_combined"]["kept_step"] in (0, 2)


def test_it_ends_with_the_papers_bill_at_its_own_speed(tried):
    _, said = tried
    assert said.startswith("bill: 2 trainings, 4 steps, 8 sampled reports, about ")
    assert "Profile paper at the speed that this had:" in said and "what [bill] states, times what mine measured here" in said
    assert "sft " in said.split("measured here")[1] and "grpo " in said.split("measured here")[1]
    assert any(line.startswith("rl1-s1") and "8.6" in line for line in said.splitlines())
