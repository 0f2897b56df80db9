"The examples run as a user runs them."

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_measure_of_ones_own_is_added_and_trained_with():
    script = ROOT / "examples" / "own_measure.py"
    assert len(script.read_text().splitlines()) <= 100
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), "--sft-steps", "2", "--rl-steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"^step (\d+): reward [\d.]+, side [\d.]+$", done.stdout, re.M) == ["1", "2"]
    scores = [float(value) for value in re.findall(r"^([\d.]+)  ", done.stdout, re.M)]
    assert scores[0] == 1.5 and scores[0] > scores[2] > scores[1]
