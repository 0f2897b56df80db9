"""IU X-Ray: films under their many names in a collection made up here, and the real reports, counted a second time by another method."""

import csv
import gzip
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from unirg.core import StudyError, study_root
from unirg.data import iu_xray

XML = """<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">{comparison}</AbstractText><AbstractText Label="INDICATION">XXXX-year-old &amp; cough</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION"/></Abstract></Article></MedlineCitation>
{images}</eCitation>"""
IMAGES = {
    "CXR1": ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"],  # the doubled id; the lateral film first
    "CXR2": ["CXR2_IM-0652-1001", "CXR2_IM-0652-2001"],
    "CXR10": ["CXR10_IM-0002-1001"],  # a lateral film alone
    "CXR11": [],
    "CXR12": ["CXR12_IM-0003-1001", "CXR12_IM-0003-1002", "CXR12_IM-0003-2001"],
}
PROJECTIONS = {
    "1_IM-0001-3001": "Lateral",
    "1_IM-0001-4001": "Frontal",
    "2_IM-0652-1001": "Frontal",
    "2_IM-0652-2001": "Lateral",
    "10_IM-0002-1001": "Lateral",
    "12_IM-0003-1001": "Frontal",
    "12_IM-0003-1002": "Lateral",
    "12_IM-0003-2001": "Frontal",
}


def xml(uid):
    images = "".join(f'<parentImage id="{name}"><caption>Chest</caption></parentImage>' for name in IMAGES[uid])
    comparison, findings = {"CXR1": "None.", "CXR2": "None"}.get(uid, ""), "" if uid == "CXR11" else "Clear."
    return XML.format(uid=uid, comparison=comparison, findings=findings, images=images)


def film(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))).convert("RGB").save(path)


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "iu" / "ecgen-radiology"
    folder.mkdir(parents=True)
    for uid in IMAGES:
        (folder / f"{uid[3:]}.xml").write_text(xml(uid))
    with (tmp_path / "iu" / "indiana_projections.csv").open("w") as file:
        file.write("uid,filename,projection\n" + "".join(f"{n.split('_')[0]},{n}.dcm.png,{p}\n" for n, p in PROJECTIONS.items()))
    with gzip.open(tmp_path / "iu" / "nlmcxr_dicom_metadata.csv.gz", "wt") as file:
        file.write("imageid,Patient's Birth Date,Study Date,View Position\n")
        # the header says PA of a lateral film too
        file.write("CXR1_IM-0001-3001,19500601,20110328,PA\nCXR1_IM-0001-4001,19500601,20110328,PA\nCXR2_IM-0652-1001,,20110328,AP\n")
    return tmp_path / "iu"


def rows_of(studies):
    return {row["study_id"]: row for row in studies.table.remove_columns("image")}


@pytest.mark.parametrize("name", ["{}.png", "{short}/{short}.dcm.png", "images/images_normalized/{short}.dcm.png", "NLMCXR_png/{}.png"])
def test_films_by_any_name(collection, name):
    for image in (image for images in IMAGES.values() for image in images):
        film(collection / name.format(image, short=iu_xray.image_name(image)))
    studies = iu_xray.read(collection, size=64)
    rows = rows_of(studies)
    assert studies.counts["seen"] == 5 and set(rows) == {"CXR1", "CXR2", "CXR12"}
    assert studies.quarantine["CXR10"]["reason"] == "no frontal film (its films: LATERAL)"
    assert studies.quarantine["CXR11"]["reason"] == "no film"
    assert (rows["CXR1"]["view"], rows["CXR2"]["view"], rows["CXR12"]["view"]) == ("PA", "AP", "FRONTAL")
    assert "4001" in rows["CXR1"]["image_path"]
    assert (rows["CXR1"]["age"], rows["CXR2"]["age"]) == (60, None)
    assert (rows["CXR1"]["comparison"], rows["CXR2"]["comparison"], rows["CXR12"]["comparison"]) == ("None.", "None", None)
    assert rows["CXR1"]["indication"] == "XXXX-year-old & cough" and rows["CXR1"]["split"] == "test"


def test_r2gens_folders_and_split(collection):
    for folder, numbers in (("CXR1_IM-0001", (0, 1)), ("CXR2_IM-0652", (0, 1)), ("CXR12_IM-0003", (1, 2))):
        for number in numbers:
            film(collection / "images" / folder / f"{number}.png")
    split = {"train": [{"id": "CXR1_IM-0001"}], "val": [{"id": "CXR2_IM-0652"}], "test": [{"id": "CXR12_IM-0003"}]}
    (collection / "annotation.json").write_text(json.dumps(split))
    rows = rows_of(iu_xray.read(collection, size=64))
    assert rows["CXR1"]["image_path"] == "images/CXR1_IM-0001/1.png" and rows["CXR1"]["view"] == "PA"
    assert rows["CXR12"]["view"] is None and "view_list_mismatch" in rows["CXR12"]["flags"]  # 1.png and 2.png of three
    assert [rows[uid]["split"] for uid in ("CXR1", "CXR2", "CXR12")] == ["train", "validation", "test"]
    text = iu_xray.read(collection, pixels=False)
    assert text.counts["rows"] == 5 and text.counts["split"]["unknown"] == 2
    assert iu_xray.read(collection, pixels=False, unlisted="train").counts["split"] == {"test": 1, "train": 3, "validation": 1}
    split["val"].append({"id": "CXR1_IM-0001"})
    (collection / "annotation.json").write_text(json.dumps(split))
    with pytest.raises(StudyError, match="CXR1 "):
        iu_xray.read(collection, pixels=False)


