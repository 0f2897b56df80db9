"""The whole study in small, in an empty folder with the built wheel alone: archives to figures, killed on the way and gone on."""

import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from wheel import built, installed

ROOT = Path(__file__).parents[1]
PANELS = "1a 1b 1c 1d 2a 2a_table 2b 2c 2d 2e 2f 3a 3b 3c 3d 4a 4b 4c 4d S1 answer headroom teaser".split()


def start(root, environment, *arguments):
    command = ["unirg-run", "--profile", "smoke", *arguments]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    environment, root = installed(folder), folder / "my_study"
    environment.pop("UNIRG_ROOT", None)
    made = subprocess.run(["unirg-new", "my_study"], cwd=folder, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    first = start(root, environment)
    marks = root / "outputs/smoke/runs"
    for _ in range(2400):  # killed in the middle of SFT
        if (marks / ".state/sft-s1.json").exists() or first.poll() is not None:
            break
        time.sleep(0.25)
    time.sleep(8)
    kept = sorted(p.name for p in marks.glob("*.json"))
    first.send_signal(signal.SIGKILL)
    first.wait()
    again = start(root, environment)
    out, _ = again.communicate(timeout=1500)
    return {"root": root, "code": again.returncode, "out": out, "kept": kept, "environment": environment, "folder": folder}


def test_the_wheel_is_what_runs(study):
    code = "import unirg, sys; print(unirg.__file__)"
    where = subprocess.run([sys.executable, "-c", code], env=study["environment"], capture_output=True, text=True, cwd=study["root"]).stdout
    assert where.startswith(str(study["folder"])) and (Path(where.strip()).parent / "py.typed").is_file()
    assert {p.name for p in study["root"].iterdir()} == {"settings.ini", "nbs", "outputs"}
    again = subprocess.run(["unirg-new", "my_study"], cwd=study["folder"], env=study["environment"], capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.strip() == "unirg-new: my_study is not empty"


def test_a_trained_policy_writes_the_report_of_a_film_outside_the_study(study, tmp_path):
    base = study["root"] / "outputs/smoke"
    told = next(path for path in (base / "archives/rexrank").glob("*.json") if "section_findings" in path.read_text())
    places = ["--input_json_file", str(told), "--img_root_dir", str(base / "archives/rexrank"), "--save_json_file", "reports.json"]
    command = ["unirg-generate", "--model", str(base / "models/rl2-s1"), *places]
    done = subprocess.run(command, cwd=tmp_path, env=study["environment"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all("model_prediction" in study for study in json.loads((tmp_path / "reports.json").read_text()).values())


@pytest.mark.parametrize("notebook", ["10_prepare", "15_base", "50_score", "61_figure1"])
def test_a_notebook_that_is_run_by_hand_replaces_no_result(study, notebook, tmp_path):
    code = "import papermill, sys; papermill.execute_notebook(sys.argv[1], sys.argv[2], kernel_name='python3', progress_bar=False)"
    command = [sys.executable, "-c", code, f"nbs/study/{notebook}.ipynb", str(tmp_path / "by_hand.ipynb")]
    done = subprocess.run(command, cwd=study["root"], env=study["environment"], capture_output=True, text=True)
    made = {"10_prepare": "data/mimic_cxr", "15_base": "models/base-s1", "50_score": "scores/sft-s1", "61_figure1": "figures/fig_1a.csv"}
    assert done.returncode == 0 and (study["root"] / "outputs/scratch" / made[notebook]).exists(), done.stderr[-2000:]
    command = ["unirg-status", "--profile", "smoke"]
    said = subprocess.run(command, cwd=study["root"], env=study["environment"], capture_output=True, text=True)
    assert "to run" not in said.stdout and said.stdout.count("current, took") > 20, said.stdout + said.stderr


def test_source_and_wheel_build_and_say_what_they_are(tmp_path):
    sdist, wheel = sorted(built(tmp_path), key=lambda path: path.suffix)
    assert sdist.name.endswith(".tar.gz") and wheel.suffix == ".whl"
    inside = zipfile.ZipFile(wheel).namelist()
    assert {"unirg/policies/film.png", "unirg/policies/phantom-rl/model.safetensors", "unirg/policies/phantom-rl/README.md"} <= {*inside}
    assert not [name for name in inside if "openi" in name.lower() and not name.endswith(".py")], "nothing of a real collection"


def test_it_ends_well_after_a_kill_and_repeats_nothing_that_was_done(study):
    assert study["code"] == 0, study["out"][-3000:]
    assert "phantom.json" in study["kept"] and "base-s1.json" in study["kept"], "the kill came too early to show anything"
    done = {line.split("]")[1].split()[0] for line in study["out"].splitlines() if " done in " in line}
    assert not done & {name.removesuffix(".json") for name in study["kept"]}


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_is_there_as_png_svg_and_csv(study, panel):
    figures = study["root"] / "outputs/smoke/figures"
    assert all((figures / f"fig_{panel}.{suffix}").stat().st_size > 500 for suffix in ("png", "svg"))
    assert "Simulated data" in (figures / f"fig_{panel}.svg").read_text()
    assert len(pd.read_csv(figures / f"fig_{panel}.csv"))


def test_the_report_holds_every_panel_and_says_that_it_is_research(study):
    page = (study["root"] / "outputs/smoke/report.html").read_text()
    assert all(f'id="fig_{panel}"' in page for panel in PANELS) and page.count("data:image/png;base64,") >= len(PANELS)
    assert page.index("not for clinical use") < page.index("Simulated data") < page.index("<h2>")
    markdown = (study["root"] / "outputs/smoke/RESULTS.md").read_text()
    assert "too few to tell" in markdown and not re.search("[▲▼↑↓≈] [-+]?[0-9]", markdown), "of so few studies nothing is told"
    assert "no record beside it" not in markdown and "Rests on: " in markdown


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
    assert {"base-s1", "sft-s1", "rl_only-s1", "rl1-s1", "rl2-s1"} <= set(cards)
    assert "stands for the pretraining" in cards["base-s1"] and "stands for the pretraining" in cards["rl2-s1"]
    scores = pd.concat(map(pd.read_parquet, (base / "scores/rl2-s1").glob("rexrank.parquet")))
    row = next(line for line in cards["rl2-s1"].splitlines() if line.startswith("| composite_step1 |"))
    assert f"{scores.composite_step1.mean():.3f} [" in row and "Not a medical device" in cards["rl2-s1"]


def test_the_base_is_one_that_all_share_and_its_sight_is_measured_on_the_atlas(study):
    base = study["root"] / "outputs/smoke"
    shared = Path(json.loads((base / "models/base-s1/refers_to.json").read_text())["policy"])
    assert shared.parent.name == "shared" and (shared / "model.safetensors").is_file()
    assert (base / "atlas/archive/atlas.csv").is_file() and (base / "atlas").resolve().parent == shared.parent
    seen = pd.read_csv(base / "figures/sight_base.csv")
    assert {"finding", "third", "sensitivity", "specificity"} <= set(seen) and set(seen.third) == {"barely", "middle", "plain"}


def test_nothing_of_a_study_is_left_in_the_users_cache(study):
    assert not list((study["folder"] / "users_cache").rglob("*.arrow"))


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
    assert {"table_s1", "generate-rl2", "rl2-s1", "rl1-s1", "sft-s1", "base-s1", "atlas", "prepare-mimic_cxr", "phantom"} <= seen


def test_a_second_run_does_nothing_within_seconds(study):
    started = time.time()
    process = start(study["root"], study["environment"])
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "0 tasks run" in out, out
    print(f"{time.time() - started:.1f} s")
