"""MIMIC-CXR's quirks, in an archive made up here: lost zeros, slipped columns, blank views, missing reports, races that differ."""

import csv
import gzip
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from unirg.core import StudyError
from unirg.data import mimic_cxr

SHADES = np.tile(np.linspace(0, 4095, 64, dtype=np.uint16), (64, 1))
COLUMNS = [
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough of study {study}.

 COMPARISON:  None.

 FINDINGS:

 The lungs are clear.

 IMPRESSION:

 No acute process.
"""
# dicom, subject, study, ViewPosition, date, time, code meanings, split
IMAGES = [
    ("a1", 10000032, 50000001, "PA", 21800506, 213014.531, ("CHEST", "postero-anterior", "Erect"), "train"),
    ("a2", 10000032, 50000001, "LATERAL", 21800506, 213014.531, ("CHEST", "lateral", "Erect"), "train"),
    (
        "b1",
        10000032,
        50000002,
        "",
        21800506,
        80556.875,
        ("antero-posterior", "Recumbent", ""),
        "train",
    ),  # slipped left; and earlier that day
    ("c1", 10000032, 50000003, "LL", 21810101, 1.5, ("CHEST", "left lateral", "Erect"), "train"),  # no frontal film
    ("d1", 10000033, 50000004, "AP", 21500101, 120000.0, ("CHEST", "antero-posterior", "Erect"), "validate"),
    ("e1", 10000034, 50000005, "AP", 21500101, 120000.0, ("CHEST", "", ""), "test"),  # its report is missing
    ("f1", 10000034, 50000006, "", 21500102, 120000.0, ("CHEST", "Erect", ""), "test"),  # only the DICOM header knows its view
    ("g1", 10000034, 50000007, "PA", 21500103, 120000.0, ("CHEST", "", ""), "test"),
]


def table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def dicom(path, view, date, time, processing=""):
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = "2.25.1"
    film.Rows, film.Columns = SHADES.shape
    film.SamplesPerPixel, film.PixelRepresentation, film.BitsAllocated, film.BitsStored, film.HighBit = 1, 0, 16, 12, 11
    film.PhotometricInterpretation, film.ViewPosition, film.PixelData = "MONOCHROME2", view, SHADES.tobytes()
    film.StudyDate, film.StudyTime = str(date), f"{time:013.6f}"
    if processing:
        film.AcquisitionDeviceProcessingDescription = processing
    path.parent.mkdir(parents=True, exist_ok=True)
    film.save_as(path, enforce_file_format=True)


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "mimic"
    rows = [(i, p, s, "CHEST", v, 64, 64, d, t, *c) for i, p, s, v, d, t, c, _ in IMAGES]
    table(root / "mimic-cxr-2.0.0-metadata.csv.gz", COLUMNS, rows)
    table(
        root / "mimic-cxr-2.0.0-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], [(i[0], i[2], i[1], i[7]) for i in IMAGES]
    )
    for name, subject, study, view, date, time, _, _ in IMAGES:
        folder = root / "files" / f"p{str(subject)[:2]}" / f"p{subject}"
        dicom(folder / f"s{study}" / f"{name}.dcm", view, date, time, "CHEST, PORTABLE" if name == "f1" else "")
        if study != 50000005:
            (folder / f"s{study}.txt").write_text(REPORT.format(study=study))
    table(
        root / "mimic-iv" / "hosp" / "patients.csv.gz",
        ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"],
        [(10000032, "F", 52, 2178, "2014 - 2016", ""), (10000033, "M", 91, 2149, "2011 - 2013", "")],
    )
    races = [
        (10000032, "UNKNOWN"),
        (10000032, "UNKNOWN"),
        (10000032, "WHITE - BRAZILIAN"),
        (10000032, "WHITE"),
        (10000032, "OTHER"),
        (10000033, "BLACK/CAPE VERDEAN"),
        (10000033, "ASIAN"),
        (10000039, "WHITE"),
    ]
    table(root / "mimic-iv" / "hosp" / "admissions.csv.gz", ["subject_id", "hadm_id", "race"], [(s, 1, r) for s, r in races])
    return root


def rows_of(studies):
    return {row["study_id"]: row for row in studies.table.remove_columns("image")}


def test_everything_seen_is_a_row_or_in_quarantine(archive):
    studies = mimic_cxr.read(archive, size=64)
    rows = rows_of(studies)
    assert (
        studies.counts["seen"] == 7 and studies.counts["rows"] == 5 and studies.counts["split"] == {"test": 2, "train": 2, "validation": 1}
    )
    assert set(studies.quarantine) == {"50000003", "50000005"}
    assert "frontal" in studies.quarantine["50000003"]["reason"] and "s50000005.txt" in studies.quarantine["50000005"]["reason"]
    assert rows["50000001"]["findings"] == "The lungs are clear." and rows["50000001"]["impression"] == "No acute process."
    assert rows["50000001"]["indication"] == "___F with cough of study 50000001." and rows["50000001"]["comparison"] == "None."
    assert studies.table["image"][0].size == (64, 64)


def test_times_order_the_day_and_views_come_from_where_they_are(archive):
    rows = rows_of(mimic_cxr.read(archive, size=64))
    assert rows["50000001"]["prior_study_id"] == "50000002" and rows["50000002"]["prior_study_id"] is None
    assert (rows["50000001"]["study_order"], rows["50000002"]["study_order"]) == (2, 1)
    assert (rows["50000001"]["view"], rows["50000002"]["view"], rows["50000006"]["view"]) == ("PA", "AP", "AP")
    # the study before it has no report and is no row, so it is no prior
    assert rows["50000007"]["prior_study_id"] == "50000006" and rows["50000006"]["prior_study_id"] is None


def test_demographics_through_mimic_iv(archive, tmp_path):
    rows = rows_of(mimic_cxr.read(archive, size=64))
    assert (rows["50000001"]["age"], rows["50000001"]["sex"], rows["50000001"]["race"]) == (54, "female", "white")
    assert (rows["50000004"]["age"], rows["50000004"]["sex"], rows["50000004"]["race"]) == (90, "male", None)  # black and asian: a tie
    assert (rows["50000007"]["age"], rows["50000007"]["sex"]) == (None, None)  # not in MIMIC-IV
    (archive / "mimic-iv").rename(tmp_path / "iv")
    assert mimic_cxr.read(archive, size=64).counts["age_known"] == 0
    assert mimic_cxr.read(archive, size=64, mimic_iv=tmp_path / "iv").counts["age_known"] == 3
    with pytest.raises(StudyError, match="patients"):
        mimic_cxr.read(archive, mimic_iv=archive / "files")


def test_jpg_films_and_zipped_reports_in_other_folders(archive, tmp_path):
    jpg = tmp_path / "jpg"
    for film in sorted(archive.glob("files/p1?/p*/s*/*.dcm")):
        new = (jpg / film.relative_to(archive)).with_suffix(".jpg")
        new.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((SHADES >> 4).astype(np.uint8)).save(new)
    with zipfile.ZipFile(tmp_path / "mimic-cxr-reports.zip", "w") as pack:
        for report in archive.glob("files/p1?/p*/s*.txt"):
            pack.write(report, report.relative_to(archive))
    whole = rows_of(mimic_cxr.read(archive, size=64))
    apart = rows_of(mimic_cxr.read(archive, size=64, images=jpg, reports=tmp_path / "mimic-cxr-reports.zip", num_proc=2))
    assert {k: v["findings"] for k, v in apart.items()} == {k: v["findings"] for k, v in whole.items()}
    assert all(row["image_path"].endswith(".jpg") for row in apart.values())
    assert whole["50000006"]["view"] == "AP" and apart["50000006"]["view"] is None and "view_unknown" in apart["50000006"]["flags"]


def test_headers_serve_where_the_metadata_table_is_missing(archive):
    with_table = rows_of(mimic_cxr.read(archive, size=64))
    (archive / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    without = rows_of(mimic_cxr.read(archive, size=64))
    assert {k: v["prior_study_id"] for k, v in without.items()} == {k: v["prior_study_id"] for k, v in with_table.items()}


def test_records_open_no_pixels_and_mark_the_leaderboards_studies(archive, tmp_path):
    (tmp_path / "rexrank.json").write_text('{"50000007": {"section_impression": NaN}}')
    for film in archive.glob("files/p1?/p*/s*/*.dcm"):
        film.write_bytes(b"")
    records = {r.study_id: r for r in mimic_cxr.records(archive, rexrank=tmp_path / "rexrank.json")}
    assert len(records) == 7 and records["50000001"].findings == "The lungs are clear."
    assert [k for k, r in records.items() if "rexrank_test" in r.flags] == ["50000007"]


@pytest.mark.parametrize("lost, named", [("mimic-cxr-2.0.0-split.csv.gz", "split"), ("files", "reports")])
def test_what_is_missing_is_named(archive, tmp_path, lost, named):
    (archive / lost).rename(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match=named):
        mimic_cxr.read(archive)


def test_wrong_settings_are_named(archive):
    with pytest.raises(StudyError, match="no_such_folder"):
        mimic_cxr.read(archive / "no_such_folder")
    with pytest.raises(StudyError, match="tiff"):
        mimic_cxr.read(archive, release="tiff")
