"The phantom's archives: same seed, same bytes; nothing half written; the real layouts' keys and quirks."

import dataclasses
import gzip
import io
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from planned import ROOT, plan_of

from unirg.core import Settings, StudyError, digest
from unirg.phantom import archives
from unirg.phantom.archives import CHEXPERT_COLUMNS, plan, read_truth, rerender, split_of, studies_of, write_archive, write_world
from unirg.phantom.dictation import PREDICTABLE, Readership
from unirg.phantom.patients import INSTITUTIONS

STUDIES = {"mimic_cxr": 8, "chexpert_plus": 5, "rexgradient": 5, "iu_xray": 4, "rexrank": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("phantom") / "world", STUDIES, seed=2)


def files(folder, pattern):
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def some_studies(institution, count, seed=2):
    return [study for planned in plan(institution, count, seed) for study in studies_of(institution, planned, seed)]


def test_same_seed_same_bytes_in_any_number_of_processes(world, tmp_path):
    few = {name: STUDIES[name] for name in ("mimic_cxr", "rexgradient")}
    again = write_world(tmp_path / "again", few, seed=2, processes=2)
    for name in few:
        assert digest(again / name) == digest(world / name)
        for kind in ("studies", "signs"):
            assert digest(again / f".truth/{name}_{kind}.parquet") == digest(world / f".truth/{name}_{kind}.parquet")
    other = [study.visit.study_id for study in some_studies("rexgradient", 5, seed=3)]
    assert not set(other) & set(read_truth(world).studies.study_id)


def test_more_studies_leave_the_first_ones_alone():
    fewer, more = plan("mimic_cxr", 10, 1), plan("mimic_cxr", 30, 1)
    assert more[: len(fewer)] == fewer and sum(p.studies for p in more) >= 30


def test_finished_archives_are_kept_and_changed_ones_are_not(tmp_path):
    write_world(tmp_path, {"rexrank": 2, "iu_xray": 2}, seed=1)
    film = files(tmp_path / "rexrank", "*.jpg")[0]
    film.write_bytes(b"marked")
    write_world(tmp_path, {"rexrank": 2, "iu_xray": 3}, seed=1)
    assert film.read_bytes() == b"marked" and len(files(tmp_path / "iu_xray", "*.xml")) == 3
    write_world(tmp_path, {"rexrank": 3}, seed=1)
    assert film.read_bytes() != b"marked"


def test_a_broken_run_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    def stumble(folder, rows):
        raise RuntimeError("killed")

    monkeypatch.setitem(archives.LAYOUTS, "rexrank", (archives.write_rexrank_study, stumble))
    with pytest.raises(RuntimeError):
        write_archive("rexrank", tmp_path, 1, seed=1)
    assert not (tmp_path / "rexrank").exists() and not (tmp_path / "truth.parquet").exists()
    monkeypatch.undo()
    counts = write_archive("rexrank", tmp_path, 1, seed=1)
    assert (tmp_path / "rexrank").is_dir() and not (tmp_path / ".rexrank.part").exists()
    assert counts["studies"] == counts["test"] == len(json.loads((tmp_path / "rexrank" / archives.REXRANK_FILE).read_text()))


def test_unknown_institutions_and_worlds_are_named(tmp_path):
    with pytest.raises(StudyError, match="narnia"):
        write_archive("narnia", tmp_path, 3, seed=1)
    with pytest.raises(StudyError, match="rexrank: 0 studies"):
        write_archive("rexrank", tmp_path, 0, seed=1)
    with pytest.raises(StudyError, match=r"truth\.parquet"):
        read_truth(tmp_path)


def test_counts_add_up(world):
    truth = read_truth(world)
    for source, wanted in STUDIES.items():
        studies = truth.studies[truth.studies.source == source]
        assert len(studies) >= wanted and studies.study_id.is_unique
        films = len(studies) + int(studies.has_lateral.sum())
        kind = {"mimic_cxr": "*.dcm", "rexrank": "*.jpg"}.get(source, "*.png")
        assert len(files(world / source, kind)) == films
        signs = truth.signs[truth.signs.source == source]
        assert signs.groupby("study_id").size().reindex(studies.study_id, fill_value=0).tolist() == studies.signs.tolist()
    assert not files(world / "mimic_cxr", "*.parquet")  # the truth stands beside the archives, never in them


