"""CheXpert Plus' quirks, in a table made up here: rows are images, suffixes and folders differ, order by ordinals, no test split."""

import csv
import json

import numpy as np
import pydicom
import pytest
from PIL import Image

from unirg.core import StudyError
from unirg.data import chexpert_plus
from unirg.data.layouts import LABELS

COLUMNS = [
    "path_to_image",
    "path_to_dcm",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "patient_report_date_order",
    "report",
    "section_narrative",
    "section_clinical_history",
    "section_history",
    "section_comparison",
    "section_technique",
    "section_procedure_comments",
    "section_findings",
    "section_impression",
    "section_end_of_impression",
    "section_summary",
    "section_accession_number",
    "age",
    "sex",
    "race",
    "ethnicity",
    "interpreter_needed",
    "insurance_type",
    "recent_bmi",
    "deceased",
    "split",
]
STUDY = {
    "section_clinical_history": "\nCOUGH AND\nFEVER.",
    "section_impression": "\n1. NO ACUTE\nPROCESS.\n",
    "age": "60.0",
    "sex": "Male",
    "race": "White",
    "frontal_lateral": "Frontal",
    "ap_pa": "AP",
    "section_accession_number": "17",
}
ROWS = [
    {"path_to_image": "train/patient00001/study10/view1_frontal.jpg", "patient_report_date_order": "3", "age": "63.0"},  # 10 is after 2
    {
        "path_to_image": "train/patient00001/study2/view2_lateral.jpg",
        "patient_report_date_order": "2",
        "frontal_lateral": "Lateral",
        "ap_pa": "",
    },
    {"path_to_image": "train/patient00001/study1/view1_frontal.jpg", "patient_report_date_order": "1", "ap_pa": "LL"},
    {"path_to_image": "train/patient00001/study1/view2_frontal.jpg", "patient_report_date_order": "1", "ap_pa": "PA"},
    {"path_to_image": "train/patient00001/study2/view1_frontal.jpg", "patient_report_date_order": "2"},
    # the same study number of another patient; history in the other column; nothing known of the person
    {
        "path_to_image": "valid/patient00002/study1/view1_frontal.jpg",
        "patient_report_date_order": "1",
        "section_clinical_history": "",
        "section_history": "Trauma.",
        "section_findings": "Clear.",
        "age": "",
        "sex": "Unknown",
        "race": "Unknown",
    },
    # age falls: these numbers are no order
    {
        "path_to_image": "train/patient00003/study1/view1_frontal.jpg",
        "patient_report_date_order": "1",
        "age": "70.0",
        "race": "Pacific Islander",
    },
    {"path_to_image": "train/patient00003/study2/view1_frontal.jpg", "patient_report_date_order": "2", "age": "40.0"},
    # the two ordinals disagree
    {"path_to_image": "train/patient00004/study1/view1_frontal.jpg", "patient_report_date_order": "2"},
    {"path_to_image": "train/patient00004/study2/view1_frontal.jpg", "patient_report_date_order": "1"},
    {"path_to_image": "oddly/named.jpg"},
]


