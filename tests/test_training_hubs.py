"Other families of policies than Qwen's, as the hub has them: SFT, GRPO and generation on a phantom archive read and learn the same thing."

import csv
import shutil
from types import SimpleNamespace

import pytest
import torch
from hub_like import HUB_LIKE
from scale import small_archive

from unirg.core import StudyError, write_json
from unirg.data import mimic_cxr
from unirg.data.studies import Studies, collect
from unirg.training import grpo, sft
from unirg.training.generation import build_prompts, generate_reports, model_inputs, report_batches
from unirg.training.policy import answer_ends, frame_by_template, input_resolution, load_policy, load_processor
from unirg.training.rows import training_rows

PLAIN = {"bf16": "no", "gradient_checkpointing": "no", "logging_steps": "1", "per_device_train_batch_size": "4", "learning_rate": "1e-2"}
SFT = PLAIN | {"max_steps": "8", "save_steps": "4", "eval_steps": "4", "warmup_steps": "2", "per_device_eval_batch_size": "3"}
GRPO = PLAIN | {"max_steps": "2", "eval_steps": "2", "num_generations": "2", "max_completion_length": "12", "beta": "0.05"}
FILM = {"gemma3": 16, "idefics3": 4, "llava": 16}  # tokens of a film, or of a crop


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A phantom archive in MIMIC-CXR's layout, prepared; its films keep their shape."
    place = tmp_path_factory.mktemp("hubs")
    root = small_archive(place / "world", 40)
    collect("mimic_cxr", mimic_cxr.records(root), root=root, size=96).save(place / "data/mimic_cxr")
    return place


def alone(model, processor, row, written):
    "Log-probabilities of a report's tokens where its prompt stands by itself, without padding."
    inputs = model_inputs([row], processor)
    more = {"input_ids": written, "attention_mask": torch.ones_like(written), "token_type_ids": torch.zeros_like(written)}
    joined = {name: torch.cat([value, more[name]], 1) if name in more else value for name, value in inputs.items()}
    with torch.no_grad():
        scores = model(**joined).logits[:, -written.shape[1] - 1 : -1].log_softmax(-1)
    return scores.gather(2, written[..., None])[0, :, 0]


def watched(module, trainer, name, seen, by):
    "Note what a method of a trainer is given and gives."
    own = getattr(trainer, name)

    def method(self, model, *given, **named):
        found = own(self, model, *given, **named)
        seen.append(by(self, model, *given, found=found, **named))
        return found

    by_patch = pytest.MonkeyPatch()
    by_patch.setattr(getattr(module, trainer.__name__), name, method)
    return by_patch


@pytest.fixture(scope="module", params=list(FILM))
def policy(request, world):
    "A family's random policy that has been through SFT and GRPO, with what each of them read."
    name, place = request.param, world
    told = SimpleNamespace(name=name, hub=HUB_LIKE[name](place / name), table=Studies.load(place / "data/mimic_cxr").table, place=place)
    processor = load_processor(told.hub)
    rows = training_rows(told.table, "findings_impression", None, "short", True, split="train", with_text=False)
    told.prompts = {tuple(model_inputs([row], processor)["input_ids"][0].tolist()): row for row in rows}
    told.learned, told.scored = [], []

    def batch(trainer, model, inputs, *rest, found, **named):
        return {key: value.clone() for key, value in inputs.items() if torch.is_tensor(value)}

    def compared(trainer, model, ids, mask, keep, *rest, found, **named):
        row = len(told.scored) % len(ids)
        prompt = ids[row, :-keep][mask[row, :-keep] == 1].tolist()
        written = ids[row, -keep:][mask[row, -keep:] == 1][None]
        apart = found[0][row, : written.shape[1]].detach() - alone(model, processor, told.prompts[tuple(prompt)], written)
        kinds = named.get("token_type_ids")
        beside = kinds is None or torch.equal(kinds == 1, ids == model.config.image_token_id)
        return {"apart": float(apart.abs().max()), "mask stands at the films": beside}

    job = {"tables": [str(place / "data/mimic_cxr")], "batch": 4, "prior": True, "evaluate_studies": 4}
    done, took = told.hub, [(sft, sft.SftTrainer, "compute_loss", told.learned, batch, SFT)]
    took += [(grpo, grpo.GrpoTrainer, "_get_per_token_logps_and_entropies", told.scored, compared, GRPO)]
    for module, trainer, method, seen, by, options in took:
        kind = module.__name__.rpartition(".")[2]
        own = {"kind": kind, "start": str(done), "out": str(place / f"{name}_{kind}"), "trl": options, "reward": "bleu2=1 label_f1=1"}
        patch = watched(module, trainer, method, seen, by)
        try:
            module.main(write_json(place / f"{name}_{kind}.work/job.json", job | own))
        finally:
            patch.undo()
        done = place / f"{name}_{kind}"
    return told


