"Every form of a prompt, rendered by the processor: what it says, how many tokens its films are, and which film stands where."

import itertools
import json

import pytest
import torch
from training_toys import toy_table, toy_texts
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from unirg.core import StudyError
from unirg.data.reports import IMAGE_ORDERS, PROMPT_TEMPLATES
from unirg.training.generation import model_inputs
from unirg.training.policy import build_tiny_policy, load_processor
from unirg.training.rows import training_rows

OTHERWISE = [
    json.dumps({"inherits": name, "images": films})
    for name in PROMPT_TEMPLATES
    for films in IMAGE_ORDERS
    if films != PROMPT_TEMPLATES[name]["images"]
]
OWN = json.dumps({"task": "Befund.", "prior": "Vorbefund: {}", "no_prior": "Kein Vorbefund."})


def words_of(row):
    "What a prompt says, films aside."
    return " ".join(part["text"] for part in row["prompt"][0]["content"] if part["text"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    return folder, load_processor(build_tiny_policy(toy_texts(), folder / "tiny"))


@pytest.mark.parametrize("prompt_template", [*PROMPT_TEMPLATES, *OTHERWISE, OWN])
def test_every_variant_renders_and_counts_its_films(place, prompt_template):
    processor = place[1]
    film = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    for prior, target_sections in itertools.product((False, True), ("findings", "findings_impression")):
        rows = training_rows(toy_table(4), target_sections, 64, prompt_template, prior, split=None)
        for row, films in zip(rows, [1, 2, 1, 2] if prior else [1] * 4, strict=True):  # every second study has a prior
            inputs = model_inputs([row], processor)
            assert (inputs["input_ids"] == film).sum() == films * 4
            assert len(inputs["image_grid_thw"]) == films == len(row["images"])
            learned = DataCollatorForVisionLanguageModeling(processor, max_length=None)([dict(row)])
            assert (learned["input_ids"] == film).sum() == films * 4
            text = processor.decode(inputs["input_ids"][0])
            assert text.index("<|vision_start|>") < text.index(row["prompt"][0]["content"][-1]["text"]), "films stand before the text"


@pytest.mark.parametrize("prompt_template", ["brief", "short", "full", OWN])
def test_the_prompt_says_whether_there_is_a_prior(place, prompt_template):
    table, words = toy_table(2), {**PROMPT_TEMPLATES["short"], **(PROMPT_TEMPLATES.get(prompt_template) or json.loads(OWN))}
    first, second = map(words_of, training_rows(table, prompt_template=prompt_template, prior=True, split=None))
    alone = words_of(training_rows(table, prompt_template=prompt_template, split=None)[1])
    assert words["no_prior"] in first and table[0]["findings"] not in first
    assert table[0]["findings"] in second and words["no_prior"] not in second
    assert words["no_prior"] not in alone and table[0]["findings"] not in alone


@pytest.mark.parametrize("like", [*PROMPT_TEMPLATES])
def test_films_stand_in_the_order_that_the_wording_says(place, like):
    processor = place[1]
    orders = {films: json.dumps({"inherits": like, "images": films}) for films in ("current prior", "prior current")}
    rows = {
        films: training_rows(toy_table(2), prompt_template=prompt_template, prior=True, split=None)[1]
        for films, prompt_template in orders.items()
    }
    one, other = (model_inputs([row], processor)["pixel_values"].chunk(2) for row in rows.values())
    assert torch.equal(one[0], other[1]) and torch.equal(one[1], other[0]) and not torch.equal(one[0], one[1])
    if like == "full":
        texts = [row["prompt"][0]["content"][-1]["text"] for row in rows.values()]
        assert "The first image is the current study, the second an earlier" in texts[0]
        assert "The second image is the current study, the first an earlier" in texts[1]


@pytest.mark.parametrize("like", [*PROMPT_TEMPLATES])
def test_films_in_turn_stand_each_before_its_own_words(place, like):
    "With a prior or without, the current film and what follows it are the same."
    processor = place[1]
    prompt_template, table = json.dumps({"inherits": like, "images": "in turn"}), toy_table(2)
    without, given = training_rows(table, "findings", prompt_template=prompt_template, prior=True, split=None)
    alone = training_rows(table, "findings", prompt_template=prompt_template, split=None)[1]
    text = processor.decode(model_inputs([given], processor)["input_ids"][0])
    films = [place for place in range(len(text)) if text.startswith("<|vision_start|>", place)]
    assert films[0] < text.index(table[0]["findings"]) < films[1] < text.index(given["prompt"][0]["content"][-1]["text"])
    assert given["prompt"][0]["content"][-2:] == alone["prompt"][0]["content"] and len(without["images"]) == 1
    pixels = [model_inputs([row], processor)["pixel_values"] for row in (without, given, alone)]
    assert torch.equal(torch.cat([pixels[0], pixels[2]]), pixels[1]), "the prior film, then the current one"


def test_an_odd_wording_is_refused(place):
    for odd in ('{"images": "prior"}', '{"inherits": "nosuch"}'):
        with pytest.raises(StudyError, match="prompt_template"):
            training_rows(toy_table(2), prompt_template=odd, split=None)
