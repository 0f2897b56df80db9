"""Every reader on a phantom archive in its layout: what was written is what is read, study for study."""

import importlib
import json

import pandas as pd
import pytest

from unirg.data.words import Words
from unirg.phantom.archives import write_world

LAYOUTS = ["mimic_cxr", "chexpert_plus", "rexgradient", "iu_xray", "rexrank"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_world(root, 5, seed=3)
    return root, pd.read_parquet(root / "truth_studies.parquet")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_written_is_read(world, layout):
    root, truth = world
    written = truth[truth.source == layout].set_index("study_id")
    reader = importlib.import_module(f"unirg.data.{layout}")
    studies = reader.read(root / layout, size=64, institution="Ours", source="ours")
    rows = studies.table.remove_columns("image").to_pandas().set_index("study_id")
    assert set(rows.index) == set(written.index) and not studies.quarantine and studies.source == "ours"
    both = rows.join(written[["patient_id", "split", "view", "age", "race", "body_sex", "text_lost", "study_order"]], rsuffix="_true")
    assert (both.patient_id == both.patient_id_true).all() and (both.source == "ours").all() and (both.institution == "Ours").all()
    # IU's split lists leave out reports without findings, and its table calls a film frontal where the header says nothing
    assert (both.split.eq(both.split_true) | both.split.isna() & both.findings.isna()).all()
    assert (both["view"].eq(both["view_true"]) | both["view"].isna() | both["view"].eq("FRONTAL")).all()
    # ages over 89 are one group in MIMIC-IV and in ReXrank, and whole years everywhere
    assert (both.age.isna() | (both.age - both.age_true).abs().le(1.01) | both.age.eq(90) & both.age_true.ge(89)).all()
    assert (both.sex.isna() | both.sex.eq(both.body_sex)).all()
    said = both.findings.notna() | both.impression.notna()
    assert (said | both.text_lost).all()
    if layout != "iu_xray":  # one study a patient there
        assert (both.study_order == both.study_order_true).all()
        later = both[both.study_order > 1]
        assert later.prior_study_id.isin(rows.index).all() and both[both.study_order == 1].prior_study_id.isna().all()
        assert (rows.study_order.reindex(later.prior_study_id).to_numpy() < later.study_order.to_numpy()).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_the_archives_own_tables_add_up_with_what_became_of_them(world, layout):
    root, _ = world
    reader = importlib.import_module(f"unirg.data.{layout}")
    counts = reader.read(root / layout, pixels=False).counts
    told = dict(counts["table_rows"])
    of, read = told.pop("of"), told.pop("read")
    assert read == sum(told.values()) > 0 and told["studies"] + told.get("quarantined rows", 0) == counts["seen"]
    assert read == second_count(root / layout, of), of
    assert counts["not_understood"] == {} and counts["unlisted_headers"] == {}


def second_count(root, of):
    "The rows, counted by other means."
    if of.startswith("rows of"):
        return len(pd.read_csv(next(root.rglob(of.removeprefix("rows of ")))))
    if of.startswith("reports of"):
        return len(list((root / of.removeprefix("reports of ")).glob("*.xml")))
    return sum(len(json.loads(next(root.rglob(name)).read_text())) for name in of.removeprefix("entries of ").split(", "))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_no_reader_understands_is_counted_and_a_persons_words_go_first(world, layout, monkeypatch):
    root, _ = world
    reader = importlib.import_module(f"unirg.data.{layout}")
    seen = reader.records

    def odd(*args, **options):
        for number, record in enumerate(seen(*args, **options)):
            record.images = [film._replace(view=None, stated="Ebene 2") for film in record.images]
            record.stated, record.race = {"race": "Klingon" if number % 2 else "Vulcan"}, None
            yield record

    monkeypatch.setattr(reader, "records", odd)
    plain = reader.read(root / layout, pixels=False).counts
    assert set(plain["not_understood"]["view"]) == {"Ebene 2"} and set(plain["not_understood"]["race"]) == {"Klingon", "Vulcan"}
    words = Words(views="LATERAL: ebene-2", races="white: klingon")
    mended = reader.read(root / layout, pixels=False, words=words).counts
    assert "view" not in mended["not_understood"] and set(mended["not_understood"]["race"]) == {"Vulcan"} and mended["race"]["white"] > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_try_is_the_first_studies(world, layout, tmp_path):
    root, _ = world
    reader = importlib.import_module(f"unirg.data.{layout}")
    few = reader.read(root / layout, size=64, limit=3, out=tmp_path / "data" / layout)
    assert few.counts["seen"] == 3 and few.table["study_id"][:] == reader.read(root / layout, pixels=False).table["study_id"][:3]
