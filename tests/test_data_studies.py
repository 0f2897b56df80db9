"One schema, priors that never guess, and counts that add up whatever happens on the way."

import csv
import datetime
import shutil

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unirg.core import StudyError
from unirg.data import shards
from unirg.data.priors import with_priors
from unirg.data.studies import (
    FEATURES,
    StudyImage,
    Record,
    Studies,
    age,
    collect,
    is_frontal,
    link_priors,
    number_encounters,
    race,
    sex,
    split,
    view,
)

COLUMNS = """source institution patient_id study_id study_order encounter split image view indication comparison findings impression
age sex race prior_study_id image_path flags""".split()


def record(study, patient="p", when=None, where="train", films=("PA",), **values):
    named = [StudyImage(f"{study}_{i}.png", v) for i, v in enumerate(films)]
    return Record("demo", study, patient, order_key=when, split=where, images=named, **values)


@pytest.fixture
def films(tmp_path):
    def write(records, bad=()):
        pixels = np.linspace(0, 255, 60 * 40).reshape(60, 40).astype(np.uint8)
        for r in records:
            for film in r.images:
                if r.study_id in bad:
                    (tmp_path / film.path).write_bytes(b"")
                else:
                    Image.fromarray(pixels).save(tmp_path / film.path)
        return tmp_path

    return write


def test_columns_are_the_contract():
    assert list(FEATURES) == COLUMNS


def test_words():
    assert [sex(x) for x in ("M", "female", "Unknown", None, 1)] == ["male", "female", None, None, None]
    known = {"White": "white", "BLACK/CAPE VERDEAN": "black", "ASIAN - CHINESE": "asian", "HISPANIC/LATINO - CUBAN": "hispanic"}
    known |= {"Native American": "other", "PORTUGUESE": "white", "SOUTH AMERICAN": "hispanic", "UNABLE TO OBTAIN": None, "": None}
    assert {word: race(word) for word in known} == known
    assert [view(x) for x in ("PA", "antero-posterior", "left lateral", "Frontal", "LPO", "nonsense", float("nan"))] == [
        *("PA", "AP", "LATERAL", "FRONTAL", "OTHER"), None, None,
    ]  # fmt: skip
    assert [age(x) for x in ("034Y", 34.0, "999Y", "-3", "None", "20-Oct", ">=90")] == [34, 34, None, None, None, None, 90]
    assert round(age("002D"), 4) == 0.0055
    assert [split(x) for x in ("valid", "dev", "TEST", "x")] == ["validation", "validation", "test", None]


def test_priors_do_not_cross_splits_or_use_laterals():
    visits = [record("a", when=1), record("b", when=2, films=("LATERAL",)), record("c", when=3), record("d", when=4, where="test")]
    link_priors(visits)
    assert [v.prior_study_id for v in visits] == [None, "a", "a", None]


def test_unknown_order_gives_no_prior():
    visits = [record("a", when=1), record("b"), record("c", when=3), record("alone", patient="q")]
    link_priors(visits)
    assert [(v.prior_study_id, v.flags, v.study_order) for v in visits] == [(None, "order_unknown", None)] * 3 + [(None, "", None)]


def test_same_day_studies_are_not_ordered():
    visits = [record("a", when=1), record("b", when=5), record("c", when=5), record("d", when=6)]
    link_priors(visits)
    assert [(v.prior_study_id, v.flags) for v in visits] == [(None, ""), ("a", "order_tie"), ("a", "order_tie"), (None, "prior_tie")]


VISIT = st.tuples(
    st.sampled_from(["p", "q"]),
    st.one_of(st.none(), st.integers(0, 4)),
    st.sampled_from(["train", "test"]),
    st.sampled_from(["PA", "AP", "FRONTAL", "LATERAL", "OTHER", None]),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(VISIT, max_size=9), st.booleans())
