"""Real references without a policy: constant texts as systems, on IU X-Ray reports and ReXrank's file, to the figures."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "real_data" / "iu_xray_text"
TEXTS = {
    "normal": "Findings: The heart is normal in size. The lungs are clear. No effusion or pneumothorax. Impression: No acute disease.",
    "ill": "Findings: Cardiomegaly. Large right pleural effusion. Impression: Heart failure.",
}
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real_data/iu_xray_text is not here")


def run(root, *tasks):
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, "--profile", "references", "--set", "resamples=50", *tasks]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    from unirg.analysis.scoring import write_constant
    from unirg.data.studies import Studies

    root = tmp_path_factory.mktemp("references")
    settings = (ROOT / "settings.ini").read_text().replace("../shared/real_data/iu_xray_text", str(REAL))
    few = "pixels = no\nread_limit = 150\n"
    (root / "settings.ini").write_text(settings.replace("pixels = no\n", few))
    shutil.copytree(ROOT / "nbs", root / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    run(root, "prepare-iu_xray", "prepare-rexrank")
    base = root / "outputs/references"
    for source in ("iu_xray", "rexrank"):
        table = Studies.load(base / "data" / source).table
        ids = [study for study, split in zip(table["study_id"], table["split"]) if split == "test"]
        for name, text in TEXTS.items():
            write_constant(base / "systems" / name / f"{source}.json", ids, text)
    for name in TEXTS:  # what an earlier plan left
        (base / "scores" / name).mkdir(parents=True)
        pd.DataFrame({"system": [name], "dataset": "dropped", "study_id": "s"}).to_parquet(base / "scores" / name / "dropped.parquet")
    run(root)
    assert sorted(path.name for path in (base / "scores").rglob("*.parquet")) == ["iu_xray.parquet"] * 2 + ["rexrank.parquet"] * 2
    return base / "figures"


@pytest.mark.parametrize("panel", ["1d", "2a", "2f", "4a"])
def test_the_panels_come_out_with_every_system_on_every_set(figures, panel):
    table = pd.read_csv(figures / f"fig_{panel}.csv")
    assert {(run, dataset) for run in TEXTS for dataset in ("iu_xray", "rexrank")} == set(zip(table.run, table.dataset))
    assert (table.studies > 10).all() and (table.low <= table.estimate).all() and (table.estimate <= table.high).all()


def test_both_boards_are_there_and_the_boilerplate_that_fits_most_reports_wins(figures):
    table = pd.read_csv(figures / "fig_1d.csv").set_index(["board", "dataset", "run"]).estimate
    for board in ("findings", "findings_impression"):
        assert all(table[board, dataset, "normal"] > table[board, dataset, "ill"] for dataset in ("iu_xray", "rexrank"))
