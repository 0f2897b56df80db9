"What hospitals' exports do to ids, dates, views and reports: each is right, asked about, or set aside by its line; and rows add up."

import base64
import datetime

import pydicom
import pytest
from PIL import Image

from unirg.core import StudyError
from unirg.data.sources import read_source
from unirg.data.table import order_keys, records, spelt_alike

NAMES = "abcdefg"


@pytest.fixture
def given(tmp_path):
    for name in NAMES:
        Image.linear_gradient("L").save(tmp_path / f"{name}.png")

    def read(rows, head="file,mrn,report", **options):
        (tmp_path / "t.csv").write_text(f"{head}\n{rows}", encoding="utf-8")
        mapping = {name: name for name in ("study_id", "view", "sex", "race", "age", "order", "split") if name in head.split(",")}
        mapping |= {"patient_id": "mrn"} if "mrn" in head else {}
        mapping |= {"report": "report"} if "report" in head else {}
        usual = {"unreadable_limit": 1, "table": "t.csv", "image": "file", "size": 32}
        return read_source("table", tmp_path, **{**usual, **mapping, **options})

    read.root = tmp_path
    return read


def rows_of(studies):
    return list(studies.table.remove_columns("image"))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ("9.87654E+11 9.87654E+11", "line 2: 'mrn' is '9.87654E.11': a number that a spreadsheet rounded"),
        ("17 1.2e+05", "line 3: 'mrn' is '1.2e.05'"),
        ("17 1.23E12", "line 3: 'mrn'"),
        ("17 1E+16", "line 3: 'mrn'"),
        ("17 1352171357E+5", "line 3: 'mrn' is '1352171357E.5': a number that a spreadsheet rounded"),
        ("12345E+4 17", "line 2: 'mrn'"),
        ("17 135217e+9", "line 3: 'mrn'"),
        ("17 +98E+07", "line 3: 'mrn'"),
        ("17 12.345.678E+4", "line 3: 'mrn'"),
        ("7 007", "'patient_id' is '007' in line 3 and '7' in line 2: one id in two spellings"),
        ("P7 p7", "in two spellings"),
        ("P-7 P7", "in two spellings"),
        ("P_07 P7", "in two spellings"),
        ("A12/3 A12-3", "in two spellings"),
        ("A7 7.0 7", "'7' in line 4 and '7.0' in line 3"),
        ("1-Feb 3-17", "line 2: 'mrn' is '1-Feb': an id that a spreadsheet took for a date"),
        ("3-17 Mar-12", "line 3: 'mrn' is 'Mar-12'"),
        ("3-17 01.Mai", "line 3: 'mrn' is '01.Mai'"),
        ("1234567890123450 1234567890123460", "line 2.*zeros behind the 15th digit"),
        ("123456789012345000 7", "line 2.*zeros behind the 15th digit"),
        ("７ 7", "in two spellings"),
    ],
)
def test_ids_that_a_spreadsheet_or_two_hands_wrote_are_asked_about(given, ids, message):
    rows = "".join(f"{NAMES[i]}.png,{one},Clear.\n" for i, one in enumerate(ids.split()))
    with pytest.raises(StudyError, match=message):
        given(rows)
    taken = given(rows, ids="as written")
    assert taken.counts["rows"] == len(ids.split()) and taken.counts["patients"] == len(set(ids.split()))


@pytest.mark.parametrize(
    ("ids", "patients"),
    [
        ("7|7.0|7", ["7", "7", "7"]),
        ("7,00|8,0", ["7", "8"]),
        ("007|007.0", ["007", "007"]),
        ("'007|007", ["007", "007"]),
        (' P7 |P7\u200b|\ufeffP7|P7\xa0', ["P7"] * 4),
        ("12e45678|042f06a9|1e5", ["12e45678", "042f06a9", "1e5"]),
        ("1-23|12-3", ["1-23", "12-3"]),
        ("a_1|a_11", ["a_1", "a_11"]),
        ("1234567890123456|1234567890123450", ["1234567890123456", "1234567890123450"]),
        ("0|1", ["0", "1"]),
        ("ANON1|ANON2", ["ANON1", "ANON2"]),
        ("ANONYMOUS|anonymous", [None, None]),
        ("XXXX|xxx", [None, None]),
        ("UNKNOWN|N/A|#N/A|-", [None, None, None]),
        ("0|0", [None, None]),
        ("9999999|9999999", [None, None]),
        ("Test Patient|dummy", [None, None]),
    ],
)
def test_ids_that_are_what_they_are(given, ids, patients):
    rows = "".join(f'{NAMES[i]}.png,"{one}",Clear.\n' for i, one in enumerate(ids.split("|")))
    studies = given(rows)
    assert [row["patient_id"] for row in rows_of(studies)][: len(patients)] == patients
    assert all(("patient_unnamed" in row["flags"]) == (row["patient_id"] is None) for row in rows_of(studies))
    assert all(row["prior_study_id"] is None for row in rows_of(studies) if row["patient_id"] is None)


