"A hospital's own table, and the real cases of ../shared/real_data through the mapping of settings.ini."

import csv
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from unirg.core import StudyError, study_root
from unirg.data.table import FIELDS, read, records

REAL = study_root(Path(__file__).parent).parent / "shared/real_data/covid_cxr_cases"
COVID = {
    "table": "metadata.csv",
    "image": "images/{filename}",
    "patient_id": "patientid",
    "study_id": "{patientid}_{filename}",
    "order": "offset",
    "report": "clinical_notes",
    "sex": "sex",
    "age": "age",
    "view": "view",
}


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        Image.linear_gradient("L").save(tmp_path / "a.png")
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        return tmp_path

    return write


def test_fields_and_vocabulary(table):
    root = table(
        "file,who,when,note,ind,years,gender,ethnic,pos,part,site\n"
        'a.png,7,2020-03-01,"FINDINGS: Clear.\nIMPRESSION: Normal.",Cough,034Y,F,Asian,AP Supine,valid,North\n'
        "a.png,7,2020-02-01,,,,,,,train,South\n"
    )
    done = read(
        root, size=64, table="t.csv", image="file", study_id="{who}-{when}", patient_id="who", order="when", report="note",
        indication="ind", age="years", sex="gender", race="ethnic", view="pos", split="part", institution="site", source="ours",
    )  # fmt: skip
    row = done.table[0]
    assert (row["findings"], row["impression"], row["indication"]) == ("Clear.", "Normal.", "Cough")
    assert (row["age"], row["sex"], row["race"], row["view"], row["split"]) == (34, "female", "asian", "AP", "validation")
    assert row["source"] == "ours" and done.table["institution"][:] == ["North", "South"]
    assert done.table[1]["flags"] == "patient_in_two_splits,view_unknown"
    assert done.counts["sections"]["neither"] == 1  # a row without a report is still a row


def test_columns_dict_and_single_values(table):
    root = table("file;note\na.png;Alles frei, keine Ergüsse.\n", "cp1252")
    done = read(root, size=64, table="t.csv", columns={"image": "{file}", "report": "note"}, split="train", institution="St. Anna")
    row = done.table[0]
    assert row["findings"] == "Alles frei, keine Ergüsse." and row["split"] == "train" and row["institution"] == "St. Anna"
    assert row["study_id"] == "a.png" and row["patient_id"] is None and row["prior_study_id"] is None


def test_an_order_that_falls_and_encounters(table):
    root = table("file,who,off,stay,when\na.png,1,0,A,2020-01-01\nb.png,1,-2,A,2020-01-31\nc.png,1,3,,2020-03-03\n")
    mapping = {"table": "t.csv", "image": "file", "patient_id": "who", "admission": "stay", "pixels": False}

    def of(column, **options):
        return dict(zip(("a", "b", "c"), read(root, **mapping, **options).table[column][:], strict=True))

    assert of("prior_study_id", order="off") == {"a": "b.png", "b": None, "c": "a.png"}
    assert of("prior_study_id", order="-off") == of("prior_study_id", order="-{off}") == {"a": "c.png", "b": "a.png", "c": None}
    assert of("encounter", order="-off", encounters="gap 2") == {"a": 1, "b": 2, "c": 1}
    assert of("encounter", order="when", encounters="gap 30") == {"a": 1, "b": 2, "c": 1}
    assert of("encounter", order="when", encounters="admission") == {"a": 1, "b": 2, "c": None}
    with pytest.raises(StudyError, match="'order' holds dates"):
        of("encounter", order="-when")
    with pytest.raises(StudyError, match="no column 'age'"):
        of("encounter", order="-age")


