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
from unirg.data.layouts import LABELS
from unirg.data.sources import read_source
from unirg.data.studies import race

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
    apart = rows_of(mimic_cxr.read(archive, size=64, images=jpg, reports=tmp_path / "mimic-cxr-reports.zip"))
    assert {k: v["findings"] for k, v in apart.items()} == {k: v["findings"] for k, v in whole.items()}
    assert all(row["image_path"].endswith(".jpg") for row in apart.values())
    assert whole["50000006"]["view"] == "AP" and apart["50000006"]["view"] is None and "view_unknown" in apart["50000006"]["flags"]


# the values of MIMIC-IV 2.2's admissions.race
RECORDED = {
    "white": "WHITE|WHITE - BRAZILIAN|WHITE - EASTERN EUROPEAN|WHITE - OTHER EUROPEAN|WHITE - RUSSIAN|PORTUGUESE",
    "black": "BLACK/AFRICAN|BLACK/AFRICAN AMERICAN|BLACK/CAPE VERDEAN|BLACK/CARIBBEAN ISLAND",
    "asian": "ASIAN|ASIAN - ASIAN INDIAN|ASIAN - CHINESE|ASIAN - KOREAN|ASIAN - SOUTH EAST ASIAN",
    "hispanic": "HISPANIC OR LATINO|HISPANIC/LATINO - CENTRAL AMERICAN|HISPANIC/LATINO - COLUMBIAN|HISPANIC/LATINO - CUBAN|"
    "HISPANIC/LATINO - DOMINICAN|HISPANIC/LATINO - GUATEMALAN|HISPANIC/LATINO - HONDURAN|HISPANIC/LATINO - MEXICAN|"
    "HISPANIC/LATINO - PUERTO RICAN|HISPANIC/LATINO - SALVADORAN|SOUTH AMERICAN",
    "other": "OTHER|AMERICAN INDIAN/ALASKA NATIVE|MULTIPLE RACE/ETHNICITY|NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER",
    None: "UNKNOWN|UNABLE TO OBTAIN|PATIENT DECLINED TO ANSWER",
}


@pytest.mark.parametrize(("known", "recorded"), RECORDED.items())
def test_every_recorded_race_has_its_place_in_the_pinned_table(known, recorded):
    assert {race(value) for value in recorded.split("|")} == {known}


def test_encounters_by_hospital_stay(archive):
    stays = [
        (10000034, 1, "OTHER", "2150-01-01 13:00:00", "2150-01-02 13:00:00", "2150-01-01 11:00:00"),
        (10000034, 2, "OTHER", "2149-01-01 13:00:00", "2149-01-02 13:00:00", ""),
        (10000032, 3, "WHITE", "2180-05-06 20:00:00", "2180-05-09 10:00:00", ""),
    ]
    hosp = archive / "mimic-iv" / "hosp"
    table(hosp / "admissions.csv.gz", ["subject_id", "hadm_id", "race", "admittime", "dischtime", "edregtime"], stays)
    people = [(10000032, "F", 52, 2178), (10000033, "M", 91, 2149), (10000034, "M", 40, 2150)]
    table(hosp / "patients.csv.gz", ["subject_id", "gender", "anchor_age", "anchor_year"], people)
    (archive / "files/p10/p10000034/s50000005.txt").write_text(REPORT.format(study=50000005))

    def encounters(**options):
        return {k: r["encounter"] for k, r in rows_of(read_source("mimic_cxr", archive, size=64, **options)).items()}

    whole = encounters()
    assert [whole[s] for s in ("50000002", "50000001", "50000005", "50000006", "50000007")] == [1, 2, 1, 2, 3]
    # 05 at noon came through the emergency department at eleven; 07 at noon of the third is an outpatient's, as is 02 of the morning
    stayed = encounters(encounters="admission")
    assert [stayed[s] for s in ("50000002", "50000001", "50000005", "50000006", "50000007")] == [1, 1, 1, 2, 1]
    # a visit to the emergency department that goes on after the discharge joins the two
    visits = [(10000034, 9, "2150-01-02 12:30:00", "2150-01-03 18:00:00")]
    table(archive / "mimic-iv" / "ed" / "edstays.csv.gz", ["subject_id", "stay_id", "intime", "outtime"], visits)
    stayed = encounters(encounters="admission")
    assert [stayed[s] for s in ("50000005", "50000006", "50000007")] == [1, 2, 3]
    assert encounters(encounters="gap 0.4")["50000001"] == 1 and encounters(encounters="gap 1")["50000001"] == 2


def test_encounters_by_stay_need_stays(archive):
    with pytest.raises(StudyError, match="hospital stays"):
        mimic_cxr.read(archive, size=64, encounters="admission")


def test_a_film_the_header_calls_lateral_is_no_prior(archive):
    folder = archive / "files/p10/p10000034"
    dicom(folder / "s50000006" / "f1.dcm", "", 21500102, 120000.0, "CHEST, LATERAL")
    film = pydicom.dcmread(folder / "s50000006" / "f1.dcm")
    code = Dataset()
    code.CodeMeaning = "lateral"
    film.ViewCodeSequence = [code]
    film.save_as(folder / "s50000006" / "f1.dcm")
    (folder / "s50000005.txt").write_text(REPORT.format(study=50000005))
    studies = mimic_cxr.read(archive, size=64)
    # the study between is set aside, and the frontal one before it is the prior
    assert rows_of(studies)["50000007"]["prior_study_id"] == "50000005" and "LATERAL" in studies.quarantine["50000006"]["reason"]