@pytest.mark.parametrize(
    ("ids", "patients", "said"),
    [
        ("NA|NA|XY", [None, None, "XY"], {"NA": 2}),
        ("NULL|null|7", [None, None, "7"], {"NULL": 1, "null": 1}),
        ("unknown|Unknown.|7", [None, None, "7"], {"Unknown.": 1, "unknown": 1}),
        ("Nan|None|-", [None, None, None], {"-": 1, "Nan": 1, "None": 1}),
        ("ANONYMOUS|ANONYMOUS|7", [None, None, "7"], {"ANONYMOUS": 2}),
        ("n/a|7|8", [None, "7", "8"], {"n/a": 1}),
        ("||7", [None, None, "7"], None),
        ("5|6|7", ["5", "6", "7"], None),
    ],
)
def test_rows_without_a_patient_are_counted_and_so_are_the_words_that_stood_there(given, ids, patients, said):
    studies = given("".join(f"{NAMES[i]}.png,{one},Clear.\n" for i, one in enumerate(ids.split("|"))))
    assert [row["patient_id"] for row in rows_of(studies)] == patients
    assert studies.counts["patients_unknown"] == patients.count(None)
    assert studies.counts["not_understood"] == ({"patient_id": said} if said else {})


def test_a_row_that_names_the_patient_of_its_study_is_enough(given):
    studies = given("a.png,NA,S,Clear.\nb.png,7,S,Clear.\n", "file,mrn,study_id,report")
    assert studies.counts["patients_unknown"] == 0 and studies.counts["not_understood"] == {}


def test_a_wrapped_id_is_unwrapped(given):
    assert [row["patient_id"] for row in rows_of(given('a.png,"=""007""",Clear.\nb.png,="007",Clear.\n'))] == ["007", "007"]


def test_film_and_study_ids_are_looked_at_too(given):
    with pytest.raises(StudyError, match=r"'study_id' is '1.2346E\+08'|line 2: 'study_id' is '1.2346E"):
        given("a.png,1,1.2346E+08\nb.png,1,1.2346E+08\n", "file,mrn,study_id")
    with pytest.raises(StudyError, match=r"'file' is '1\.2E.11'"):
        given("1.2E+11,1,x\n", image="{file}.png")
    for name in ("7", "8"):
        Image.linear_gradient("L").save(given.root / f"{name}.png")
    assert [row["image_path"] for row in rows_of(given("7.0,1,x\n8.0,2,x\n", image="{file}.png"))] == ["7.png", "8.png"]


@pytest.mark.parametrize("study", ["N/A", "XXXX", "", "ANONYMOUS"])
def test_a_study_id_that_stands_for_none_joins_nothing(given, study):
    studies = given(f"a.png,1,{study},Clear.\nb.png,2,{study},Large effusion.\n", "file,mrn,study_id,report")
    assert [row["findings"] for row in rows_of(studies)] == ["Clear.", "Large effusion."]
    assert all("study_unnamed" in row["flags"] for row in rows_of(studies))


def test_a_study_of_very_many_rows_and_a_patient_of_very_many_studies(given):
    many = "".join(f"f{i}.png,1,A,Clear.\n" for i in range(60))
    studies = given(f"{many}a.png,2,B,Clear.\n", "file,mrn,study_id,report", pixels=False)
    assert studies.quarantine["A"]["reason"] == "an id that stands for many studies: it has 60 rows"
    rows = "".join(f"f{i}.png,{'crowd' if i else 'one'},{i},Clear.\n" for i in range(250))
    studies = given(rows, "file,mrn,order,report", pixels=False)
    assert studies.counts["flags"] == {"patient_of_many": 249} and studies.counts["with_prior"] == 0
    assert studies.counts["patients"] == 2  # the id stays, for the guard against a patient in two splits


