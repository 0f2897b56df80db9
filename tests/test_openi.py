"""The real collection's profile on films and reports made up in its form: plan, controls, a small study, a submission, BLEU-2 by NLTK."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from PIL import Image

from unirg.core import Settings, StudyError, study_root
from unirg.data.controls import CONTROLS, check_controls, images_of_others, with_control
from unirg.data.studies import Studies

PACKAGE = Path(__file__).parents[1]
XML = """<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">{comparison}</AbstractText><AbstractText Label="INDICATION">{indication}</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><parentImage id="CXR{n}_IM-{n:04d}-1001"><caption>Chest</caption></parentImage></eCitation>"""
FINDINGS = (
    "The heart is normal in size. The lungs are clear. There is no pneumothorax.",
    "Heart size is mildly enlarged. No focal consolidation is seen.",
    "Small left pleural effusion. The right lung is clear.",
    "",
)
PARTS = {"test": range(1, 13), "valid": range(13, 21), "train": range(21, 61)}
SETTINGS = """
[openi_small]
inherits = openi
seeds = 1
runs = base sft sft_blind
controls_of = sft
consensus = sft
figures = 61_figure1 76_board
report = no
[openi_small:stage:base]
trl.max_steps = 2
[openi_small:stage:sft]
trl.max_steps = 3
trl.eval_steps = 3
n_augmented_copies = 0
evaluate_studies = 4
[openi_small:stage:generate]
max_new_tokens = 24
[openi_small:stage:consensus]
samples = 2
max_new_tokens = 24
[openi_small:stage:figure1]
resamples = 20
[openi_small:stage:board]
resamples = 50
floor = 1
"""


def texts_of(n):
    indication, comparison = ("Cough.", "Fever and chest pain.", "Shortness of breath.")[n % 3], ("None.", "")[n % 2]
    findings = FINDINGS[n % 3] if n in PARTS["test"] else FINDINGS[n % 4]
    return {"indication": indication, "comparison": comparison, "findings": findings, "impression": "" if n % 5 else "No acute disease."}


def entry(n, part):
    "A study as ReXrank's files of IU X-Ray have it, its paths R2Gen's."
    told, path = texts_of(n), f"CXR{n}_IM-{n:04d}/0.png"
    sections = {f"section_{name}": told[name] or None for name in ("findings", "impression")}
    context = f"Indication: {told['indication']} Comparison: {told['comparison'] or None}"
    named = {"key_image_path": path, "image_path": [path], "frontal_lateral": "['Frontal']", "split": part}
    return named | sections | {"report": f"Findings: {told['findings']} Impression: {told['impression']}", "context": context}


def collection(folder, kaggle=False):
    "Sixty made-up studies as the collection is published, or as Kaggle has it; beside it R2Gen's folders of the same films."
    reports, films = folder / "ecgen-radiology", folder / ("images/images_normalized" if kaggle else "NLMCXR_png")
    for place in (reports, films):
        place.mkdir(parents=True)
    rows = {
        "indiana_reports.csv": ["uid,indication,comparison,findings,impression"],
        "indiana_projections.csv": ["uid,filename,projection"],
    }
    for n in (n for part in PARTS.values() for n in part):
        told, rng = texts_of(n), np.random.default_rng(n)
        (reports / f"{n}.xml").write_text(XML.format(n=n, **told))
        rows["indiana_reports.csv"].append(",".join([str(n), *told.values()]))
        rows["indiana_projections.csv"].append(f"{n},{n}_IM-{n:04d}-1001.dcm.png,Frontal")
        name = f"{n}_IM-{n:04d}-1001.dcm.png" if kaggle else f"CXR{n}_IM-{n:04d}-1001.png"
        film = Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).resize((128, 128))
        film.save(films / name)
        if n in PARTS["test"]:
            (place := folder.with_name("r2gen") / f"CXR{n}_IM-{n:04d}").mkdir(parents=True, exist_ok=True)
            film.save(place / "0.png")
    for name, lines in rows.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    for part in ("test", "valid"):
        listed = {f"CXR{n}_IM-{n:04d}": entry(n, part) for n in PARTS[part]}
        (folder / f"ReXRank_IUXray_{part}.json").write_text(json.dumps(listed))
    if kaggle:
        shutil.rmtree(reports)
    return folder