def log(folder, column):
    with (folder / "log.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def test_sft_learns_from_the_prompts_that_generation_reads_and_where_a_report_ends(policy):
    processor = load_processor(policy.hub)
    ends, checked = set(answer_ends(processor)), 0
    assert len(ends) == 1
    for batch in policy.learned:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            ids, labels = ids[mask == 1].tolist(), labels[mask == 1].tolist()
            cut = next(at for at, label in enumerate(labels) if label != -100)
            assert tuple(ids[:cut]) in policy.prompts and labels[cut:] == ids[cut:]
            assert sum(label in ends for label in labels) == 1, "it learns one end"
            checked += 1
    assert checked == 8 * 4
    loss = log(policy.place / f"{policy.name}_sft", "loss")
    assert loss[8] < loss[1] - 0.3 and sorted(log(policy.place / f"{policy.name}_sft", "eval_words")) == [0, 4, 8]


def test_grpo_scores_what_was_sampled_as_if_it_stood_alone(policy):
    "Whatever films and padding its neighbours of the batch have; a prompt that generation does not read would be no key."
    assert len(policy.scored) > 3 and all(one["mask stands at the films"] for one in policy.scored)
    assert max(one["apart"] for one in policy.scored) < 1e-3
    folder = policy.place / f"{policy.name}_grpo"
    assert sorted(log(folder, "loss")) == [1, 2] and sorted(log(folder, "eval_words")) == [0, 2]


def test_each_study_is_written_about_once_whatever_its_neighbours(policy):
    written = {}
    for size in (4, 1):
        out = policy.place / f"{policy.name}-{size}.json"
        options = {"batch_size": size, "max_new_tokens": 8, "split": "test"}
        written[size] = generate_reports(policy.place / f"{policy.name}_grpo", policy.table, out, **options)
    assert [one["model_prediction"] for one in written[4].values()] == [one["model_prediction"] for one in written[1].values()]
    assert set(written[4]) == set(policy.table.filter(lambda split: split == "test", input_columns="split")["study_id"])


def test_a_report_ends_where_its_template_ends_it(policy):
    model, processor = load_policy(policy.place / f"{policy.name}_grpo")
    stops = model.generation_config.eos_token_id
    assert set(answer_ends(processor)) <= set([stops] if isinstance(stops, int) else stops)
    (end,) = answer_ends(processor)
    with torch.no_grad():  # a policy that is sure of the end
        model.get_output_embeddings().weight.zero_()
        model.get_output_embeddings().bias = torch.nn.Parameter(torch.zeros(model.get_output_embeddings().weight.shape[0]))
        model.get_output_embeddings().bias[end] = 5
    rows = build_prompts(policy.hub, policy.table, split="test")
    inputs = model_inputs([rows[0]], processor)
    assert model.generate(**inputs, max_new_tokens=9, do_sample=False).shape[1] == inputs["input_ids"].shape[1] + 1
    ((_, _, texts),) = report_batches(model, processor, rows.select([0]), max_new_tokens=9)
    assert texts == [[""]]


def test_as_many_image_tokens_as_films_and_crops_have(policy):
    model, processor = load_policy(policy.hub)
    assert input_resolution(processor) is None, "films keep their shape until the processor has them"
    for row in list(policy.prompts.values())[:6]:
        inputs = model_inputs([row], processor)
        crops = inputs["pixel_values"].flatten(0, -4)
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == len(crops) * FILM[policy.name]
        assert len(crops) >= len(row["images"]) * (5 if policy.name == "idefics3" else 1)
    both = model_inputs(sorted(policy.prompts.values(), key=lambda row: len(row["images"]))[-1:], processor)
    assert (both["attention_mask"] == 1).all()


@pytest.mark.parametrize("name", list(HUB_LIKE))
def test_one_beginning_and_one_end_however_often_it_is_loaded_and_saved(tmp_path, name):
    processor = load_processor(HUB_LIKE[name](tmp_path / "hub"))
    asked = [{"role": "user", "content": [{"type": "text", "text": "Report."}]}]
    answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": "Normal."}]}]
    shown = processor.apply_chat_template(answered)
    shutil.copytree(tmp_path / "hub", tmp_path / "again")
    for path in (tmp_path / "again").glob("chat_template*"):
        path.unlink()
    processor.save_pretrained(tmp_path / "again")
    again = load_processor(tmp_path / "again")
    assert again.chat_template == processor.chat_template and again.apply_chat_template(answered) == shown
    ids = again.tokenizer(shown)["input_ids"]
    assert ids == again.tokenizer(shown, add_special_tokens=False)["input_ids"], "the tokenizer adds nothing of its own"
    assert ids.count(again.tokenizer.bos_token_id) == (again.tokenizer.bos_token is not None)
    assert sum(number in answer_ends(again) for number in ids) == (2 if shown.count("<|im_end|>") + shown.count("<end_of") == 2 else 1)
    assert not answer_ends(again) or again.apply_chat_template(asked, add_generation_prompt=True) in shown


def test_a_policy_without_chat_template_is_left_to_say_so(tmp_path):
    processor = load_processor(HUB_LIKE["llava"](tmp_path / "hub"))
    processor.chat_template = None
    frame_by_template(processor)
    assert processor.chat_template is None
    with pytest.raises(StudyError, match="films of its own size only"):
        load_processor(tmp_path / "hub", image_size=64)