DATES = {
    "20200131 20200201": ("2020-01-31", "2020-02-01"),
    "20200131.0 20200201.0": ("2020-01-31", "2020-02-01"),
    "20200131083000 20200201083000": ("2020-01-31 08:30", "2020-02-01 08:30"),
    "202001310830 202002010830": ("2020-01-31 08:30", "2020-02-01 08:30"),
    "20200131083000.123 20200201083000.5": ("2020-01-31 08:30", "2020-02-01 08:30"),
    "2020-01-31 2020-02-01": ("2020-01-31", "2020-02-01"),
    "2020/1/31 2020/2/1": ("2020-01-31", "2020-02-01"),
    "31.01.2020 01.02.2020": ("2020-01-31", "2020-02-01"),
    "31/01/2020 01/02/2020": ("2020-01-31", "2020-02-01"),  # 31 cannot be a month
    "01/31/2020 02/01/2020": ("2020-01-31", "2020-02-01"),
    "31-01-2020 01-02-2020": ("2020-01-31", "2020-02-01"),
    "31-Jan-2020 01-Feb-2020": ("2020-01-31", "2020-02-01"),
    "31JAN2020 01FEB2020": ("2020-01-31", "2020-02-01"),
    "31-JAN-20 01-FEB-20": ("2020-01-31", "2020-02-01"),
    "31.Mai.2020 01.Dezember.2020": ("2020-05-31", "2020-12-01"),
    "2020-01-31T08:30:00 2020-02-01T08:30": ("2020-01-31 08:30", "2020-02-01 08:30"),
    "20200131T83000.875 20200201T083000": ("2020-01-31 08:30", "2020-02-01 08:30"),  # StudyDate and StudyTime, whose zero was lost
    "20200131T083000 20200201T083000": ("2020-01-31 08:30", "2020-02-01 08:30"),
    "2020-01-31T08:30 2020-02-01": ("2020-01-31", "2020-02-01"),  # some without a time of day: days
    "21800506 21810102": ("2180-05-06", "2181-01-02"),  # shifted into another century
}


@pytest.mark.parametrize(("cells", "days"), DATES.items())
def test_dates(cells, days):
    assert order_keys(cells.split(), "t.csv") == [datetime.datetime.fromisoformat(day) for day in days]


NUMBERS = {"3 -1": [3, -1], "43860 43862.5": [43860, 43862.5], "1,5 2": [1.5, 2], "2019 2020": [2019, 2020]}


@pytest.mark.parametrize(("cells", "numbers"), NUMBERS.items())
def test_numbers_are_days_and_years_are_not(given, cells, numbers):
    keys = order_keys(cells.split(), "t.csv")
    assert keys == numbers and {type(key) for key in keys} == ({int} if "2019" in cells else {float})


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("2020-01-31 2020-02-01 31.03.2020", "line 4: 'order' is '31.03.2020', which is not a date such as 2020-01-31, while most"),
        ("31.03.2020 2020-01-31 2020-02-01", "line 2: 'order' is '31.03.2020', which is not a date such as 2020-01-31"),
        ("20200131 20200231", "line 3: 'order' is '20200231', which is not a date such as 20200131"),
        ("20200131 20200231 20201301", "line 3: 'order' is '20200231'"),
        ("20200131 20200201083000", "line 3: 'order'"),
        ("20200131 2020-02-01", "line 3: 'order'"),
        ("03/04/2020 05/06/2020", "may be days and months or months and days: say date_form = %d/%m/%Y or"),
        ("31/01/2020 02/28/2020", "line 3: 'order' is '02/28/2020'"),
        ("3 5 soon", "line 4: 'order' is 'soon', which is neither a number nor a date, while most of the column is a number"),
        ("3 2020-01-31 5", "line 3: 'order' is '2020-01-31', which is not a number"),
        ("31.01.20 01.02.20", "line 2: 'order' is '31.01.20'.*date_form"),
        ("2020-01-31T08:30Z 2020-02-01T08:30", "line 3: 'order'"),
        ("1_000 2", "line 2: 'order' is '1_000'"),
        ("inf 2", "line 2: 'order' is 'inf'"),
    ],
)
def test_orders_of_two_kinds_name_the_odd_cell(cells, message):
    with pytest.raises(StudyError, match=message):
        order_keys(cells.split(), "t.csv")