def test_splits_keep_patients_together_and_even_small_worlds_have_all():
    for name in INSTITUTIONS:
        splits = [split_of(name, i, 7) for i in range(400)]
        shares = {split: splits.count(split) / 400 for split in set(splits)}
        if name == "rexrank":
            assert shares == {"test": 1.0}
        elif name == "chexpert_plus":
            assert shares == {"train": 0.85, "test": 0.15}
        else:
            assert shares == {"train": 0.8, "validation": 0.05, "test": 0.15} and {"train", "validation", "test"} == set(splits[:4])


def test_mimic_layout(world):
    root = world / "mimic_cxr"
    records = pd.read_csv(root / "cxr-record-list.csv.gz", dtype=str)
    studies = pd.read_csv(root / "cxr-study-list.csv.gz", dtype=str)
    metadata = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz")
    split = pd.read_csv(root / "mimic-cxr-2.0.0-split.csv.gz")
    chexpert = pd.read_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert set(split.split) <= {"train", "validate", "test"} and list(chexpert.columns[2:]) == sorted(chexpert.columns[2:])
    assert list(metadata.columns) == archives.MIMIC_METADATA_COLUMNS and metadata.StudyTime.dtype == float
    assert set(metadata.dicom_id) == set(records.dicom_id) == set(split.dicom_id)
    assert all((root / path).is_file() for path in [*records.path, *studies.path])
    assert all(re.fullmatch(r"files/p1\d/p1\d{7}/s5\d{7}/[0-9a-f]{8}(-[0-9a-f]{8}){4}\.dcm", path) for path in records.path)
    assert metadata.groupby("study_id")[["StudyDate", "StudyTime"]].nunique().eq(1).all(axis=None)
    patients = pd.read_csv(root / "mimic-iv/hosp/patients.csv.gz")
    assert list(patients.columns[:4]) == ["subject_id", "gender", "anchor_age", "anchor_year"] and patients.subject_id.is_unique
    assert set(pd.read_csv(root / "mimic-iv/hosp/admissions.csv.gz").subject_id) <= set(patients.subject_id)
    with gzip.open(root / "cxr-study-list.csv.gz") as file:
        file.read()
        assert file.mtime == 0


def test_dicom_is_readable_and_its_pixels_are_the_film_again(world):
    root, truth = world / "mimic_cxr", read_truth(world)
    records = pd.read_csv(root / "cxr-record-list.csv.gz", dtype=str)
    for row in truth.studies[truth.studies.source == "mimic_cxr"].head(4).itertuples():
        stored = [pydicom.dcmread(root / path) for path in records[records.study_id == row.study_id].path]
        frontal = next(ds for ds in stored if ds.PhotometricInterpretation == row.photometric and ds.SOPInstanceUID.startswith("2.25."))
        assert frontal.BitsAllocated == 16 and frontal.pixel_array.shape == (512, 512)
        shown = []
        for ds in stored:
            pixels = ds.pixel_array.astype(float)
            if "WindowCenter" not in ds:
                continue
            unit = np.clip((pixels - (ds.WindowCenter - 0.5 - (ds.WindowWidth - 1) / 2)) / (ds.WindowWidth - 1), 0, 1)
            shown.append(255 * (1 - unit if ds.PhotometricInterpretation == "MONOCHROME1" else unit))
        if row.windowed:
            again = rerender(truth, "mimic_cxr", row.study_id).astype(float)
            assert min(np.abs(pixels - again).max() for pixels in shown) <= 1


def test_mimic_quirks_come_at_real_rates():
    studies = some_studies("mimic_cxr", 500)
    rows = pd.DataFrame([archives.mimic_metadata(study, view) for study in studies for view in study.views])
    assert 0.015 < rows.ViewPosition.isna().mean() < 0.07 and rows.study_id.nunique() == len(studies)
    shifted = rows.ViewCodeSequence_CodeMeaning.isin(["Erect", "Recumbent"]).mean()
    assert 0.005 < shifted < 0.08 and rows.StudyTime.lt(100_000).any() and not rows.dicom_id.duplicated().any()
    inverted = np.mean([archives.study_camera(study).photometric != archives.CAMERAS["mimic_cxr"].photometric for study in studies])
    assert 0.1 < inverted < 0.2
    firsts = [study for study in studies if study.visit.order == 0]
    known = [archives.mimic_iv_rows(study, study.patient.patient_id) for study in firsts]
    assert 0.08 < np.mean([not rows for rows in known]) < 0.27
    for study in studies:
        same = [other for other in studies if other.index == study.index and other.visit.order > study.visit.order]
        assert all(archives.study_moment(study, 2110, 90) < archives.study_moment(other, 2110, 90) for other in same)