def test_priors_are_what_their_definition_says(visits, dated):
    "Against a search through all pairs: the one latest frontal study strictly before, of the same patient and split; else none."
    day = {i: datetime.date(2000, 1, 1) + datetime.timedelta(i) if dated else float(i) for i in range(5)}
    made = [
        record(f"s{i}", patient, day.get(when), where, (seen,), fault="no report" if faulty else None)
        for i, (patient, when, where, seen, faulty) in enumerate(visits)
    ]
    link_priors(made)
    for one in made:
        own = [r for r in made if (r.patient_id, r.split) == (one.patient_id, one.split)]
        usable = [r for r in own if r.fault is None and (r.images[0].view is None or is_frontal(r.images[0].view))]
        unknown = any(r.order_key is None for r in own)
        before = [] if unknown else [r for r in usable if r.order_key < one.order_key]
        latest = [r for r in before if all(r.order_key >= other.order_key for other in before)]
        assert one.prior_study_id == (latest[0].study_id if len(latest) == 1 else None)
        assert ("prior_tie" in one.flags) == (len(latest) > 1) and ("order_unknown" in one.flags) == (unknown and len(own) > 1)


def test_encounters_by_patient_admission_and_gap():
    def visits():
        days = [(0, "a", "PA"), (0, "a", "LATERAL"), (10, None, "PA"), (40, "b", "PA"), (71, "b", "PA")]
        made = [record(f"s{i}", when=float(day), films=(seen,), admission=stay) for i, (day, stay, seen) in enumerate(days)]
        return [*made, record("x", patient="q", when=0.0, admission="a"), record("y", patient="r"), record("z", patient="r", when=3.0)]

    expected = {
        "patient": [1, 1, 2, 3, 4, 1, None, None],
        "admission": [1, 1, None, 1, 2, 1, None, None],  # two patients may use one number for a stay
        "gap 30": [1, 1, 2, 3, 1, 1, None, None],  # thirty days are not more than thirty
        "gap 9.5": [1, 1, 1, 1, 1, 1, None, None],
    }
    for by, numbers in expected.items():
        made = visits()
        link_priors(made)
        priors = [v.prior_study_id for v in made]
        number_encounters(made, by)
        assert [v.encounter for v in made] == numbers and [v.prior_study_id for v in made] == priors


@pytest.mark.parametrize(("by", "said"), [("visit", "visit"), ("gap", "gap"), ("gap 3", "dates"), ("admission", "hospital stays")])
def test_encounters_that_cannot_be_told(by, said):
    ordinals = [record("a", when=1), record("b", when=2)]  # a mere order: no days between
    link_priors(ordinals)
    with pytest.raises(StudyError, match=said):
        number_encounters(ordinals, by)


def test_encounters_are_a_setting_of_the_source():
    made = collect("demo", [record("a", when=1.0), record("b", when=99.0)], pixels=False, encounters="gap 30")
    assert made.table["encounter"][:] == [1, 1] and made.table["study_order"][:] == [1, 2]
    assert made.counts["encounters_by"] == "gap 30" and made.counts["encounter"] == {"1": 2}


