"The policy's loader and its rows: what must hold whatever the notebooks tell."

import json
import time

import numpy as np
import pytest
import torch
from training_toys import toy_table, toy_texts

from unirg.core import StudyError
from unirg.training.generation import model_inputs
from unirg.training.policy import build_tiny_policy, load_policy, load_processor, refer_to_policy, training_rows


@pytest.mark.parametrize(("size", "tokens"), [(64, 4), (96, 9)])
def test_tiny_policy_sees_films_of_both_sizes(tmp_path, size, tokens):
    model, processor = load_policy(build_tiny_policy(toy_texts(), tmp_path / "tiny", image_size=size))
    rows = training_rows(toy_table(6), image_size=size, split=None, prior=True, cache=tmp_path)
    inputs = model_inputs([rows[0], rows[1]], processor)  # without and with a prior film
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [tokens, 2 * tokens]
    assert inputs["attention_mask"][0, 0] == 0 and inputs["attention_mask"][0, -1] == 1, "padding stands on the left"
    assert (inputs["mm_token_type_ids"] == (inputs["input_ids"] == model.config.image_token_id)).all()
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_same_seed_same_weights(tmp_path):
    seeds = {"a": 1, "b": 1, "c": 2}
    files = [build_tiny_policy(toy_texts(), tmp_path / name, seed=seed) / "model.safetensors" for name, seed in seeds.items()]
    a, b, c = (file.read_bytes() for file in files)
    assert a == b != c


def test_saved_processor_names_no_class_of_ours(tmp_path):
    folder = build_tiny_policy(toy_texts(), tmp_path / "tiny")
    load_processor(folder).save_pretrained(tmp_path / "again")
    for name in ("processor_config.json", "tokenizer_config.json"):
        assert "processor_class" not in json.loads((tmp_path / "again" / name).read_text())
    assert load_processor(refer_to_policy(folder, tmp_path / "base")).tokenizer.padding_side == "left"


def test_what_is_no_policy_is_refused_by_name(tmp_path):
    with pytest.raises(StudyError, match="nowhere is no policy"):
        load_policy(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="empty"):
        load_processor(tmp_path / "empty")
    with pytest.raises(StudyError, match="image_size 60"):
        build_tiny_policy(toy_texts(), tmp_path / "odd", image_size=60)
    assert not (tmp_path / "odd").exists()


def test_rows_are_quick_small_and_leave_out_only_what_has_no_text(tmp_path):
    table = toy_table(60)
    rows = training_rows(table, image_size=64, cache=tmp_path)
    assert len(rows) == 36 and set(rows.column_names) == {"source", "study_id", "prompt", "completion", "images", "reference"}
    started = time.process_time()
    for _ in range(5):
        assert all(row["images"][0].size == (64, 64) for row in rows)
    assert (time.process_time() - started) / 180 < 2e-3, "a row costs a fraction of a millisecond, here with room for a busy machine"
    silent = table.map(lambda study: {"findings": None, "impression": None} if study["study_id"] == "s0" else study)
    assert "s0" not in training_rows(silent, cache=tmp_path)["study_id"]
    assert training_rows(silent, with_text=False, cache=tmp_path)[0]["reference"] is None
    with pytest.raises(StudyError, match="split 'nights'"):
        training_rows(table, split="nights", cache=tmp_path)


def test_blind_rows_show_nothing(tmp_path):
    rows = training_rows(toy_table(20), blind=True, cache=tmp_path)
    assert {tuple(row["images"][0].getextrema()) for row in rows} == {(77, 77)}


def test_prior_film_is_the_prior_study(tmp_path):
    rows = training_rows(toy_table(20), prior=True, split=None, cache=tmp_path)
    assert [len(row["images"]) for row in rows] == [1, 2] * 10
    assert rows[1]["images"][1].tobytes() == rows[0]["images"][0].tobytes()


def test_moved_copies_of_films_are_learned_from_in_their_place(tmp_path):
    table = toy_table(8)
    plain, moved, again = (
        training_rows(table, image_size=64, split=None, cache=tmp_path / name, augment=copies)
        for name, copies in (("plain", 0), ("moved", 3), ("again", 3))
    )
    assert list(moved["study_id"]) == [name for name in plain["study_id"] for _ in range(3)]
    assert moved["reference"][::3] == plain["reference"][:] and moved["prompt"][::3] == plain["prompt"][:]
    films = [np.asarray(film[0], float) for film in moved["images"]]
    assert all((a == np.asarray(b[0])).all() for a, b in zip(films, again["images"], strict=True)), "the same every time"
    for i, original in enumerate(np.asarray(film[0], float) for film in plain["images"]):
        copies = films[3 * i : 3 * i + 3]
        assert len({copy.tobytes() for copy in copies}) == 3, "no two copies alike"
        for copy in copies:  # the same film still, neither mirrored nor upside down
            likeness = [np.corrcoef(copy.ravel(), other.ravel())[0, 1] for other in (original, original[:, ::-1], original[::-1])]
            assert likeness[0] > max(likeness[1:])
