"""Every library notebook runs from top to bottom: its examples are the tests of its module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted(
    p
    for p in (ROOT / "nbs").rglob("*.ipynb")
    if "study" not in p.relative_to(ROOT / "nbs").parts[:-1] and ".ipynb_checkpoints" not in p.parts
)


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.stem)
def test_notebook(notebook):
    # a process each: notebooks share no state, no figures and no seeds
    code = (
        "import sys; from nbdev.test import test_nb; "
        "sys.exit(0 if test_nb(sys.argv[1], skip_flags=['notest', 'gpu', 'slow'], basepath=sys.argv[2])[0] else 1)"
    )
    environment = {**os.environ, "IN_TEST": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(notebook), str(ROOT)], cwd=notebook.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