@pytest.fixture
def archive(tmp_path):
    with (tmp_path / "df_chexpert_plus_240401.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({**STUDY, **row} for row in ROWS)
    for number, row in enumerate(ROWS[:-1]):  # two chunks, unpacked each in its own folder, one of them nested
        film = tmp_path / "PNG" / ("PNG" if number % 2 else "png_chexpert_plus_chunk_1") / row["path_to_image"].replace(".jpg", ".png")
        film.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(90).save(film)
    return tmp_path


def rows_of(studies):
    return {row["study_id"]: row for row in studies.table.remove_columns("image")}


def test_rows_are_images_and_become_studies(archive):
    studies = chexpert_plus.read(archive, size=64)
    rows = rows_of(studies)
    assert studies.counts["seen"] == 9 and studies.counts["rows"] == 8 and "oddly/named.jpg" in studies.quarantine["line60"]["reason"]
    one = rows["patient00001_study2"]
    assert one["indication"] == "COUGH AND\nFEVER." and one["impression"] == "1. NO ACUTE\nPROCESS." and one["findings"] is None
    assert one["view"] == "AP" and one["image_path"].endswith("study2/view1_frontal.png")
    assert rows["patient00001_study1"]["view"] == "PA"  # not the frontal row that says LL
    assert rows["patient00002_study1"]["indication"] == "Trauma."
    assert [rows["patient00002_study1"][name] for name in ("age", "sex", "race")] == [None, None, None]
    assert rows["patient00003_study1"]["race"] == "other" and one["sex"] == "male"


def test_order_by_number_not_by_text(archive):
    rows = rows_of(chexpert_plus.read(archive, size=64))
    assert rows["patient00001_study10"]["prior_study_id"] == "patient00001_study2" and rows["patient00001_study10"]["study_order"] == 3
    assert rows["patient00003_study2"]["prior_study_id"] is None and "age_falls" in rows["patient00003_study2"]["flags"]
    assert (
        rows["patient00004_study2"]["prior_study_id"] == "patient00004_study1" and "order_disagrees" in rows["patient00004_study2"]["flags"]
    )


def test_the_valid_split_is_named_as_asked_and_said_so(archive):
    studies = chexpert_plus.read(archive, pixels=False)
    assert studies.counts["split"]["test"] == 1 and studies.counts["reader"]["official_valid_split_is_called"] == "test"
    assert studies.counts["flags"]["official_valid"] == 1 and "official_valid" in rows_of(studies)["patient00002_study1"]["flags"]
    assert rows_of(chexpert_plus.read(archive, pixels=False, valid_as="validation"))["patient00002_study1"]["split"] == "validation"


def test_films_of_another_release_in_another_folder(archive, tmp_path):
    for film in [f for f in archive.rglob("*.png")]:
        new = tmp_path / "films" / "CheXpert-v1.0" / film.as_posix().split("/", film.as_posix().count("/") - 3)[-1]
        new = new.with_suffix(".jpg")
        new.parent.mkdir(parents=True, exist_ok=True)
        Image.open(film).save(new)
        film.unlink()
    studies = chexpert_plus.read(archive, size=64, images=tmp_path / "films", release="jpg")
    assert studies.counts["rows"] == 8 and all(path.endswith(".jpg") for path in studies.table["image_path"])
    with pytest.raises(StudyError, match=r"none of 9 studies can be used: file is missing \(8\)"):
        chexpert_plus.read(archive, size=64, images=tmp_path / "films", release="dicom")


def test_dicom_films_without_highbit_beside_leftovers_of_a_download(archive):
    shades = np.tile(np.linspace(0, 4095, 64, dtype=np.uint16), (64, 1))
    for row in ROWS[:-1]:
        film = archive / "DICOM" / "Uncompressed" / row["path_to_image"].replace(".jpg", ".dcm")
        film.parent.mkdir(parents=True, exist_ok=True)
        made = pydicom.Dataset()
        made.file_meta = pydicom.dataset.FileMetaDataset()
        made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        made.Rows, made.Columns, made.SamplesPerPixel, made.PixelRepresentation = 64, 64, 1, 0
        made.BitsAllocated, made.BitsStored, made.PhotometricInterpretation, made.PixelData = 16, 12, "MONOCHROME2", shades.tobytes()
        made.save_as(film, implicit_vr=False, little_endian=True)
        (film.parent / f".azDownload-{film.name}").write_bytes(b"half a film")
    studies = chexpert_plus.read(archive, size=64, release="dicom")
    assert studies.counts["rows"] == 8
    assert all(path.startswith("DICOM/Uncompressed/") and ".azDownload" not in path for path in studies.table["image_path"])


def test_labels_are_json_lines(archive):
    def line(path, **values):
        return json.dumps({"path_to_image": path, **dict.fromkeys(LABELS), **values})

    file = archive / "chexbert_labels" / "impression_fixed.json"
    file.parent.mkdir()
    lines = [line(row["path_to_image"], **({"Edema": -1.0} if "patient00001/study1/" in row["path_to_image"] else {})) for row in ROWS]
    file.write_text("\n".join(lines).replace("null", "NaN", 1) + "\n")
    told = chexpert_plus.labels(archive)
    assert len(told) == 8 and told["patient00001_study1"] == {**dict.fromkeys(LABELS), "Edema": -1}
    assert set(told) == {record.study_id for record in chexpert_plus.records(archive)} - {"line60"}
    file.write_text(lines[2] + "\n" + line(ROWS[3]["path_to_image"]) + "\n")
    with pytest.raises(StudyError, match=r"line 2.*patient00001_study1"):
        chexpert_plus.labels(archive)
    file.write_text(lines[0] + "\n" + lines[1][:40])
    with pytest.raises(StudyError, match=r"impression_fixed\.json, line 2"):
        chexpert_plus.labels(archive)
    with pytest.raises(StudyError, match="report_fixed"):
        chexpert_plus.labels(archive, "report")
    with pytest.raises(StudyError, match="'text'"):
        chexpert_plus.labels(archive, "text")


def test_ordinals_are_no_days(archive):
    with pytest.raises(StudyError, match="gap need dates"):
        chexpert_plus.read(archive, pixels=False, encounters="gap 30")


def test_wrong_settings_are_named(archive, tmp_path):
    with pytest.raises(StudyError, match="holdout"):
        chexpert_plus.read(archive, valid_as="holdout")
    with pytest.raises(StudyError, match="df_chexpert_plus"):
        chexpert_plus.read(archive / "PNG")
    (archive / "df_chexpert_plus_240401.csv").write_text("path_to_image,age\n")
    with pytest.raises(StudyError, match="frontal_lateral"):
        chexpert_plus.read(archive)