def root_with(folder, archive):
    "A study's root whose profile openi reads that archive."
    settings, place = (PACKAGE / "settings.ini").read_text(), "\n[openi:source:iu_xray]\n"
    before, _, after = settings.partition(place)
    told = after.replace("root = archives/iu-xray", f"root = {archive}", 1)
    (folder / "settings.ini").write_text(before + place + told + SETTINGS)
    shutil.copytree(PACKAGE / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openi")
    root = root_with(folder, collection(folder / "archive"))
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1"}
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "--profile", "openi_small"], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


def written(study, system):
    return json.loads((study / "outputs/openi_small/predictions" / system / "iu_xray.json").read_text())


# ---------------------------------------------------------------- controls


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("patients", ["ab", "aabb", "abcdefgh", "aaabcdef", "abcabcabd"])
def test_every_film_is_dealt_once_and_none_to_its_own_patient(patients, seed):
    dealt = images_of_others([*patients], seed)
    assert sorted(dealt) == [*range(len(patients))] and all(patients[row] != patients[given] for row, given in enumerate(dealt))
    assert dealt == images_of_others([*patients], seed)


def test_another_seed_is_another_deal():
    assert len({tuple(images_of_others([*map(str, range(40))], seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("patients", ["a", "aab", "aaa", "aaabb"])
def test_a_patient_with_more_than_half_of_the_studies_is_told(patients):
    with pytest.raises(StudyError, match="films cannot be dealt to other patients: one patient has"):
        images_of_others([*patients])


def table_of(count=6):
    film = [Image.fromarray(np.full((8, 8), 10 * n, np.uint8)) for n in range(count)]
    rows = [
        {"source": "iu", "study_id": f"s{n}", "patient_id": f"p{n // 2}", "indication": "Cough.", "comparison": None} for n in range(count)
    ]
    kinds = {name: datasets.Value("string") for name in rows[0]} | {"findings": datasets.Value("string"), "image": datasets.Image()}
    rows = [row | {"findings": f"Text {n}.", "image": film[n]} for n, row in enumerate(rows)]
    return datasets.Dataset.from_list(rows, features=datasets.Features(kinds))


def test_dealt_films_leave_texts_where_they_were():
    table = table_of()
    dealt = with_control(table, "dealt", 3)
    assert all(dealt[name][:] == table[name][:] for name in ("study_id", "patient_id", "indication", "findings"))
    shown = [np.asarray(row["image"]).flat[0] // 10 for row in dealt]
    assert sorted(shown) == [*range(6)] and all(n // 2 != film // 2 for n, film in enumerate(shown))
    assert dealt.column_names.count("image") == 1 and with_control(table, "dealt", 3)._fingerprint == dealt._fingerprint


def test_withheld_context_is_in_no_prompt_and_nothing_else_changes():
    from unirg.data.reports import prompt_text

    table = table_of()
    without = with_control(table, "no_context")
    assert without.features["indication"].dtype == "string" and without["findings"][:] == table["findings"][:]
    assert [np.asarray(row["image"]).flat[0] for row in without] == [np.asarray(row["image"]).flat[0] for row in table]
    told = [
        prompt_text(table.remove_columns("image")[0] | {"impression": None}, "findings", prompt_template="brief")
        for table in (table, without)
    ]
    assert "Cough." in told[0] and "Cough." not in told[1]


@pytest.mark.parametrize("asked", [["delt"], ["dealt", "blind"], ["dealt", "dealt"]])
def test_a_control_that_there_is_not_or_that_is_there_twice_is_told(asked):
    with pytest.raises(StudyError, match="controls: "):
        check_controls(asked)
    check_controls([*CONTROLS])


# ---------------------------------------------------------------- the plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    from unirg.study import Study

    folder = tmp_path_factory.mktemp("plan")
    found = Study(Settings("openi", root=root_with(folder, collection(folder / "archive"))))
    found.plan()
    assert found.wrong == []
    return found.tasks


def test_the_runs_with_controls_write_and_score_them(plan):
    for run in ("sft", "rl2"):
        asked = plan[f"generate-{run}"]
        assert asked.parameters["controls"] == ["dealt", "no_context"]
        systems = [f"{run}{kind}-s{seed}" for kind in ("", "_dealt", "_no_context") for seed in (1, 2, 3)]
        assert {f"outputs/openi/{kind}/{system}" for kind in ("predictions", "scores") for system in systems} == {*asked.makes}
    assert plan["generate-rl1"].parameters["controls"] == [] and not any("dealt" in made for made in plan["generate-rl1"].makes)


def test_the_runs_start_where_they_are_said_to(plan):
    assert plan["sft_blind-s1"].parameters["images"] == "none" and plan["sft-s1"].parameters["images"] == "own"
    assert "sft_blind-s2" not in plan and {"rl2-s1", "rl2-s2", "rl2-s3"} <= {*plan}
    assert {*plan["base_phantom-s1"].needs} == {"atlas", "prepare-iu_xray"} and plan["base-s1"].needs == ["prepare-iu_xray"]
    steps = {name: plan[name].parameters["trl"]["max_steps"] for name in ("sft-s1", "sft_phantom-s1", "sft_blind-s1")}
    assert len({*steps.values()}) == 1 and plan["sft_phantom-s1"].parameters["start"].endswith("base_phantom-s1")
    assert plan["sft_matched-s1"].parameters["match_compute_of"] == ["rl1", "rl2"]


def test_both_bases_read_as_many_words_and_pixels(plan):
    told = [plan[name].parameters for name in ("base-s1", "base_phantom-s1")]
    assert [(asked["vocabulary"], asked["image_size"], asked["prompt_template"]) for asked in told] == [(2000, 96, "brief")] * 2


# ---------------------------------------------------------------- a small study on the made-up collection


def test_rexranks_lists_are_test_and_validation_and_the_rest_is_learned_from(study):
    table = Studies.load(study / "outputs/openi_small/data/iu_xray").table.remove_columns("image")
    part = {"test": "test", "valid": "validation", "train": "train"}
    wanted = {f"CXR{n}": part[name] for name, numbers in PARTS.items() for n in numbers}
    assert dict(zip(table["study_id"], table["split"], strict=True)) == wanted


@pytest.mark.parametrize("system", ["base", "sft", "sft_blind", "sft_dealt", "sft_no_context"])
def test_every_system_has_a_report_and_a_score_of_every_test_study(study, system):
    import pandas as pd

    scores = pd.read_parquet(study / f"outputs/openi_small/scores/{system}-s1/iu_xray.parquet")
    assert {*written(study, f"{system}-s1")} == {*scores.study_id} == {f"CXR{n}" for n in PARTS["test"]}


def test_the_board_has_systems_without_a_policy_controls_and_published_numbers(study):
    import pandas as pd

    figures = study / "outputs/openi_small/figures"
    board, parts, areas = (pd.read_csv(figures / f"fig_{name}.csv") for name in ("board", "board_parts", "board_areas"))
    unlearned = {"commonest", "best_constant", "nearest_film", "nearest_context", "nearest_both"}
    assert unlearned | {"sft", "sft_consensus", "sft_dealt", "sft_no_context"} <= {*board.run}
    assert {"one text", "habits", "sight", "own score", "context"} <= {*parts.part} and {*parts.run} == {"sft"}
    assert {*areas.shown} == {"own", "dealt"} and areas.estimate.between(0, 1).all()
    leaders, theirs = pd.read_csv(figures / "fig_1d.csv"), {"UniRG-CXR Microsoft Research (published)", "MoERad-IU IIT Madras (published)"}
    assert {*leaders.measure} == {"bleu2"} and theirs <= {*leaders.run}


def test_controls_are_scored_against_the_studys_own_reference(study):
    own = written(study, "sft-s1")
    for control in CONTROLS:
        assert {i: one["report"] for i, one in written(study, f"sft_{control}-s1").items()} == {i: one["report"] for i, one in own.items()}


def test_a_policy_that_learned_from_empty_films_is_asked_with_empty_films(study):
    from unirg.training.generation import build_prompts

    base, films = study / "outputs/openi_small", {}
    table = Studies.load(base / "data/iu_xray").table
    for run in ("sft", "sft_blind"):
        rows = build_prompts(base / "models" / f"{run}-s1", table, "findings", split="test")
        films[run] = np.stack([np.asarray(row["images"][0]) for row in rows.select(range(4))])
    assert films["sft"].std() > 10 and films["sft_blind"].std() == 0 and films["sft"].shape == films["sft_blind"].shape == (4, 96, 96)


def test_the_figure_shows_runs_and_no_control(study):
    import pandas as pd

    table = pd.read_csv(study / "outputs/openi_small/figures/fig_1d.csv")
    assert {*table.run.dropna()} >= {"sft", "sft_blind"} and not table.run.astype(str).str.contains("dealt|no_context").any()


def test_a_submission_is_what_the_board_takes_and_its_bleu2_is_nltks(study, tmp_path):
    from unirg.reward.metrics import bleu2
    from unirg.training.submission import submit

    listed, out = study / "archive/ReXRank_IUXray_test.json", tmp_path / "reports.json"
    assert submit(str(study / "outputs/openi_small/models/sft-s1"), listed, out, study / "r2gen", max_new_tokens=24) == len(PARTS["test"])
    asked, told = json.loads(listed.read_text()), json.loads(out.read_text())
    assert [*told] == [*asked] and all({**asked[key], "model_prediction": told[key]["model_prediction"]} == told[key] for key in asked)
    ours = {f"{study.split('_')[0]}": one["model_prediction"] for study, one in told.items()}
    assert ours == {study: one["model_prediction"] for study, one in written(study, "sft-s1").items()}, "the study's own test reports"
    words, smooth = lambda text: text.lower().replace(".", " .").split(), SmoothingFunction().method1
    for one in told.values():  # an untrained policy's words, and some that share a few and many with the reference
        for said in (one["model_prediction"], "The heart is normal.", f"{one['section_findings']} No effusion."):
            reference = one["section_findings"]
            other = sentence_bleu([words(reference)], words(said), (0.5, 0.5), smoothing_function=smooth) if words(said) else 0.0
            assert bleu2(said, reference) == pytest.approx(other, abs=1e-9), said


@pytest.mark.parametrize("kaggle", [False, True])
def test_both_forms_of_the_collection_give_the_same_studies(tmp_path, kaggle):
    from unirg.data import iu_xray

    table = iu_xray.read(collection(tmp_path / "archive", kaggle), unlisted="train", size=128).table.remove_columns("image")
    rows = {row["study_id"]: (row["split"], row["view"], row["findings"], row["indication"]) for row in table}
    assert len(rows) == 60
    assert rows["CXR1"] == ("test", "FRONTAL", FINDINGS[1], "Fever and chest pain.") and rows["CXR13"][0] == "validation"


# ---------------------------------------------------------------- the real collection

REAL = study_root().parent / "shared" / "real_data"


@pytest.mark.skipif(not (REAL / "iu_xray_256").is_dir(), reason="the real films are not on this machine (../shared/real_data/iu_xray_256)")
def test_the_real_collection_has_the_boards_590_studies():
    from unirg.data import iu_xray

    options = {"images": REAL / "iu_xray_256" / "images", "unlisted": "train", "size": 32}
    found = iu_xray.read(REAL / "iu_xray_text", **options)
    table, (leaks, splits) = found.table.remove_columns("image"), (found.counts["leaks"], ("test", "validation", "train"))
    assert {split: table["split"][:].count(split) for split in splits} == {"test": 590, "validation": 294, "train": 2782}
    assert leaks["in_train"]["test"]["findings"]["in_train"] == 277 and leaks["prompts"]["holding_target"] == 0
    assert len(images_of_others([row["patient_id"] for row in table if row["split"] == "test"], 1)) == 590