def test_a_date_s_form_may_be_said(given):
    head, rows = "file,mrn,order", "a.png,7,03/04/20\nb.png,7,01/05/20\n"
    with pytest.raises(StudyError, match="date_form"):
        given(rows, head)
    assert [row["prior_study_id"] for row in rows_of(given(rows, head, date_form="%d/%m/%y"))] == [None, "a.png"]
    mixed = "a.png,7,03.04.2020\nb.png,7,2020-04-02\n"
    assert [row["prior_study_id"] for row in rows_of(given(mixed, head, date_form="%d.%m.%Y | %Y-%m-%d"))] == ["b.png", None]
    with pytest.raises(StudyError, match=r"line 3: 'order' is '2020-04-02', which is not of the form that date_form gives: %d.%m.%Y"):
        given(mixed, head, date_form="%d.%m.%Y")
    with pytest.raises(StudyError, match=r"line 2: 'order' is '2.02001E\+13', a number that a spreadsheet rounded"):
        given("a.png,7,2.02001E+13\n", head)


def test_days_between_dates_are_days_and_dates_that_are_none_are_unknown(given):
    head = "file,mrn,order"
    for days in ("20200130 20200201", "20200130.0 20200201.0", "20200130080000 20200201080000", "30.01.2020 01.02.2020"):
        first, second = days.split()
        studies = given(f"a.png,7,{first}\nb.png,7,{second}\n", head, encounters="gap 30")
        assert [row["encounter"] for row in rows_of(studies)] == [1, 2]
    studies = given("a.png,7,2020-01-30\nb.png,7,0000-00-00\nc.png,8,1900-01-01\n", head)
    assert [row["study_order"] for row in rows_of(studies)] == [None] * 3
    assert studies.counts["not_understood"] == {"order": {"####-##-##": 2}}
    with pytest.raises(StudyError, match="need dates"):
        given("a.png,7,2019\nb.png,7,2020\n", head, encounters="gap 30")


def test_what_is_stated_and_not_understood_is_counted_and_can_be_named(given):
    head = "file,mrn,study_id,view,sex,race,age"
    rows = "a.png,1,A,Thorax 2,1,W,50-60\nb.png,1,A,Thorax 1,1,W,\nc.png,2,B,Lateral view,2,Klingon,90+\nd.png,2,B,erect,2,,6 months\n"
    studies = given(rows, head)
    assert studies.counts["not_understood"] == {
        "age": {"50-60": 1}, "race": {"Klingon": 1, "W": 1}, "sex": {"1": 1, "2": 1}, "view": {"Thorax 1": 1, "Thorax 2": 1},
    }  # fmt: skip
    assert [(row["study_id"], row["view"], row["image_path"], row["flags"]) for row in rows_of(studies)] == [
        ("A", "UNCLEAR", "a.png", "view_not_understood"), ("B", None, "d.png", "rows_disagree,view_unknown"),
    ]  # fmt: skip
    words = {"views": "LATERAL: thorax 2 | PA: thorax 1", "sexes": "female: 2 | male: 1"}
    studies = given(rows, head, **words, races="white: W | unknown: klingon", ages="55: 50-60")
    assert studies.counts["not_understood"] == {} and studies.counts["sex"] == {"female": 1, "male": 1}
    first = rows_of(studies)[0]
    assert (first["view"], first["image_path"], first["age"], first["race"]) == ("PA", "b.png", 55, "white")


