"The policy's loader and its rows: what must hold whatever the notebooks tell."

import pickle
import json
import shutil

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from training_toys import toy_table, toy_texts

from unirg.core import StudyError
from unirg.data.reports import target_text
from unirg.data.studies import FEATURES
from unirg.training.generation import model_inputs, report_batches
from unirg.training.policy import (
    ImageOnlyProcessor,
    build_tiny_policy,
    input_resolution,
    load_policy,
    load_processor,
    link_checkpoint,
)
from unirg.training.rows import KEPT, RowMaker, light_columns, training_rows


@pytest.mark.parametrize(("size", "tokens"), [(64, 4), (96, 9)])
def test_tiny_policy_sees_films_of_both_sizes(tmp_path, size, tokens):
    model, processor = load_policy(build_tiny_policy(toy_texts(), tmp_path / "tiny", image_size=size))
    rows = training_rows(toy_table(6), image_size=size, split=None, prior=True)
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
    assert load_processor(link_checkpoint(folder, tmp_path / "base")).tokenizer.padding_side == "left"


def test_what_is_no_policy_is_refused_by_name(tmp_path):
    with pytest.raises(StudyError, match="nowhere is no policy"):
        load_policy(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="empty"):
        load_processor(tmp_path / "empty")
    with pytest.raises(StudyError, match="image_size 60"):
        build_tiny_policy(toy_texts(), tmp_path / "odd", image_size=60)
    assert not (tmp_path / "odd").exists()


def test_rows_leave_out_only_what_has_no_text(tmp_path):
    table = toy_table(60)
    rows = training_rows(table, image_size=64)
    assert len(rows) == 36 and set(rows[0]) == {"source", "study_id", "prompt", "completion", "images", "reference"}
    assert all(row["images"][0].size == (64, 64) for row in rows)
    silent = table.map(lambda study: {"findings": None, "impression": None} if study["study_id"] == "s0" else study)
    assert "s0" not in light_columns(training_rows(silent), "study_id")
    assert training_rows(silent, with_text=False)[0]["reference"] is None
    with pytest.raises(StudyError, match="split 'nights'"):
        training_rows(table, split="nights")


