"Generation: one prediction a study, whatever the batches and however often it is killed."

import json

import pytest
from training_toys import toy_table, toy_texts

import unirg.training.generation as generation
from unirg.core import StudyError, read_json
from unirg.training.policy import build_tiny_policy, training_rows


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_policy(toy_texts(), tmp_path_factory.mktemp("policy") / "tiny")


def test_a_report_does_not_depend_on_its_batch(tiny, tmp_path):
    model, processor = generation.load_policy(tiny)
    rows = training_rows(toy_table(8), split=None, prior=True, cache=tmp_path)
    alone = generation.write_reports(model, processor, rows, batch_size=1, max_new_tokens=12)
    assert generation.write_reports(model, processor, rows, batch_size=8, max_new_tokens=12) == alone
    assert len(set(alone)) > 1


def test_killed_generation_goes_on_after_its_last_batch(tiny, tmp_path, monkeypatch):
    options = dict(table=toy_table(20), batch_size=4, max_new_tokens=8, split=None, cache=tmp_path)
    whole = generation.generate_reports(tiny, out=tmp_path / "whole.json", **options)
    asked, real = [], generation.report_batches

    def killed_after(batches):
        def batches_until(model, processor, rows, batch_size, max_new_tokens, order):
            asked.append(len(order))
            for number, batch in enumerate(real(model, processor, rows, batch_size, max_new_tokens, order)):
                if number == batches:
                    raise KeyboardInterrupt
                yield batch

        return batches_until

    monkeypatch.setattr(generation, "report_batches", killed_after(3))
    with pytest.raises(KeyboardInterrupt):
        generation.generate_reports(tiny, out=tmp_path / "cut.json", **options)
    assert not (tmp_path / "cut.json").exists()
    with (tmp_path / ".cut.json.part").open("a") as file:
        file.write('["s1", "half a li')
    monkeypatch.setattr(generation, "report_batches", killed_after(99))
    generation.generate_reports(tiny, out=tmp_path / "cut.json", **options)
    assert asked == [20, 8] and read_json(tmp_path / "cut.json") == whole
    assert list(whole) == [f"s{number}" for number in range(20)] and not (tmp_path / ".cut.json.part").exists()


def test_records_are_rexranks(tiny, tmp_path):
    written = generation.generate_reports(tiny, toy_table(5), tmp_path / "p.json", max_new_tokens=4, split="test", cache=tmp_path)
    assert set(written) == {"s4"}
    assert {"model_prediction", "report", "section_findings", "section_impression", "image_path"} <= set(written["s4"])
    assert written["s4"]["report"].startswith("Findings: ") and "Impression: " in written["s4"]["report"]
    assert json.loads((tmp_path / "p.json").read_text()) == written


def test_a_study_id_that_stands_twice_is_refused(tiny, tmp_path):
    table = toy_table(4)
    table = table.map(lambda study: {"study_id": "same"})
    with pytest.raises(StudyError, match="same stands twice"):
        generation.generate_reports(tiny, table, tmp_path / "p.json", max_new_tokens=4, split=None, cache=tmp_path)