def test_an_m_beside_an_h_may_be_a_mujer(given):
    both = {"male": 1, "female": 1}
    for letters, understood in (("M H", {}), ("M V", {}), ("M F", both), ("H F M", both), ("M W", both)):
        rows = "".join(f"{NAMES[i]}.png,{i + 1},{letter}\n" for i, letter in enumerate(letters.split()))
        counts = given(rows, "file,mrn,sex").counts
        assert {name: n for name, n in counts["sex"].items() if name != "unknown"} == understood
    counts = given("a.png,1,M\nb.png,2,H\n", "file,mrn,sex", sexes="female: M | male: H").counts
    assert counts["sex"] == {"female": 1, "male": 1}


def dicom(path, **header):
    one = pydicom.Dataset()
    for name, value in header.items():
        setattr(one, name, value)
    one.save_as(path, implicit_vr=True, little_endian=True)


@pytest.mark.parametrize("said", ["", "Thorax 7", "erect"])
def test_headers_are_asked_where_the_table_is_silent(given, said):
    for name, position in (("ll", "LL"), ("pa", "PA"), ("rlo", "RLO"), ("none", "")):
        dicom(given.root / f"{name}.dcm", ViewPosition=position)
    head = "file,mrn,study_id,view"
    studies = list(records(given.root, **write(given.root, head, f"ll.dcm,1,A,{said}\nrlo.dcm,1,A,{said}\npa.dcm,1,A,{said}\n")))
    assert studies[0].key_image().path == "pa.dcm" and [film.view for film in studies[0].images] == ["LATERAL", "OTHER", "PA"]
    dicom(given.root / "lat.dcm", SeriesDescription="Thorax seitlich")
    dicom(given.root / "chest.dcm", SeriesDescription="Thorax in 2 Ebenen")
    studies = list(records(given.root, **write(given.root, head, f"lat.dcm,1,A,{said}\nchest.dcm,1,A,{said}\n")))
    assert [film.view for film in studies[0].images] == ["LATERAL", None]
    studies = list(records(given.root, **write(given.root, head, "ll.dcm,1,A,AP\npa.dcm,1,A,\n")))
    assert studies[0].key_image().path == "ll.dcm"  # the table says so: no header is asked


def write(root, head, rows):
    (root / "t.csv").write_text(f"{head}\n{rows}")
    return {"table": "t.csv", "image": "file", "patient_id": "mrn", "study_id": "study_id", "view": "view"}


def test_films_of_several_suffixes(given):
    for name in ("x.dcm", "y.PNG", "z", "films/q.jpeg"):
        (given.root / name).parent.mkdir(exist_ok=True)
        (given.root / name).touch()

    def paths(rows, image):
        (given.root / "t.csv").write_text(f"file,kind\n{rows}")
        return [record.images[0].path for record in records(given.root, table="t.csv", image=image)]

    assert paths("a,1\nx,1\ny,1\nz,1\ngone,1\n", "{file}") == ["a.png", "x.dcm", "y.PNG", "z", "gone"]
    assert paths("a,1\nx,1\ngone,1\n", "{file}.dcm | {file}.png") == ["a.png", "x.dcm", "gone.dcm"]
    assert paths("films\\q.jpeg,1\n", "file") == ["films/q.jpeg"]
    assert paths("a,png\nx,dcm\n", "{file}.{kind}") == ["a.png", "x.dcm"]
    with pytest.raises(StudyError, match=r"columns are taken as they stand, so write \{file\}"):
        paths("7,1\n", "{file:05}.png")


def test_rows_add_up_with_what_became_of_them(given):
    head = "file,mrn,study_id,report"
    rows = "a.png,1,A,Clear.\n\nb.png,1,A,\nc.png,2,B,Clear, no effusion\nfile,mrn,study_id,report\n,,,\n"
    studies = given(f"{rows}d.png,#REF!,C,Clear.\n,Total,,4\ne.png,3,A2,Clear.\n", head)
    assert studies.counts["table_rows"] == {
        "of": "rows of t.csv", "read": 9, "studies": 2, "further rows of a study": 1, "empty rows": 2, "repeated headers": 1,
        "quarantined rows": 3,
    }  # fmt: skip
    assert {name: line["reason"] for name, line in studies.quarantine.items()} == {
        "line 5 of t.csv": "a row of 5 cells where the header has 4: line 5 of t.csv",
        "line 8 of t.csv": "a spreadsheet's error instead of an id: line 8 of t.csv, 'mrn' is #REF!",
        "line 9 of t.csv": "a total, and no study: line 9 of t.csv",
    }


