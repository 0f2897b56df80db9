"""The whole study in small, by the same notebooks and command as the real one: archives to figures, killed on the way and gone on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PANELS = "1a 1b 1c 1d 2a 2a_table 2b 2c 2d 2e 2f 3a 3b 3c 3d 4a 4b 4c 4d S1 answer headroom".split()


def start(root, *arguments):
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    environment["HF_DATASETS_CACHE"] = str(root / "users_cache")
    return subprocess.Popen(
        [sys.executable, "-c", code, "--profile", "smoke", *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    for name in ("nbs", "unirg"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    first = start(root)
    marks = root / "outputs/smoke/runs"
    for _ in range(1200):  # killed in the middle of SFT
        if (marks / ".sft-s1.order.json").exists() or first.poll() is not None:
            break
        time.sleep(0.25)
    time.sleep(8)
    kept = sorted(p.name for p in marks.glob("*.json") if not p.name.startswith("."))
    first.send_signal(signal.SIGKILL)
    first.wait()
    again = start(root)
    out, _ = again.communicate(timeout=1500)
    return {"root": root, "code": again.returncode, "out": out, "kept": kept}


def test_it_ends_well_after_a_kill_and_repeats_nothing_that_was_done(study):
    assert study["code"] == 0, study["out"][-3000:]
    assert "phantom.json" in study["kept"] and "base-s1.json" in study["kept"], "the kill came too early to show anything"
    done = {line.split("]")[1].split()[0] for line in study["out"].splitlines() if " done in " in line}
    assert not done & {name.removesuffix(".json") for name in study["kept"]}


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_is_there_as_png_svg_and_csv(study, panel):
    figures = study["root"] / "outputs/smoke/figures"
    assert all((figures / f"fig_{panel}.{suffix}").stat().st_size > 500 for suffix in ("png", "svg"))
    assert len(pd.read_csv(figures / f"fig_{panel}.csv"))


def test_the_report_holds_every_panel_and_says_that_it_is_research(study):
    page = (study["root"] / "outputs/smoke/report.html").read_text()
    assert all(f'id="fig_{panel}"' in page for panel in PANELS) and page.count("data:image/png;base64,") >= len(PANELS)
    assert page.index("not for clinical use") < page.index("<h1>")


def test_every_study_of_every_archive_is_a_row_or_a_reason(study):
    for folder in (study["root"] / "outputs/smoke/data").glob("[a-z]*"):
        counts = json.loads((folder / "counts.json").read_text())
        assert counts["seen"] == counts["rows"] + counts["quarantined"] > 0


def test_predictions_and_scores_are_one_a_test_study(study):
    from unirg.data.studies import Studies

    base = study["root"] / "outputs/smoke"
    for source in ("mimic_cxr", "rexrank"):
        table = Studies.load(base / "data" / source).table
        wanted = {i for i, split in zip(table["study_id"], table["split"]) if split == "test"}
        assert wanted == set(json.loads((base / "predictions/rl2-s1" / f"{source}.json").read_text()))
        scores = pd.read_parquet(base / "scores/rl2-s1" / f"{source}.parquet")
        assert scores.study_id.is_unique and set(scores.study_id) <= wanted and scores.composite_step1.between(-0.3, 1.01).all()


def test_a_consensus_of_the_same_policy_stands_beside_it(study):
    base = study["root"] / "outputs/smoke"
    drawn = json.loads((base / "predictions/sft_consensus-s1/samples/rexrank.json").read_text())["samples"]
    told = json.loads((base / "predictions/sft_consensus-s1/rexrank.json").read_text())
    assert all(record["model_prediction"] in drawn[study_id] for study_id, record in told.items()) and told
    assert {"sft", "sft_consensus"} <= set(pd.read_csv(base / "figures/fig_S1.csv").run)


def test_every_trained_policy_has_a_card_with_its_scores(study):
    base = study["root"] / "outputs/smoke"
    cards = {path.stem: path.read_text() for path in (base / "cards").glob("*.md")}
    assert {"sft-s1", "rl_only-s1", "rl1-s1", "rl2-s1"} <= set(cards)
    scores = pd.concat(map(pd.read_parquet, (base / "scores/rl2-s1").glob("rexrank.parquet")))
    row = next(line for line in cards["rl2-s1"].splitlines() if line.startswith("| composite_step1 |"))
    assert f"{scores.composite_step1.mean():.3f} [" in row and "Not a medical device" in cards["rl2-s1"]


def test_nothing_of_a_study_is_left_in_the_users_cache(study):
    assert not list((study["root"] / "users_cache").rglob("*.arrow"))


def test_records_trace_a_figure_to_its_archives(study):
    runs = study["root"] / "outputs/smoke/runs"
    made = {path: json.loads(p.read_text()) for p in runs.glob("[a-z]*.json") for path in json.loads(p.read_text())["outputs"]}
    waiting, seen = ["outputs/smoke/figures/65_table_s1.json"], set()
    while waiting:
        record = made.get(waiting.pop())
        if record and record["task"] not in seen:
            seen.add(record["task"])
            waiting += [
                path if path in made else str(Path(path).parent) if str(Path(path).parent) in made else path for path in record["inputs"]
            ]
    assert {"table_s1", "score-rl2-s1", "generate-rl2-s1", "rl2-s1", "rl1-s1", "sft-s1", "base-s1", "prepare-mimic_cxr", "phantom"} <= seen


def test_a_second_run_does_nothing_within_seconds(study):
    started = time.time()
    process = start(study["root"])
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "0 tasks run" in out, out
    print(f"{time.time() - started:.1f} s")