def test_mimic_ages_follow_from_anchors():
    for study in some_studies("mimic_cxr", 60):
        rows = archives.mimic_iv_rows(study, "1") if study.visit.order == 0 else {}
        if rows and rows["patients"][0]["anchor_age"] != 91:
            person = rows["patients"][0]
            assert abs(person["anchor_age"] + archives.study_moment(study, 2110, 90)[0].year - person["anchor_year"] - study.age) <= 1


def test_chexpert_layout(world):
    root = world / "chexpert_plus"
    table = pd.read_csv(root / "df_chexpert_plus_240401.csv")
    assert list(table.columns) == CHEXPERT_COLUMNS and len(table.columns) == 27 and set(table.split) <= {"train", "valid"}
    assert table.path_to_image.str.fullmatch(r"(train|valid)/patient\d{5}/study\d+/view\d_(frontal|lateral)\.jpg").all()
    assert table[table.frontal_lateral == "Lateral"].ap_pa.isna().all()
    for path in table.path_to_image:
        with Image.open(root / "PNG" / path.replace(".jpg", ".png")) as image:
            assert image.mode == "L"
    lines = (root / "chexbert_labels/report_fixed.json").read_text().splitlines()
    assert {json.loads(line)["path_to_image"] for line in lines} == set(table.path_to_image)


def test_rexgradient_layout(world):
    root, seen = world / "rexgradient", 0
    for split in ("train", "valid", "test"):
        entries = json.loads((root / f"metadata/{split}_metadata_view_position.json").read_text())
        table = pd.read_csv(root / f"metadata/{split}_metadata.csv", dtype=str, keep_default_na=False)
        assert set(table.id) == set(entries) == set(json.loads((root / f"metadata/{split}_metadata.json").read_text()))
        for name, entry in entries.items():
            seen += 1
            assert name == f"p{entry['PatientID']}_a{entry['AccessionNumber']}_s{entry['StudyInstanceUid']}"
            assert entry["PatientID"].startswith("GRDN") and re.fullmatch(r"\d{3}[YD]", entry["PatientAge"] or "000Y")
            for path in entry["ImagePath"]:
                assert path.startswith("../deid_png/") and "/studies/" in path and "/instances/" in path
                with Image.open(root / "metadata" / path) as image:
                    assert image.mode == "I;16" and np.asarray(image).max() > 255
    assert seen == (read_truth(world).studies.source == "rexgradient").sum()


def test_rexgradient_view_lists_can_be_too_short():
    lists = [(archives.rexgradient_views(study), study.views) for study in some_studies("rexgradient", 400)]
    assert 0 < sum(len(named) < len(views) for named, views in lists) < 20
    assert {"PA", "POSTERO_ANTERIOR", "AP", "LATERAL", "LL"} <= {name for named, _ in lists for name in named}


def test_iu_layout(world):
    root, ids = world / "iu_xray", set()
    for path in files(root / "ecgen-radiology", "*.xml"):
        tree = ElementTree.parse(path)
        assert tree.find("uId").get("id") == f"CXR{path.stem}"
        labels = [element.get("Label") for element in tree.findall("MedlineCitation/Article/Abstract/AbstractText")]
        assert labels == ["COMPARISON", "INDICATION", "FINDINGS", "IMPRESSION"] and tree.find("MeSH/major") is not None
        for image in tree.findall("parentImage"):
            ids.add(image.get("id"))
            assert (root / "NLMCXR_png" / f"{image.get('id')}.png").is_file()
    assert len(ids) == len(files(root, "*.png"))
    reports = pd.read_csv(root / "indiana_reports.csv")
    assert list(reports.columns) == ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]
    projections = pd.read_csv(root / "indiana_projections.csv")
    assert set(projections.projection) <= {"Frontal", "Lateral"} and projections.filename.str.endswith(".dcm.png").all()
    headers = pd.read_csv(root / "nlmcxr_dicom_metadata.csv.gz", dtype=str)
    assert set(headers.imageid.str.removeprefix("CXR") + ".dcm.png") == set(projections.filename) and headers["Patient's Sex"].isna().all()
    splits = json.loads((root / "annotation.json").read_text())
    assert list(splits) == ["train", "val", "test"] and all(entry["id"].startswith("CXR") for part in splits.values() for entry in part)


