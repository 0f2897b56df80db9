"Consensus decoding: what most samples say, with a threshold that no test study has seen."

from pathlib import Path

import datasets
import nbformat
import pytest
from training_toys import toy_studies, toy_table, toy_texts

from unirg.core import StudyError, read_json
from unirg.training.consensus import choose_threshold, consensus, statements
from unirg.training import generation
from unirg.training.generation import Writing, build_prompts, generate_reports, write_parts
from unirg.training.policy import build_tiny_policy

HEART, NONE, LEFT = "The heart is enlarged.", "The heart is normal in size.", "There is a left pleural effusion."


def test_a_finding_is_in_the_report_from_its_share_on():
    samples = [HEART, HEART, f"{HEART} {LEFT}", NONE, NONE]
    assert consensus(samples, 0.6) == HEART and consensus(samples, 0.61) == NONE
    assert consensus(samples, 0.2) == f"{HEART} {LEFT}"


def test_an_uncertain_finding_is_stated_and_a_denied_one_is_not():
    assert statements("Possible left pneumothorax. No effusion.") == {("pneumothorax", None), ("pneumothorax", "left")}


def test_of_equal_samples_the_most_usual_one_is_taken():
    usual = "The heart is normal in size. No pleural effusion."
    assert consensus(["Normal heart, by all that can be said of it.", usual, usual, "Nothing."], 0.5) == usual


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_report_is_one_of_the_samples_whatever_their_order(order):
    samples = [f"{HEART} No effusion.", f"{HEART} {LEFT}", HEART]
    assert statements(consensus([samples[i] for i in order], 0.5)) == statements(HEART)


def studies(split, texts):
    rows = [{"study_id": f"{split}{i}", "split": split, "findings": text, "impression": None} for i, text in enumerate(texts)]
    return datasets.Dataset.from_list(rows)


def test_the_threshold_is_where_validation_reports_are_best():
    "A heart is enlarged in truth just where two or more of five samples say so."
    votes = [0, 1, 2, 3, 1, 4]
    table = studies("validation", [HEART if n >= 2 else NONE for n in votes])
    samples = {f"validation{i}": [HEART] * n + [NONE] * (5 - n) for i, n in enumerate(votes)}
    chosen, means = choose_threshold(samples, table, reward="label_f1=1")
    assert 0.2 < chosen <= 0.4 and means[chosen] == 1
    assert all(mean < 1 for threshold, mean in means.items() if not 0.2 < threshold <= 0.4)
    assert choose_threshold(samples, table, thresholds=(0.7, 0.3), reward="label_f1=1")[0] == 0.3


@pytest.mark.parametrize("split", ["test", "train"])
def test_no_threshold_is_chosen_on_other_studies(split):
    with pytest.raises(StudyError, match=f"'{split}0' is of the {split} split"):
        choose_threshold({f"{split}0": [HEART, NONE]}, studies(split, [HEART]))
    with pytest.raises(StudyError, match="not in the table"):
        choose_threshold({"elsewhere": [HEART, NONE]}, studies("validation", [HEART]))


def test_samples_are_kept_and_become_predictions(tmp_path):
    toy_studies(tmp_path / "toy", 15)
    build_tiny_policy(toy_texts(), tmp_path / "tiny")
    options = dict(samples=3, split="validation", batch_size=2, max_new_tokens=6)
    drawn = generate_reports(tmp_path / "tiny", tmp_path / "toy", tmp_path / "samples.json", **options)
    kept = read_json(tmp_path / "samples.json")
    assert kept["samples"] == drawn and kept["writing"]["samples"] == 3
    assert sorted(drawn) == ["s13", "s3", "s8"] and all(len(texts) == 3 for texts in drawn.values())
    assert len({text for texts in drawn.values() for text in texts}) > 3, "they are drawn, not greedy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "write_parts", None)  # what the file has is not drawn again
        assert generate_reports(tmp_path / "tiny", tmp_path / "toy", tmp_path / "samples.json", **options) == drawn
    assert generate_reports(tmp_path / "tiny", tmp_path / "toy", tmp_path / "samples.json", seed=1, **options) != drawn


def test_samples_do_not_depend_on_what_was_drawn_before(tmp_path):
    build_tiny_policy(toy_texts(), tmp_path / "tiny")
    rows = build_prompts(tmp_path / "tiny", toy_table(6))
    writing = Writing(str(tmp_path / "tiny"), samples=2, batch_size=2, max_new_tokens=6)
    drawn = write_parts(rows, writing, tmp_path / "s.json")
    next(tmp_path.glob(".s.json.*.parts/000001.json")).unlink()  # as a run that was killed leaves it, or another process does it
    assert write_parts(rows, writing, tmp_path / "s.json") == drawn


def test_fewer_than_two_samples_are_refused(tmp_path):
    with pytest.raises(StudyError, match="2 samples or more"):
        generate_reports("tiny", toy_table(4), tmp_path / "s.json", samples=1)


def test_the_study_notebook_chooses_its_threshold_and_predicts(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIRG_ROOT", str(tmp_path))
    monkeypatch.setenv("UNIRG_TASK", "consensus-sft")
    (tmp_path / "settings.ini").write_text("")
    toy_studies(tmp_path / "out" / "data" / "toy", 20)
    build_tiny_policy(toy_texts(), tmp_path / "out" / "models" / "sft-s1")
    cells = nbformat.read(Path(__file__).parents[1] / "nbs" / "study" / "45_consensus.ipynb", 4).cells
    place = {}
    for cell in (cell for cell in cells if cell.cell_type == "code"):
        exec(cell.source, place)
        if "parameters" in cell.metadata.get("tags", []):
            place |= {"out": "out", "sources": ["toy"], "training": ["toy"], "samples": 3, "max_new_tokens": 6}
    predictions = tmp_path / "out" / "predictions" / "sft_consensus-s1"
    assert set(read_json(predictions / "toy.json")) == {"s4", "s9", "s14", "s19"}
    chosen = read_json(predictions / "samples" / "threshold.json")
    scores = chosen["validation composite_step1"]
    assert scores[str(chosen["threshold"])] == max(scores.values())
    assert set(read_json(predictions / "samples" / "toy-validation.json")["samples"]) == {"s3", "s8", "s13", "s18"}
