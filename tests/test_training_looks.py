"Whose validation studies a look is at, and that none of them is learned from."

import pytest
from training_toys import toy_table

from unirg.core import StudyError
from unirg.data.studies import Studies
from unirg.training.options import Job
from unirg.training.rows import light_columns
from unirg.training.trainers import load_rows


@pytest.fixture
def job(tmp_path):
    tables = []
    for name in ("first", "second"):
        table = toy_table(50, source=name)
        Studies(table, {}, {"source": name, "seen": 50, "rows": 50, "quarantined": 0}).save(tmp_path / name)
        tables.append(str(tmp_path / name))
    return lambda **options: Job("sft", "none", tables, str(tmp_path / "out"), target_sections="findings", **options)


def named(rows):
    return list(zip(light_columns(rows, "source"), light_columns(rows, "study_id"), strict=True))


@pytest.mark.parametrize(
    "count, whose, found, sources, left",
    [
        (8, "", 8, {"first", "second"}, 60),
        (100, "", 20, {"first", "second"}, 60),
        (8, "first", 8, {"first"}, 60),
        (100, "second", 10, {"second"}, 60),
        (8, "first/train", 8, {"first"}, 52),
        (30, "second/train", 30, {"second"}, 30),
        (8, "first/validation", 8, {"first"}, 60),
    ],
)
def test_looks_are_at_studies_that_are_not_learned_from(job, count, whose, found, sources, left):
    rows, checks = load_rows(job(evaluate_studies=count, evaluate_on=whose), 64)
    assert len(checks) == found and set(light_columns(checks, "source")) == sources and len(rows) == left
    assert not set(named(rows)) & set(named(checks))
    again = load_rows(job(evaluate_studies=count, evaluate_on=whose, seed=7), 64)[1]
    assert named(again) == named(checks), "every run and seed is looked at by the same studies"
    assert rows[0]["prompt"] and checks[0]["reference"], "and each can be made"


def test_copies_of_a_study_that_is_set_aside_are_set_aside(job):
    rows, checks = load_rows(job(evaluate_studies=8, evaluate_on="first/train", n_augmented_copies=3), 64)
    assert len(rows) == 3 * 52 and not set(named(rows)) & set(named(checks))


def test_what_cannot_be_looked_at(job):
    for whose in ("third", "first/nosuch"):
        with pytest.raises(StudyError, match=r"'(third|first)' has no (validation|nosuch) studies"):
            load_rows(job(evaluate_studies=8, evaluate_on=whose), 64)
    assert load_rows(job(evaluate_studies=0, evaluate_on="third"), 64)[1] is None
    only = job(evaluate_studies=30, evaluate_on="first/train")
    only.tables = only.tables[:1]
    with pytest.raises(StudyError, match="besides the 30 rows set aside to be looked at: ask for fewer"):
        load_rows(only, 64)
    with pytest.raises(StudyError, match="global_batch 61 is more than the 60 training studies"):
        load_rows(job(evaluate_studies=0, batch=61), 64)