def test_no_film_is_read_before_a_row_is_asked_for(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(RowMaker, "image", lambda self, *told: made.append(told) or Image.new("L", (64, 64)))
    rows = training_rows(toy_table(60), image_size=64, prior=True, n_augmented_copies=3)
    assert len(rows) == 108 and len(set(light_columns(rows, "study_id"))) == 36 and not made
    rows.select(range(40))[[0, 0, 0, 1]]  # as GRPO asks: a study once for each of its reports
    assert len(made) == 2


@pytest.mark.parametrize("blank", [None, "", " ", "\n", "\t \r\n", "\u00a0", "\x1c\x85\u2003", "\u3000", ".", " Clear. ", "\u200b"])
def test_a_text_of_white_space_alone_is_none(blank):
    "As it is for the text that is learned."
    for given in ({"findings": blank, "impression": None}, {"findings": None, "impression": blank}):
        table = toy_table(4)
        table = datasets.Dataset.from_list([row | given if row["study_id"] == "s2" else row for row in table], features=FEATURES)
        assert ("s2" in light_columns(training_rows(table, split=None), "study_id")) == bool(target_text(given))


@pytest.mark.parametrize("empty", ["impression", "findings", "prior_study_id"])
def test_a_column_that_is_empty_throughout_may_have_no_type(empty):
    "As in a table that somebody makes of his own."
    table = datasets.Dataset.from_list([study | {empty: None} for study in toy_table(6).cast_column("image", datasets.Image(decode=False))])
    assert len(training_rows(table, split=None, prior=True)) == 6


@pytest.mark.parametrize(
    "choice", [{}, {"limit": 7}, {"limit": 7, "seed": 3}, {"split": None}, {"target_sections": "findings"}, {"prior": True}]
)
def test_the_rows_are_those_of_the_studies_one_by_one(tmp_path, choice):
    "Several tables, studies without text, priors that are not there."
    tables = [toy_table(30, source="a"), toy_table(25, seed=1, source="b")]
    tables[1] = tables[1].map(lambda study: {"findings": None} if int(study["study_id"][1:]) % 3 else study)
    tables[0] = tables[0].map(lambda study: {"prior_study_id": "gone"} if study["study_id"] == "s1" else study)
    rows = training_rows(tables, **{"image_size": 64, **choice})
    known = {(study["source"], study["study_id"]): study for table in tables for study in table.remove_columns("image")}
    fit = [key for key, study in known.items() if choice.get("split", "train") in (None, study["split"])]
    fit = [key for key in fit if target_text(known[key], choice.get("target_sections", "findings_impression"))]
    found = [(row["source"], row["study_id"]) for row in rows]
    assert sorted(set(found)) == sorted(found) and set(found) <= set(fit) and found == sorted(found, key=fit.index)
    assert len(found) == choice.get("limit", len(fit))
    for row, key in zip(rows, found, strict=True):
        assert (known[key]["findings"] or "") in row["reference"] and row["completion"][0]["content"] == row["reference"]
        assert len(row["images"]) == (2 if choice.get("prior") and (key[0], known[key]["prior_study_id"]) in known else 1)


@pytest.mark.parametrize("side, kept", [(32, True), (None, False), (int((KEPT / 4) ** 0.5 / 4) + 1, False)])
def test_decoded_films_are_kept_where_they_are_few_and_stay_in_this_process(side, kept):
    rows = training_rows(toy_table(4), image_size=side, split=None)
    maker = rows.format["format_kwargs"]["transform"]
    if kept or side is None:  # no film of thousands of pixels
        assert rows[1]["images"][0].tobytes() == rows[1]["images"][0].tobytes()
    assert maker.keeps == kept and bool(maker.read) == kept
    assert not pickle.loads(pickle.dumps(maker)).read and light_columns(rows, "study_id") == ["s0", "s1", "s2", "s3"]


def test_workers_of_a_data_loader_make_the_same_rows(tmp_path):
    rows = training_rows(toy_table(20), image_size=64, n_augmented_copies=2)
    loaded = torch.utils.data.DataLoader(rows, batch_size=4, num_workers=2, collate_fn=list)
    films = [row["images"][0].tobytes() for batch in loaded for row in batch]
    assert films == [row["images"][0].tobytes() for row in training_rows(toy_table(20), image_size=64, n_augmented_copies=2)]


def test_blind_rows_show_nothing(tmp_path):
    rows = training_rows(toy_table(20), blind=True)
    assert {tuple(row["images"][0].getextrema()) for row in rows} == {(77, 77)}


def test_prior_film_is_the_prior_study(tmp_path):
    rows = training_rows(toy_table(20), prior=True, split=None)
    assert [len(row["images"]) for row in rows] == [1, 2] * 10
    assert rows[1]["images"][1].tobytes() == rows[0]["images"][0].tobytes()


def test_moved_copies_of_films_are_learned_from_in_their_place(tmp_path):
    table = toy_table(8)
    plain, moved, again = (
        training_rows(table, image_size=64, split=None, n_augmented_copies=copies)
        for name, copies in (("plain", 0), ("moved", 3), ("again", 3))
    )
    plain, moved, again = list(plain), list(moved), list(again)
    assert [row["study_id"] for row in moved] == [row["study_id"] for row in plain for _ in range(3)]
    assert [row["prompt"] for row in moved[::3]] == [row["prompt"] for row in plain]
    films = [np.asarray(row["images"][0], float) for row in moved]
    assert all((a == np.asarray(b["images"][0])).all() for a, b in zip(films, again, strict=True)), "the same every time"
    for i, original in enumerate(np.asarray(row["images"][0], float) for row in plain):
        copies = films[3 * i : 3 * i + 3]
        assert len({copy.tobytes() for copy in copies}) == 3, "no two copies alike"
        for copy in copies:  # the same film still, neither mirrored nor upside down
            likeness = [np.corrcoef(copy.ravel(), other.ravel())[0, 1] for other in (original, original[:, ::-1], original[::-1])]
            assert likeness[0] > max(likeness[1:])


def test_a_film_of_512_pixels_is_256_tokens_of_qwen(tmp_path):
    folder = build_tiny_policy(toy_texts(), tmp_path / "tiny", image_size=128, patch=16, merge=2)  # Qwen3-VL's own patches
    processor = load_processor(folder, image_size=512)
    assert input_resolution(processor) == 512
    row = training_rows(toy_table(2), image_size=512, split=None)[0]
    assert (model_inputs([row], processor)["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 256
    with pytest.raises(StudyError, match="image_size 500 is no multiple"):
        load_processor(folder, image_size=500)


def hub_folder(folder, where):
    "The same policy laid out as the hub lays out Qwen3-VL: a preprocessor file, and the stock classes by name."
    shutil.copytree(folder, where)
    parts = json.loads((where / "processor_config.json").read_text())
    (where / "processor_config.json").unlink()
    films = parts["image_processor"] | {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    (where / "preprocessor_config.json").write_text(json.dumps(films))
    tokens = json.loads((where / "tokenizer_config.json").read_text())
    (where / "tokenizer_config.json").write_text(json.dumps(tokens | {"processor_class": "Qwen3VLProcessor"}))
    return where


def test_a_folder_laid_out_as_on_the_hub_gives_a_processor_here(tmp_path):
    where = hub_folder(build_tiny_policy(toy_texts(), tmp_path / "tiny"), tmp_path / "hub")
    processor = load_processor(where, image_size=96)
    try:
        import torchvision  # noqa: F401
    except ImportError:
        assert isinstance(processor, ImageOnlyProcessor)
    else:
        assert not isinstance(processor, ImageOnlyProcessor), "the stock one where it works"
    row = training_rows(toy_table(2), image_size=96, split=None)[0]
    assert (model_inputs([row], processor)["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 9


def test_a_folder_with_a_tokenizer_alone_is_refused(tmp_path):
    folder = build_tiny_policy(toy_texts(), tmp_path / "tiny")
    for name in ("processor_config.json", "video_preprocessor_config.json"):
        (folder / name).unlink()
    with pytest.raises(StudyError, match=r"tiny"):
        load_processor(folder)


def test_another_architecture_that_takes_several_films_writes_reports(tmp_path):
    "A LLaVA: other classes, another processor, films of one fixed size."
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = load_processor(build_tiny_policy(toy_texts(), tmp_path / "tiny")).tokenizer
    size = {"height": 32, "width": 32}
    films = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size, do_center_crop=True)
    template = (
        "{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}{% if part['type'] == 'image' %}<|image_pad|>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    options = dict(patch_size=8, vision_feature_select_strategy="default", image_token="<|image_pad|>", num_additional_image_tokens=1)
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    text = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    )
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "llava")
    LlavaProcessor(films, tokenizer, chat_template=template, **options).save_pretrained(tmp_path / "llava")
    model, processor = load_policy(tmp_path / "llava", attention="eager")
    assert input_resolution(processor) is None
    rows = training_rows(toy_table(4), image_size=32, split=None, prior=True)
    assert len([text for _, _, texts in report_batches(model, processor, rows, max_new_tokens=3) for text in texts]) == 4
    assert (model_inputs([rows[0], rows[1]], processor)["input_ids"] == model.config.image_token_id).sum(1).tolist() == [16, 32]
    with pytest.raises(StudyError, match="films of its own size only"):
        load_processor(tmp_path / "llava", image_size=64)


def test_dtype_and_attention_are_settings(tmp_path):
    folder = build_tiny_policy(toy_texts(), tmp_path / "tiny")
    model, _ = load_policy(folder, dtype="bfloat16", attention="eager")
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    for wrong in ({"dtype": "int8"}, {"attention": "no_such_attention"}):
        with pytest.raises(StudyError, match=r"dtype|attn|attention"):
            load_policy(folder, **wrong)