def test_a_study_the_leaderboard_drops_stays_a_prior(archive, tmp_path):
    (tmp_path / "rexrank.json").write_text('{"50000007": {"section_impression": NaN}}')
    studies = mimic_cxr.read(archive, size=64, rexrank=tmp_path / "rexrank.json")
    row = rows_of(studies)["50000007"]
    assert "rexrank_test" in row["flags"].split(",") and row["prior_study_id"] == "50000006"
    assert studies.counts["reader"] == {"rexrank_studies_listed": 1} and studies.counts["flags"]["rexrank_test"] == 1


def report(archive, text):
    (archive / "files/p10/p10000033/s50000004.txt").write_text(text)
    return mimic_cxr.read(archive, size=64)


FINAL = "                                 FINAL REPORT\n"


LOST = "reading_in_context"


@pytest.mark.parametrize(
    ("text", "context", "findings", "flags"),
    [
        (" INDICATION: Fall.\n \n Both lungs are clear.\n", ("Fall.", None), "Both lungs are clear.", LOST),
        (" HISTORY: Fall.\n \n COMPARISON:  ___.\n \n Effusion.\n \n IMPRESSION: As told.\n", ("Fall.", "___."), "Effusion.", LOST),
        (" COMPARISON:  None. There is an effusion.\n \n IMPRESSION: As told.\n", (None, "None."), "There is an effusion.", LOST),
        (" REASON FOR EXAM: Fall\n and cough.\n \n PORTABLE CHEST: Small effusion.\n", ("Fall\n and cough.", None), "Small effusion.", ""),
        (" INDICATION: Fall.\n \n PFI:  Effusion.\n \n FINDINGS: Clear.\n", ("Fall.", None), "Clear.", ""),
        (" FINDINGS: Clear.\n \n IMPRESSION: Clear.\n\n\n      PFI REPORT\n PFI:  Effusion.\n", (None, None), "Clear.", ""),
        (" STUDY: Chest.\n \n AP view: as before.\n \n Both lungs are clear.\n \n", (None, None), "Both lungs are clear.", LOST),
        (" INDICATION: Fall.\n \n RESIDENT READ: Effusion.\n", ("Fall.", None), None, "provisional_only"),
        (" CHEST, PA\n \n As before.\n", (None, None), None, "last_paragraph"),
    ],
)
def test_where_the_reading_stands(archive, text, context, findings, flags):
    row = rows_of(report(archive, FINAL + text))["50000004"]
    assert (row["indication"], row["comparison"]) == context and row["flags"] == flags
    assert (row["findings"] is None) if findings is None else (findings in row["findings"])


def test_a_report_that_is_no_text_is_set_aside_by_name(archive):
    assert "RTF" in report(archive, r"{\rtf1\ansi FINDINGS: Clear.\par}").quarantine["50000004"]["reason"]


def test_labels(archive):
    order = sorted(LABELS)  # alphabetical, unlike CheXpert's
    values = {"Edema": "1.0", "Fracture": "0.0", "Lung Opacity": "-1.0"}
    rows = [(10000032, 50000001, *(values.get(name, "") for name in order)), (10000034, 50000007, *[""] * 14)]
    table(archive / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", *order], rows)
    told = mimic_cxr.labels(archive)
    assert {k: v for k, v in told["50000001"].items() if v is not None} == {"Edema": 1, "Fracture": 0, "Lung Opacity": -1}
    assert set(told["50000007"].values()) == {None} and "50000004" not in told and list(told["50000001"]) == list(LABELS)
    named = [name.replace("Lung Opacity", "Airspace Opacity") for name in order]
    with (archive / "mimic-cxr-2.1.0-test-set-labeled.csv").open("w") as file:
        file.write(f"study_id,{','.join(named)}\n50000007,{','.join('1.0' if n == 'Airspace Opacity' else '' for n in named)}\n")
    assert mimic_cxr.labels(archive, "radiologist")["50000007"]["Lung Opacity"] == 1
    with pytest.raises(StudyError, match="negbio"):
        mimic_cxr.labels(archive, "negbio")
    with pytest.raises(StudyError, match="guess"):
        mimic_cxr.labels(archive, "guess")


def test_headers_serve_where_the_metadata_table_is_missing(archive):
    with_table = rows_of(mimic_cxr.read(archive, size=64))
    (archive / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    without = rows_of(mimic_cxr.read(archive, size=64))
    assert {k: v["prior_study_id"] for k, v in without.items()} == {k: v["prior_study_id"] for k, v in with_table.items()}


def test_gzipped_films(archive):
    def read(*columns):
        return {study: [row[name] for name in columns] for study, row in rows_of(mimic_cxr.read(archive, size=64)).items()}

    plain, ordered = read("view", "prior_study_id"), read("prior_study_id")
    for film in archive.glob("files/p1?/p*/s*/*.dcm"):
        film.with_suffix(".dcm.gz").write_bytes(gzip.compress(film.read_bytes()))
        film.unlink()
    assert read("view", "prior_study_id") == plain and all(path.endswith(".dcm.gz") for (path,) in read("image_path").values())
    (archive / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    assert read("prior_study_id") == ordered


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