def test_rexrank_layout(world):
    path = world / "rexrank" / archives.REXRANK_FILE
    entries = json.loads(path.read_text())
    keys = {"subject_id", "key_image_path", "image_path", "report", "section_findings", "section_impression", "split", "frontal_lateral"}
    for entry in entries.values():
        assert set(entry) == {*keys, "context"} and entry["split"] == "test" and entry["key_image_path"] in entry["image_path"]
        assert all(name.startswith("/") and (world / "rexrank/images" / name[1:]).is_file() for name in entry["image_path"])


def test_rexrank_context_and_missing_text(tmp_path):
    contexts = [archives.rexrank_context(study) for study in some_studies("rexrank", 300)]
    assert all(re.match(r"(Age:(\d0-\d0|20-Oct|90-100|>=90|None)\.Gender:[MFN]\.)?(Indication|Comparison|$)", text) for text in contexts)
    assert any(text.startswith("Age:None") for text in contexts) and any(text.startswith("Indication") for text in contexts)


def test_lost_text_is_rare_and_known(tmp_path):
    studies = some_studies("mimic_cxr", 600)
    lost = [study for study in studies if study.text_lost]
    assert 0 < len(lost) < 15
    for study in lost:
        assert "IMPRESSION:" not in archives.report_text(study) and study.section("findings") is None
        whole, rows = archives.truth_rows(study)
        assert whole["text_lost"] and not any(row["dictated"] for row in rows)
        entry = archives.chexpert_text(study)
        assert entry.get("section_findings") is None and entry["report"]


def test_rerendering_shows_the_archives_film_and_any_other(world):
    truth = read_truth(world)
    for source, pattern in (("chexpert_plus", "view1_frontal.png"), ("iu_xray", "*1001.png"), ("rexgradient", "*.png")):
        own = truth.studies[truth.studies.source == source]
        written = [np.asarray(Image.open(path)) for path in files(world / source, pattern)]
        if source == "rexgradient":  # 16 bits, scaled as any reader must
            written = [(255 * (w.astype(float) - w.min()) / (w.max() - w.min()) + 0.5).astype(np.uint8) for w in written]
        written = [w[..., 0] if w.ndim == 3 else w for w in written]
        for study_id in own.study_id.head(3):
            again = rerender(truth, source, study_id).astype(int)
            assert min(np.abs(again - w).max() for w in written) <= (2 if source == "rexgradient" else 0)
    shown = truth.signs[truth.signs.severity > 0.6].iloc[0]
    other = next(camera for name, camera in archives.CAMERAS.items() if name != shown.source)
    own = rerender(world, shown.source, shown.study_id)
    assert not np.array_equal(own, rerender(world, shown.source, shown.study_id, signs=()))
    assert not np.array_equal(own, rerender(world, shown.source, shown.study_id, camera=other))
    signs = archives.true_signs(truth, shown.source, shown.study_id)
    assert any(sign.finding == shown.finding and math.isclose(sign.severity, shown.severity) for sign in signs)
    with pytest.raises(StudyError, match="no study"):
        rerender(truth, "mimic_cxr", "nobody")


def test_truth_knows_what_was_dictated(world):
    signs = read_truth(world).signs
    assert signs.dictated.any() and (signs.dictated == signs.dictated_status.notna()).all()
    assert set(signs.dictated_status.dropna()) <= {"present", "uncertain"} and signs.severity.between(0, 1).all()


def test_writers_take_what_a_reader_left_out():
    study = some_studies("iu_xray", 1)[0]
    silent = dataclasses.replace(study, text_lost=True)
    assert silent.section("impression") is None and silent.views == study.views
    buffer = io.BytesIO(archives.jpeg(np.zeros((8, 8), np.uint8)))
    assert Image.open(buffer).mode == "L"


def test_films_of_another_size(tmp_path):
    root = write_world(tmp_path, {"chexpert_plus": 3, "mimic_cxr": 3}, seed=4, film_size=96)
    truth = read_truth(root)
    assert set(truth.studies.film_size) == {96}
    written = {np.asarray(Image.open(path)).shape[:2] for path in files(root / "chexpert_plus", "*.png")}
    films = files(root / "mimic_cxr", "*.dcm")
    stored = [pydicom.dcmread(path) for path in films]
    assert written == {(96, 96)} and {film.pixel_array.shape for film in stored} == {(96, 96)}
    width = {round(float(film.ImagerPixelSpacing[0]) * film.Rows) for film in stored if "ImagerPixelSpacing" in film}
    assert width <= {archives.DETECTOR_MM}  # a film of fewer pixels shows as much of the patient
    study = truth.studies[truth.studies.source == "mimic_cxr"].study_id.iloc[0]
    assert rerender(truth, "mimic_cxr", study).shape == (96, 96)
    before = films[0].read_bytes()
    write_world(tmp_path, {"mimic_cxr": 3}, seed=4, film_size=128)  # not the archive that stands there
    assert films[0].read_bytes() != before and set(read_truth(tmp_path).studies.query("source == 'mimic_cxr'").film_size) == {128}