def test_several_films_a_study(table):
    root = table("study,file,view,sex,who\ns1,lat.png,L,,1\ns1,a.png,PA,M,1\ns2,a.png,PA,M,2\ns2,a.png,PA,F,3\ns3,,PA,F,4\n")
    done = read(root, size=64, table="t.csv", image="file", study_id="study", view="view", sex="sex", patient_id="who")
    assert done.table["image_path"][:] == ["a.png"] and done.table["sex"][:] == ["male"]
    assert {k: v["reason"] for k, v in done.quarantine.items()} == {"s2": "its rows name two patients: 2, 3", "s3": "no film"}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"image": "nofile"}, "no column 'nofile', which 'image' asks for; it has: file, day"),
        ({"image": "x/{file}/{y}"}, "no column 'y'"),
        ({"image": "{file"}, "image"),
        ({"age": "day"}, "'image' is not set"),
        ({"image": "file", "sexx": "day"}, "no setting 'sexx'"),
        ({"image": "file", "order": "day"}, "'soon', which is neither a number nor a date"),
        ({"image": "file", "split": "holdout"}, "split is 'holdout'"),
    ],
)
def test_wrong_mappings_name_the_culprit(table, mapping, message):
    root = table("file,day\na.png,3\na.png,soon\n")
    with pytest.raises(StudyError, match=message):
        list(records(root, table="t.csv", **mapping))


def test_missing_things(table, tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        read(tmp_path / "gone")
    with pytest.raises(StudyError, match="cannot be read"):
        read(tmp_path, table="gone.csv", image="x")
    with pytest.raises(StudyError, match="no rows"):
        read(table("file\n"), table="t.csv", image="file")


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real_data is not here")
def test_real_cases():
    done = read(REAL, **COVID, source="covid_cases", institution="Published cases", size=128)
    with (REAL / "metadata.csv").open(encoding="utf-8", newline="") as file:  # a second, independent count
        lines = list(csv.DictReader(file))
    assert done.counts["seen"] == len(lines) == 55 == done.counts["rows"] and not done.quarantine
    assert done.counts["patients"] == len({line["patientid"] for line in lines}) == 33
    assert done.counts["sections"]["findings"] == sum(bool(line["clinical_notes"].strip()) for line in lines)
    assert done.counts["age_known"] == sum(bool(line["age"]) for line in lines)
    assert done.counts["view"] == {"AP": 17, "PA": 38} and done.counts["split"] == {"test": 55}
    rows = {row["study_id"]: row for row in done.table.remove_columns("image")}
    # offsets are days and may be negative: -5, 0, 2
    assert rows["179_16654_2_1.jpg"]["prior_study_id"] == "179_16654_1_1.png" and rows["179_16654_1_1.png"]["prior_study_id"] is None
    # 30, 210, 240 days, listed in another order
    assert rows["339_000006-17.jpg"]["prior_study_id"] == "339_000001-24.jpg"
    # one of the four studies of 279 has an offset, the others do not: no saying which came first
    assert {rows[s]["flags"] for s in rows if s.startswith("279_")} == {"order_unknown"}


HANNOVER = study_root(Path(__file__).parent).parent / "shared/real_data/hannover_covid19"


@pytest.mark.skipif(not HANNOVER.is_dir(), reason="the Hannover films are not on this machine (../shared/real_data/hannover_covid19)")
def test_hannovers_priors_follow_the_sign_of_its_offset():
    "admission_offset is when the patient was admitted, counted from the film: -5 is five days after admission, so later than -2."
    done = read(
        HANNOVER, size=64, table="data.csv", image="png/{image_id}.png", patient_id="patient_id", study_id="image_id",
        order="-admission_offset", sex="sex", view="projection", source="hannover",
    )  # fmt: skip
    assert done.counts["seen"] == done.counts["rows"] == 179 and done.counts["patients"] == 51
    frame = pd.read_csv(HANNOVER / "data.csv", dtype={"patient_id": str, "image_id": str})
    rows = {row["study_id"]: row for row in done.table.remove_columns("image")}
    ties = 0
    for _, film in frame.iterrows():
        earlier = frame[(frame.patient_id == film.patient_id) & (frame.admission_offset > film.admission_offset)]
        nearest = earlier[earlier.admission_offset == earlier.admission_offset.min()].image_id.tolist()
        row = rows[film.image_id]
        assert row["prior_study_id"] == (nearest[0] if len(nearest) == 1 else None)
        assert ("prior_tie" in row["flags"]) == (len(nearest) > 1)
        ties += len(nearest) > 1
    assert ties > 0 and done.counts["with_prior"] == len(frame) - ties - sum(frame.groupby("patient_id").admission_offset.agg(
        lambda offsets: (offsets == offsets.max()).sum()
    ))  # fmt: skip


def test_every_field_of_the_settings_is_known():
    assert set(COVID) - {"table"} <= set(FIELDS)
