"Agreement between judges: textbook values, what is not defined, and tables that are wrong."

import math

import numpy as np
import pandas as pd
import pytest

from unirg.core import StudyError
from unirg.reward.agreement import agreement, compare_judges, kappa, rank_correlation, read_pairs
from unirg.reward.judge import ERROR_TYPES, rule_judge

NOTHING = dict.fromkeys(ERROR_TYPES, 0)


def test_cohens_kappa_from_its_definition():
    "Observed against chance agreement from the table of counts, on yes and no and, quadratically weighted, on numbers."
    rng = np.random.default_rng(1)
    for levels in (2, 5):
        a = rng.integers(0, levels, 400)
        b = np.where(rng.random(400) < 0.6, a, rng.integers(0, levels, 400))
        observed = np.zeros((levels, levels))
        np.add.at(observed, (a, b), 1 / 400)
        expected = np.outer(observed.sum(1), observed.sum(0))
        weight = np.subtract.outer(np.arange(levels), np.arange(levels)) ** 2
        assert kappa(a, b) == pytest.approx(1 - (weight * observed).sum() / (weight * expected).sum())


def test_agreement_beyond_chance():
    assert kappa([0, 1, 2, 1], [0, 1, 2, 1]) == 1 and kappa([0, 0, 1, 1], [1, 1, 0, 0]) == -1
    assert kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0
    assert kappa([1, 1, 1], [0, 1, 1]) == pytest.approx(0)  # a judge that always says yes
    assert math.isnan(kappa([2, 2], [2, 2])) and math.isnan(kappa([], []))


def test_ranks_with_ties():
    assert rank_correlation([1, 2, 3, 4], [2, 4, 8, 9]) == pytest.approx(1) and rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: by hand 4.5 / sqrt(4.5 * 5)
    assert rank_correlation([0, 1, 1, 5], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(rank_correlation([1, 1], [1, 2]))


def test_a_missing_judgement_is_counted_and_is_no_zero():
    some = [NOTHING | {"false_finding": n} for n in (0, 1, 2, 3)]
    table = agreement(some, [some[0], None, some[2], some[3]])
    assert (table.n == 3).all() and (table.missing == 1).all()
    assert table.kappa_count["false_finding"] == table.kappa_count["all"] == table.rank_correlation["all"] == pytest.approx(1)
    assert math.isnan(table.kappa_any["wrong_location"]) and list(table.index) == [*ERROR_TYPES, "all"]
    nobody = agreement([None], [NOTHING])
    assert (nobody.n == 0).all() and nobody.kappa_count.isna().all() and nobody.mean_first.isna().all()
    with pytest.raises(StudyError, match="4 judgements against 1"):
        agreement(some, [None])


def test_judges_are_compared_on_pairs():
    pairs = pd.DataFrame({"prediction": ["Right pleural effusion.", "Clear lungs."], "reference": ["Left pleural effusion."] * 2})
    table = compare_judges(pairs, {"a": rule_judge, "b": rule_judge, "silent": lambda predictions, references: [None] * 2})
    assert table.loc[("a", "b", "wrong_location"), "kappa_count"] == 1 and table.loc[("a", "silent", "all"), "missing"] == 2
    assert sorted(set(table.index.droplevel("type"))) == [("a", "b"), ("a", "silent"), ("b", "silent")]
    with pytest.raises(StudyError, match="needs two"):
        compare_judges(pairs, {"a": rule_judge})
    with pytest.raises(StudyError, match="judge short: 1 judgements of 2"):
        compare_judges(pairs, {"short": lambda predictions, references: [None], "b": rule_judge})


def test_a_judge_that_asks_learns_where_texts_come_from():
    class Asks:
        def check_sources(self, sources):
            raise StudyError(f"from {list(sources)}")

        def __call__(self, predictions, references):
            raise AssertionError("called before it was asked")

    pairs = pd.DataFrame({"prediction": ["a"], "reference": ["b"], "source": ["closed"]})
    with pytest.raises(StudyError, match="closed"):
        compare_judges(pairs, {"asks": Asks(), "rules": rule_judge})


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_pairs_are_read(tmp_path, suffix):
    pairs = pd.DataFrame({"prediction": ["Normal, \"clear\".", "NA"], "reference": ["None", "Edema.\nNo effusion."], "source": ["x", "y"]})
    path = tmp_path / f"pairs.{suffix}"
    options = {"csv": {"index": False}, "json": {"orient": "records"}, "parquet": {}}
    getattr(pairs, f"to_{suffix}")(path, **options[suffix])
    assert read_pairs(path)[["prediction", "reference", "source"]].to_dict() == pairs.to_dict()


def test_wrong_tables_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("prediction,report\nx,y\n")
    (tmp_path / "b.json").write_text('[{"prediction": "x", "reference": null}]')
    (tmp_path / "c.json").write_text("{")
    said = {"a.csv": "no column 'reference'.*report", "b.json": "reference of row 0", "c.json": "cannot be read"}
    said |= {"d.csv": "d.csv", "e.xls": ".csv"}
    for name, what in said.items():
        with pytest.raises(StudyError, match=what):
            read_pairs(tmp_path / name)