def test_every_study_is_a_row_or_a_line(films, tmp_path):
    studies = [
        record("good", when=1, findings="Clear."),
        record("bad", when=2),
        record("later", when=3, impression="Normal."),
        record("side", when=4, films=("LATERAL", "OTHER")),
        record("none", when=5, films=()),
        record("known", when=6, fault="its report is missing"),
        record("unsaid", patient="q", films=(None,)),
        record("good", patient="r"),
    ]
    root = films(studies, bad=("bad",))
    done = collect("demo", studies, root=root, size=64, out=tmp_path / "data" / "demo", notes={"lines": 9})
    assert done.table["study_id"][:] == ["good", "later", "unsaid"]
    assert {k: v["reason"] for k, v in done.quarantine.items()} == {
        "bad": "file is empty (0 bytes)",
        "side": "no frontal film (its films: LATERAL, OTHER)",
        "none": "no film",
        "known": "its report is missing",
        "good (2)": "study_id good appears more than once",
    }
    counts = done.counts
    assert counts["seen"] == 8 == counts["rows"] + counts["quarantined"] == 3 + 5
    assert counts["view"] == {"PA": 2, "unknown": 1} and counts["reader"] == {"lines": 9}
    assert counts["sections"]["findings"] == counts["sections"]["impression"] == counts["sections"]["neither"] == 1
    assert done.table["flags"][:] == ["", "prior_unreadable", "view_unknown"] and done.table["prior_study_id"][:] == [None] * 3
    image = done.table[0]["image"]
    assert image.size == (64, 64) and image.mode == "L" and done.table[0]["image_path"] == "good_0.png"
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["demo"]
    with (tmp_path / "data/demo/quarantine.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 5
    again = Studies.load(tmp_path / "data/demo")
    assert again.counts == counts and again.quarantine == done.quarantine and again.source == "demo"
    assert Studies.load(again.save(tmp_path / "copy")).table[0]["study_id"] == "good"


def test_text_only(tmp_path):
    done = collect("demo", [record("a", films=(), findings="Clear.")], pixels=False)
    assert done.counts["rows"] == 1 and done.table[0]["image"] is None and done.table[0]["view"] is None


def test_jobs_and_kills_change_nothing(films, tmp_path, monkeypatch):
    def visits():
        return [record(f"s{i}", patient=f"p{i // 3}", when=i % 3) for i in range(30)]

    root = films(visits(), bad=("s4", "s17"))
    one = collect("demo", visits(), root=root, size=64, shard=4)
    collect("demo", visits(), root=root, size=64, shard=4, step="list", out=tmp_path / "two")
    for part in (2, 1):
        shards.write_shards(shards.listed_in(tmp_path / ".two.shards"), part, 2)
    collect("demo", visits(), root=root, size=64, shard=4, step="join", out=tmp_path / "two")
    real, calls = shards.do_shard, []

    def dies(*args):
        calls.append(args[1])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(shards, "do_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        collect("demo", visits(), root=root, size=64, shard=4, out=tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    collect("demo", visits(), root=root, size=64, shard=4, out=tmp_path / "killed")
    assert calls[3:] == [3, *range(3, 8)]  # the finished three are not done again
    names = sorted(p.name for p in (tmp_path / "two").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "killed").iterdir())
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    two = Studies.load(tmp_path / "two")
    assert two.table.with_format("arrow")[:]["study_id"].to_pylist() == one.table["study_id"][:] and two.quarantine == one.quarantine


def test_another_plan_starts_anew(films, tmp_path):
    root, out = films([record("a")]), tmp_path / "data" / "demo"
    work = tmp_path / "data" / ".demo.shards"
    work.mkdir(parents=True)
    (work / "plan.txt").write_text("another")
    (work / "00000.json").write_text("{}")
    assert collect("demo", [record("a")], root=root, size=64, out=out).counts["rows"] == 1


def test_limit_and_nothing(films):
    root = films([record("a"), record("b")])
    done = collect("demo", iter([record("a"), record("b")]), root=root, size=64, limit=1)
    assert done.counts["limit"] == 1 and done.counts["seen"] == 1
    with pytest.raises(StudyError, match="no study"):
        collect("demo", [], root=root)


def test_damaged_folders(films, tmp_path):
    out = tmp_path / "data"
    with pytest.raises(StudyError, match="prepare"):
        Studies.load(out)
    collect("demo", [record("a")], root=films([record("a")]), size=64, out=out)
    shutil.copy(out / "counts.json", out / "state.json")
    with pytest.raises(StudyError, match="damaged"):
        Studies.load(out)


def test_all_set_aside(films, tmp_path):
    with pytest.raises(StudyError, match=r"none of 1 studies can be used: file is empty \(1\). Looked in"):
        collect("demo", [record("a")], root=films([record("a")], bad=("a",)), out=tmp_path / "data")
    assert "a_0.png" in (tmp_path / "data.quarantine.csv").read_text() and not (tmp_path / "data").exists()


def test_another_patients_prior_is_never_ones_own_and_none_is_none():
    rows = [
        {"study_id": f"p{p}v{v}", "patient_id": f"p{p}", "prior_study_id": f"p{p}v{v - 1}" if v else None}
        for p in range(9)
        for v in range(1 + p % 4)
    ]
    table = datasets.Dataset.from_list(rows)
    patient = {row["study_id"]: row["patient_id"] for row in rows}
    other, none, own = (with_priors(table, kind) for kind in ("other", "none", "own"))
    assert own["prior_study_id"][:] == table["prior_study_id"][:] and set(none["prior_study_id"]) == {None}
    for row, before in zip(other, table, strict=True):
        assert (row["prior_study_id"] is None) == (before["prior_study_id"] is None)
        assert row["prior_study_id"] is None or patient[row["prior_study_id"]] != row["patient_id"]
    given = [prior for prior in other["prior_study_id"] if prior]
    assert len(set(given)) == len(given), "each prior is used once"
    with pytest.raises(StudyError, match="priors is 'mine'; it may be own, other or none"):
        with_priors(table, "mine")
    with pytest.raises(StudyError, match="priors cannot be shuffled: one patient has 2 of 2"):
        with_priors(table.filter(lambda row: row["patient_id"] == "p2"), "other")
