"""ReXGradient's quirks, in metadata made up here: short lists of views, the word None, DICOM ages, days without times, 16-bit films."""

import json

import numpy as np
import pytest
from PIL import Image

from unirg.core import StudyError
from unirg.data import rexgradient

SHADES = np.tile(np.linspace(0, 4095, 64), (64, 1)).astype(np.uint16)


def entry(patient, accession, date, views, films=1, **more):
    paths = [f"../deid_png/{patient}/{accession}/studies/U/series/S/instances/{n}.png" for n in range(films)]
    return {
        "PatientID": patient, "AccessionNumber": accession, "StudyInstanceUid": "U", "StudyDate": date, "StudyDescription": "XR CHEST",
        "PatientSex": "F", "PatientAge": "062Y",
        "Indication": "Cough.", "Comparison": "None", "Findings": "Lungs are clear.", "Impression": "None",
        "ImagePath": paths, "ImageViewPosition": views, "ImageModality": ["DX"] * films, "ImageBodyPart": ["CHEST"] * films,
        "ImageShape": [[64, 64]] * films, **more,
    }  # fmt: skip


ENTRIES = {
    "train": [
        entry("P1", "A1", 20150301, ["LL", "POSTERO_ANTERIOR"], films=2),
        entry("P1", "A2", 20150101, ["PA"], PatientAge="018M"),
        entry("P1", "A3", 20150301, ["AP"], PatientSex="O", PatientAge=None),  # the day of A1
        entry("P1", "A4", 20150401, ["PA"], PatientAge="002D"),  # two studies on the day before
        entry("P2", "A5", 20150101, ["LATERAL"], films=2),  # one view for two films
        entry("P3", "A6", 20150101, ["LATERAL", "LAO"], films=2),
    ],
    "valid": [entry("P4", "A7", None, None, PatientAge="003W"), entry("P4", "A8", 20150101, ["UNKNOWN"])],
    "test": [entry("P5", "A9", 20150101, [None, "N/A", "ANTERO_POSTERIOR"], films=3), {"Findings": "Nobody's."}],
}


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "metadata").mkdir()
    for split, entries in ENTRIES.items():
        table = {f"p{e.get('PatientID')}_a{e.get('AccessionNumber')}_sU": e for e in entries}
        (tmp_path / "metadata" / f"{split}_metadata_view_position.json").write_text(json.dumps(table))
        (tmp_path / "metadata" / f"{split}_metadata.csv").write_text("id\nnot read\n")
        for one in entries:
            for path in one.get("ImagePath", []):
                film = tmp_path / path.removeprefix("../")
                film.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(SHADES).save(film)
    return tmp_path


def rows_of(studies):
    return {row["study_id"].split("_")[1].removeprefix("a"): row for row in studies.table.remove_columns("image")}


def test_everything_seen_is_a_row_or_in_quarantine(archive):
    studies = rexgradient.read(archive, size=64)
    rows = rows_of(studies)
    assert studies.counts["seen"] == 10 and studies.counts["rows"] == 8
    assert studies.counts["split"] == {"test": 1, "train": 5, "validation": 2}
    assert {reason["reason"] for reason in studies.quarantine.values()} == {
        "the entry has no PatientID", "no frontal film (its films: LATERAL, OTHER)",
    }  # fmt: skip
    assert rows["A1"]["study_id"] == "pP1_aA1_sU"
    assert rows["A1"]["findings"] == "Lungs are clear." and rows["A1"]["impression"] is None
    assert rows["A1"]["comparison"] is None and rows["A1"]["race"] is None
    film = np.asarray(studies.table["image"][0])
    assert film.std() > 50  # scaled, not clipped to white