@pytest.mark.parametrize("readers", [PREDICTABLE, Readership(threshold=0.7), Readership(boilerplate=0.0), Readership(wording="plain")])
def test_other_readers_make_another_archive_of_the_same_films(tmp_path, readers):
    def files(folder):
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    write_archive("rexrank", tmp_path / "a", 30, 5, film_size=64)
    usual = files(tmp_path / "a" / "rexrank")
    write_archive("rexrank", tmp_path / "a", 30, 5, film_size=64, readership=readers)
    other = files(tmp_path / "a" / "rexrank")
    assert set(usual) == set(other) and [name for name in usual if usual[name] != other[name]] == ["ReXRank_MIMICCXR_test.json"]
    before = (tmp_path / "a" / "rexrank" / "ReXRank_MIMICCXR_test.json").stat().st_mtime_ns
    write_archive("rexrank", tmp_path / "a", 30, 5, film_size=64, readership=readers)
    assert (tmp_path / "a" / "rexrank" / "ReXRank_MIMICCXR_test.json").stat().st_mtime_ns == before, "one that was made alike is kept"


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("reader_threshold", "0.38", 0.38),
        ("reader_unevenness", "0.3", 0.3),
        ("reader_wording", "plain", "plain"),
        ("reader_boilerplate", "0", 0.0),
        ("seed", "77", 77),
    ],
)
def test_a_world_s_readers_are_settings(name, value, meant):
    study = plan_of(Settings("phantom", {name: value}, root=ROOT))
    assert study.tasks["phantom"].parameters[name] == meant and not study.wrong


@pytest.mark.parametrize("profile", ["smoke", "phantom", "phantom_full"])
def test_the_base_waits_for_the_atlas_and_for_no_archive(profile):
    tasks = plan_of(Settings(profile, root=ROOT)).tasks
    assert tasks["base-s1"].needs == ["atlas"] and tasks["atlas"].needs == [] and tasks["base-s1"].parameters["atlas"]
    assert tasks["atlas"].parameters["atlas_seed"] == 9001 != tasks["phantom"].parameters["seed"]
    assert tasks["atlas"].parameters["atlas_studies"] == (40 if profile == "smoke" else 8000)
    assert tasks["image_grounding"].parameters["seen_by"] == "base"
    assert "atlas" not in tasks["sft-s1"].parameters["sources"], "it is no source"


# ---------------------------------------------------------------- worlds that share films


def test_films_are_exposed_once_for_worlds_that_differ_in_readers_alone(tmp_path):
    "The bytes are those of a world by itself; another prevalence, size or seed exposes its own."
    few, kept = {"iu_xray": 3, "mimic_cxr": 3}, tmp_path / "films"
    alone = write_world(tmp_path / "alone", few, seed=2, film_size=64)
    first = write_world(tmp_path / "first", few, seed=2, film_size=64, films=kept)
    exposed = {path: path.stat().st_mtime_ns for path in kept.rglob("*.npy")}
    assert len(exposed) >= 6 and all(digest(first / name) == digest(alone / name) for name in few)
    other = write_world(tmp_path / "other", few, seed=2, film_size=64, films=kept, readership=PREDICTABLE)
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.npy")} == exposed
    assert [p.name for p in files(other, "*.png")] == [p.name for p in files(first, "*.png")]
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(files(other, "*.png"), files(first, "*.png"), strict=True))
    write_world(tmp_path / "rare", few, seed=2, film_size=64, films=kept, prevalence=0.3)
    assert len([*kept.rglob("*.npy")]) > len(exposed)


def test_a_world_of_another_prevalence_is_written_anew(tmp_path):
    usual = read_truth(write_world(tmp_path, {"rexrank": 6}, seed=1, film_size=32)).signs
    rare = read_truth(write_world(tmp_path, {"rexrank": 6}, seed=1, film_size=32, prevalence=0.3)).signs
    assert 0 < len(rare) < len(usual)