def test_rows_of_a_study_need_not_stand_together(given):
    rows = "a.png,1,A,,PA\nb.png,2,B,Clear.,PA\nc.png,1,A,Small effusion.,lateral\n"
    first, second = rows_of(given(rows, "file,mrn,study_id,report,view"))
    assert (first["study_id"], first["findings"], second["study_id"]) == ("A", "Small effusion.", "B")


def test_a_column_that_is_there_twice_and_a_header_further_down(given):
    with pytest.raises(StudyError, match="2 columns 'report', which 'report' asks for"):
        given("a.png,1,Large effusion.,\n", "file,mrn,report,report ")
    assert given("a.png,1,Clear.,x,y\n", "file,mrn,report,note,note").counts["rows"] == 1
    (given.root / "t.csv").write_text("Export of our films\n\nfile,mrn\na.png,1\n")
    with pytest.raises(StudyError, match=r"no column 'file'.*Line 3 has it: remove the lines before the header"):
        list(records(given.root, table="t.csv", image="file", patient_id="mrn"))


def test_headers_of_a_section_can_be_named(given):
    report = '"BEFUND: Kleiner Erguss.\nRESUMEE: Erguss."'
    studies = given(f"a.png,1,{report}\n", findings_headers="befund", impression_headers="resumee, fazit")
    assert [(row["findings"], row["impression"]) for row in rows_of(studies)] == [("Kleiner Erguss.", "Erguss.")]
    with pytest.raises(StudyError, match="there is no section 'imprssion'"):
        given(f"a.png,1,{report}\n", imprssion_headers="resumee")
    with pytest.raises(StudyError, match="reports of 'rexrank' come in sections"):
        read_source("rexrank", given.root, impression_headers="resumee")


def test_nothing_usable_is_an_error_that_says_where_it_looked(given):
    with pytest.raises(StudyError, match=rf"none of 2 studies can be used: file is missing \(2\)\. Looked in {given.root}"):
        given("x.png,1,Clear.\ny.png,2,Clear.\n")
    with pytest.raises(StudyError, match=r"3 of 5 films or rows cannot be read; unreadable_limit is 0\.5"):
        given("a.png,1,x\nb.png,2,x\nx.png,3,x\ny.png,4,x\nz.png,5,x\n", unreadable_limit=0.5)
    assert given("x.png,1,Clear.\n", pixels=False).counts["rows"] == 1  # text alone needs no film


def test_spellings_are_asked_about_only_where_they_may_be_one():
    alike = [("7", "07"), ("MRN 7", "mrn7"), ("O'Brien", "OBRIEN"), ("1,234", "1234"), ("7-01", "7-1")]
    assert all(spelt_alike(*pair) for pair in alike)
    others = [("7", "7"), ("7", "70"), ("1-23", "12-3"), ("1.2.84", "1.28.4"), ("A7", "B7"), ("7a", "7b")]
    assert not any(spelt_alike(*pair) for pair in others)


def test_a_column_in_base64_is_decoded_or_set_aside(given):
    good, bad = (base64.b64encode(data).decode() for data in (b"Small left effusion.", bytes(range(200))))
    mapping = {"findings": "findings", "impression": "impression"}
    rows = f"a.png,1,{good},Clear.\nb.png,2,{bad},Clear.\nc.png,3,Clear.,{bad}\nd.png,4,Clear.,Normal.\n"
    studies = given(rows, "file,mrn,findings,impression", **mapping)
    assert [row["findings"] for row in rows_of(studies)] == ["Small left effusion.", "Clear."]
    assert [entry["reason"][:24] for entry in studies.quarantine.values()] == ["the report is base64, no"] * 2


def test_a_report_in_base64_is_set_aside_where_it_is_no_text(given):
    good, bad = (base64.b64encode(data).decode() for data in (b"FINDINGS: Clear.\nIMPRESSION: Normal.", bytes(range(200))))
    studies = given(f"a.png,1,{good}\nb.png,2,{bad}\n")
    assert [(row["findings"], row["impression"]) for row in rows_of(studies)] == [("Clear.", "Normal.")]
    assert len(studies.quarantine) == 1 and studies.counts["rows"] == 1