def test_tgz_kaggle_and_damaged_reports(collection):
    folder = collection / "ecgen-radiology"
    (folder / "13.xml").write_text(xml("CXR12")[:200])
    (folder / "14.xml").write_text(xml("CXR12"))
    as_folder = iu_xray.read(collection, pixels=False)
    assert as_folder.quarantine["CXR13"]["reason"].startswith("the report is no XML")
    assert as_folder.counts["seen"] == 7 and as_folder.counts["rows"] == 5
    with tarfile.open(collection / "NLMCXR_reports.tgz", "w:gz") as tar:
        tar.add(folder, "ecgen-radiology")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert rows_of(iu_xray.read(collection, pixels=False)) == rows_of(as_folder)
    assert rows_of(iu_xray.read(collection / "NLMCXR_reports.tgz", pixels=False)) == rows_of(as_folder)
    with (collection / "indiana_reports.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"])
        table.writerows([uid[3:], "", "", "", "XXXX-year-old & cough", "", "Clear.", ""] for uid in ("CXR1", "CXR2"))
    kaggle = rows_of(iu_xray.read(collection, pixels=False, text="kaggle"))
    assert set(kaggle) == {"CXR1", "CXR2"} and kaggle["CXR1"]["view"] == "PA"
    (collection / "NLMCXR_reports.tgz").write_bytes(b"not a tar")
    with pytest.raises(StudyError, match="NLMCXR_reports"):
        iu_xray.read(collection)


def test_films_still_packed_are_named(collection):
    (collection / "NLMCXR_png.tgz").write_bytes(b"")
    with pytest.raises(StudyError, match=r"unpack it.*tar xzf NLMCXR_png\.tgz"):
        iu_xray.read(collection, size=64)
    assert iu_xray.read(collection, pixels=False).counts["rows"] == 5
    film(collection / "CXR2_IM-0652-1001.png")
    assert iu_xray.read(collection, size=64).counts["rows"] == 1


def test_without_projections_the_headers_pa_is_not_believed(collection):
    (collection / "indiana_projections.csv").unlink()
    rows = rows_of(iu_xray.read(collection, pixels=False))
    assert rows["CXR1"]["view"] is None and rows["CXR2"]["view"] == "AP"


def test_no_reports_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="NLMCXR_reports"):
        iu_xray.read(tmp_path)
    with pytest.raises(StudyError, match="pdf"):
        iu_xray.read(tmp_path, text="pdf")


# The real collection

REAL = study_root().parent / "shared" / "real_data" / "iu_xray_text"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real IU X-Ray reports are not on this machine (../shared/real_data/iu_xray_text)")


def second_count():
    "Counts by regular expressions over the raw bytes: no XML parser, none of the reader's code."
    counts = dict.fromkeys([*iu_xray.SECTIONS, "findings_and_impression", "neither", "deidentified", "images", "reports"], 0)
    per_report: dict[str, int] = {}
    with tarfile.open(REAL / "NLMCXR_reports.tgz") as tar:
        for member in tar:
            if not member.name.endswith(".xml"):
                continue
            raw = tar.extractfile(member).read()
            found = re.findall(rb'<AbstractText Label="(\w+)">([^<]*)</AbstractText>', raw)
            text = {label.decode().lower(): body.strip() for label, body in found}
            images = len(re.findall(rb"<parentImage id=", raw))
            both = bool(text.get("findings")), bool(text.get("impression"))
            counts["reports"] += 1
            counts["images"] += images
            counts["findings_and_impression"] += all(both)
            counts["neither"] += not any(both)
            counts["deidentified"] += any(b"XXXX" in body for body in text.values())
            for name in iu_xray.SECTIONS:
                counts[name] += bool(text.get(name))
            per_report[str(images)] = per_report.get(str(images), 0) + 1
    return {**counts, "images_per_report": dict(sorted(per_report.items())), "unreadable": 0}


@real
def test_every_real_report_goes_through_and_a_second_count_agrees():
    studies = iu_xray.read(REAL, pixels=False)
    counts = studies.counts
    assert counts["seen"] == counts["rows"] + counts["quarantined"] == 3955 and counts["rows"] == 3955
    assert counts["reader"] == second_count()
    assert {name: counts["sections"][name] for name in iu_xray.SECTIONS} == {name: counts["reader"][name] for name in iu_xray.SECTIONS}
    assert counts["split"] == {"test": 590, "train": 2069, "unknown": 1000, "validation": 296}
    assert counts["age_known"] == 3851 and counts["reader"]["images_per_report"]["0"] == 104


@real
def test_kaggles_table_has_the_same_text_as_the_xml_but_for_what_a_spreadsheet_took_for_a_formula():
    xml_text = {report.uid: report.sections for report in iu_xray.reports(REAL)}
    kaggle = iu_xray.reports(REAL, "kaggle")
    assert len(kaggle) == 3851
    different = {
        (report.uid, name): text
        for report in kaggle
        for name, text in report.sections.items()
        if (text or "").split() != (xml_text[report.uid][name] or "").split()
    }
    assert different == dict.fromkeys([(uid, "indication") for uid in ("CXR1555", "CXR3477", "CXR3784")])