def test_views_are_never_zipped_blindly(archive):
    rows = rows_of(rexgradient.read(archive, size=64))
    assert rows["A1"]["view"] == "PA" and rows["A1"]["image_path"].endswith("1.png")
    assert rows["A5"]["view"] is None and "view_list_mismatch" in rows["A5"]["flags"]  # not LATERAL of its first film
    assert rows["A7"]["view"] is None and "view_list_mismatch" in rows["A7"]["flags"]
    assert rows["A8"]["view"] is None and rows["A8"]["flags"].split(",").count("view_unknown") == 1
    assert rows["A9"]["view"] == "AP" and rows["A9"]["image_path"].endswith("2.png")


def test_days_order_and_one_day_does_not(archive):
    rows = rows_of(rexgradient.read(archive, size=64))
    assert [rows[a]["prior_study_id"] for a in ("A2", "A1", "A3", "A4")] == [None, "pP1_aA2_sU", "pP1_aA2_sU", None]
    assert "prior_tie" in rows["A4"]["flags"] and rows["A1"]["study_order"] == rows["A3"]["study_order"] == 2
    assert rows["A8"]["prior_study_id"] is None and "order_unknown" in rows["A8"]["flags"]  # a study of the patient has no date


def test_what_is_no_list_and_no_date(archive):
    table = archive / "metadata" / "valid_metadata_view_position.json"
    odd = entry("P4", "A7", "20150231", float("nan"))  # a date that never was, and NaN where a list belongs
    holed = entry("P6", "B1", 20150101.0, ["PA", None, "LATERAL"], films=3)
    holed["ImagePath"][1] = None
    none = entry("P7", "B2", 20150101, ["PA"], ImagePath=float("nan"))
    table.write_text(json.dumps({e["AccessionNumber"]: e for e in (odd, holed, none)}))
    records = {r.study_id.split("_")[1]: r for r in rexgradient.records(archive, splits="valid")}
    assert records["aA7"].order_key is None and records["aA7"].images[0].view is None and "view_list_mismatch" in records["aA7"].flags
    assert [film.view for film in records["aB1"].images] == ["PA", "LATERAL"] and "view_list_mismatch" in records["aB1"].flags
    assert records["aB1"].order_key is not None and records["aB2"].images == []


def test_encounters_by_gap_of_days(archive):
    rows = rows_of(rexgradient.read(archive, size=64, encounters="gap 40"))
    assert [rows[name]["encounter"] for name in ("A2", "A1", "A3", "A4")] == [1, 1, 1, 2]


def test_ages_and_sexes(archive):
    rows = rows_of(rexgradient.read(archive, size=64))
    ages = {name: row["age"] and round(row["age"], 3) for name, row in rows.items()}
    assert [ages[name] for name in ("A1", "A2", "A3", "A4", "A7")] == [62, 1.5, None, 0.005, 0.057]
    assert rows["A1"]["sex"] == "female" and rows["A3"]["sex"] is None


def test_films_elsewhere_and_one_split_alone(archive, tmp_path):
    (archive / "deid_png").rename(tmp_path / "films")
    (tmp_path / "disk").mkdir()
    (tmp_path / "films").rename(tmp_path / "disk" / "deid_png")
    assert rexgradient.read(archive, size=64, images=tmp_path / "disk", splits="valid").counts["rows"] == 2


def test_splits_that_are_asked_for_are_read_or_named(archive):
    assert rexgradient.read(archive, size=64, splits="test, validation").counts["split"] == {"test": 1, "validation": 2}
    with pytest.raises(StudyError, match="'holdout'"):
        rexgradient.read(archive, size=64, splits="holdout")
    (archive / "metadata" / "valid_metadata_view_position.json").unlink()
    assert rexgradient.read(archive, size=64).counts["split"] == {"test": 1, "train": 5}
    with pytest.raises(StudyError, match="valid_metadata_view_position"):
        rexgradient.read(archive, size=64, splits="train valid")


def test_damage_is_named(archive):
    table = archive / "metadata" / "test_metadata_view_position.json"
    table.write_text(table.read_text()[:-40])
    with pytest.raises(StudyError, match="test_metadata_view_position"):
        rexgradient.read(archive, size=64)
    with pytest.raises(StudyError, match="metadata"):
        rexgradient.read(archive / "deid_png")
