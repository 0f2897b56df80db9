"What the atlas promises: its own patients, cameras and captions, written once; no institution's truth is in what is learned from it."

import csv
import dataclasses
import hashlib

import numpy as np
import pandas as pd
import pytest

from unirg.core import StudyError
from unirg.phantom import dictation
from unirg.phantom.anatomy import CAMERAS
from unirg.phantom.atlas import COLUMNS, POPULATIONS, atlas_patient, caption, draw_camera, institution_texts, write_atlas
from unirg.phantom.patients import draw_patient

SEED = 9001


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas") / "archive"
    write_atlas(folder, 24, SEED, film_size=64)
    return folder


def table(folder):
    with (folder / "atlas.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_holds_films_captions_and_nothing_that_was_not_asked_for(atlas):
    rows = table(atlas)
    assert sorted(path.name for path in atlas.iterdir()) == ["atlas.csv", "images", "made.json", "truth.parquet", "words.txt"]
    assert list(rows[0]) == COLUMNS and not {"severity", "signs", "facts", "camera"} & set(COLUMNS)
    assert {f"{row['study_id']}.png" for row in rows} == {path.name for path in (atlas / "images").iterdir()}
    assert {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")} == {
        "train": 22, "validation": 1, "test": 1,
    }  # fmt: skip
    assert all(row["findings"] for row in rows)


@pytest.mark.parametrize("seed", [1, 18, 21, 24, SEED])
def test_its_patients_are_in_no_world(seed):
    ours = {dataclasses.astuple(atlas_patient(index, SEED).body) for index in range(200)}
    worlds = {dataclasses.astuple(draw_patient(key, index, seed).body) for key in POPULATIONS for index in range(200)}
    assert len(ours) == 200 and not ours & worlds


def test_no_camera_is_one_of_the_known_ones_and_together_they_surround_them():
    cameras = [draw_camera(np.random.default_rng(i)) for i in range(300)]
    for name in ("kvp", "gamma", "latitude", "exposure", "scatter", "sharpen", "flatten"):
        drawn, known = [getattr(c, name) for c in cameras], [getattr(c, name) for c in CAMERAS.values()]
        assert min(drawn) < min(known) and max(drawn) > max(known) and len(set(drawn)) == 300
        assert min(drawn) > 0


def test_captions_do_not_depend_on_the_institutions_readers(monkeypatch):
    patients = [atlas_patient(index, SEED) for index in range(40)]
    before = [caption(patient, SEED) for patient in patients]

    def refused(*args, **kwargs):
        raise AssertionError("an institution's reader was asked")

    monkeypatch.setattr(dictation, "dictate", refused)
    monkeypatch.setattr("unirg.phantom.atlas.dictate", refused)
    monkeypatch.setattr(dictation, "READERS", {})
    monkeypatch.setattr(dictation, "STYLES", {})
    assert [caption(patient, SEED) for patient in patients] == before


def test_the_careful_reader_states_what_is_there_and_nothing_else():
    stated, missed, faint = 0, 0, 0
    for index in range(300):
        patient = atlas_patient(index, SEED)
        facts = caption(patient, SEED)[1]
        said = {fact["finding"] for fact in facts if fact["status"] == "present"}
        assert said <= {sign.finding for sign in patient.visits[0].signs} and all(fact["change"] is None for fact in facts)
        for finding in {sign.finding for sign in patient.visits[0].signs}:
            severity = max(sign.severity for sign in patient.visits[0].signs if sign.finding == finding)
            stated += severity > 0.5 and finding in said
            missed += severity > 0.5 and finding not in said
            faint += severity < 0.1 and finding in said
    assert stated > 300 and missed <= 0.01 * stated and faint <= 3


def test_captions_are_worded_in_one_way():
    texts = [caption(atlas_patient(index, SEED), SEED)[0] for index in range(300)]
    for words in ("evidence of", "noted", "there is", "possible", "unchanged", "since the prior", "degenerative", "tortuous"):
        assert not [text for text in texts if words in text.lower()], words


def test_the_words_are_of_the_institutions_that_are_trained_on_and_of_no_report_in_a_world():
    texts = institution_texts(40, SEED)
    assert any("There is no" in text for text in texts) and any("NO PNEUMOTHORAX" in text for text in texts)
    patient = draw_patient("mimic_cxr", 0, 24)
    assert "rexrank" not in POPULATIONS and dictation.dictate(patient, 0, 24).text not in texts


def digests(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(atlas, tmp_path):
    write_atlas(tmp_path / "two", 24, SEED, processes=2, film_size=64)
    assert digests(tmp_path / "two") == digests(atlas)
    write_atlas(tmp_path / "other", 24, SEED + 1, film_size=64)
    assert digests(tmp_path / "other")["atlas.csv"] != digests(atlas)["atlas.csv"]


def test_one_that_stands_is_kept_and_one_made_otherwise_is_made_anew(tmp_path):
    counts = write_atlas(tmp_path / "a", 20, SEED, film_size=64)
    before = (tmp_path / "a" / "atlas.csv").stat().st_mtime_ns
    assert write_atlas(tmp_path / "a", 20, SEED, film_size=64) == counts == {"train": 18, "validation": 1, "test": 1}
    assert (tmp_path / "a" / "atlas.csv").stat().st_mtime_ns == before
    write_atlas(tmp_path / "a", 21, SEED, film_size=64)
    assert len(table(tmp_path / "a")) == 21 and not list(tmp_path.glob(".a.part"))


@pytest.mark.parametrize("studies", [0, 1, 19, -3])
def test_one_without_validation_or_test_patients_is_refused(tmp_path, studies):
    with pytest.raises(StudyError, match=f"an atlas of {studies} studies"):
        write_atlas(tmp_path / "a", studies, SEED)


def test_what_is_behind_the_films_names_the_tables_studies(atlas):
    signs = pd.read_parquet(atlas / "truth.parquet")
    assert set(signs.study_id) <= {row["study_id"] for row in table(atlas)} and set(signs.source) == {"atlas"}
    assert signs.severity.between(0, 1, inclusive="right").all()
