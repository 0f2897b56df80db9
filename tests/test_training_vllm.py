"GRPO against a stand-in for vLLM (tests/vllm_stand_in): what it reads, what it may sample, and what ends a training that it falsifies."

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from training_toys import toy_studies, toy_table, toy_texts
from trl import GRPOConfig

import unirg.training.generation as generation
import unirg.training.grpo as grpo
from unirg.core import StudyError
from unirg.training.launch import launch
from unirg.training.options import OURS, option_fields, trl_options
from unirg.training.policy import build_tiny_policy, load_policy
from unirg.training.rows import training_rows

STAND_IN = Path(__file__).parent / "vllm_stand_in"
GRPO = {"use_vllm": "yes", "max_steps": "3", "num_generations": "4", "logging_steps": "5", "max_completion_length": "6", "save_steps": "99"}
GRPO |= {"learning_rate": "1e-4", "per_device_train_batch_size": "8"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A prepared source, and a tiny policy with opinions: what it writes depends on what it reads."
    folder = tmp_path_factory.mktemp("vllm")
    toy_studies(folder / "toy", 40)
    build_tiny_policy(toy_texts(), folder / "fresh")
    model, processor = load_policy(folder / "fresh")
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() == 2 and "visual" not in name:
                values *= 4
    model.save_pretrained(folder / "tiny")
    processor.save_pretrained(folder / "tiny")
    return folder


@pytest.fixture
def vllm(monkeypatch, tmp_path):
    "The stand-in is installed for whatever is started, and notes what it reads."
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("VLLM_STAND_IN_NOTE", str(tmp_path / "note"))
    monkeypatch.delenv("VLLM_STAND_IN", raising=False)
    return lambda: [told for line in (tmp_path / "note").read_text().splitlines() if (told := json.loads(line))["what"] == "prompt"]


def train(place, out, trl=None, **more):
    told = {"kind": "grpo", "trl": GRPO | (trl or {}), "batch": 2, "reward": "label_f1=1 bleu2=1", "evaluate_studies": 0}
    told |= {"start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(out), }
    return launch(told | more, show=False)


def test_vllm_reads_as_many_image_tokens_as_there_are(place, vllm, tmp_path):
    train(place, tmp_path / "rl")
    read = vllm()
    assert len(read) == 3 * 8 and {told["films"] for told in read} == {1}
    assert all(told["image_tokens"] == told["tokens_of_films"] > 1 for told in read)
    log = (tmp_path / "rl" / "log.csv").read_text().splitlines()
    rows = [dict(zip(log[0].split(","), line.split(","), strict=True)) for line in log[1:]]
    apart = [float(row["sampling/sampling_logp_difference/mean"]) for row in rows if row["sampling/sampling_logp_difference/mean"]]
    assert len(apart) >= 3 and max(apart) < 1e-2, "the same policy with the same prompt, but for the forbidden token's share"


def test_a_prompt_with_two_films_too(place, vllm, tmp_path):
    train(place, tmp_path / "rl", prior=True)
    read = vllm()
    assert {told["films"] for told in read} == {1, 2}
    assert all(told["image_tokens"] == told["tokens_of_films"] for told in read)
    assert len({told["image_tokens"] / told["films"] for told in read}) == 1


@pytest.mark.parametrize(
    "fault, said",
    [
        ("other_prompt", r"step [123]: reports are sampled by another policy"),
        ("other_weights", r"step [123]: reports are sampled by another policy"),
        ("wide", "vLLM reads another prompt than is learned from"),
    ],
)
def test_a_vllm_that_reads_something_else_ends_the_training(place, vllm, tmp_path, monkeypatch, fault, said):
    monkeypatch.setenv("VLLM_STAND_IN", fault)
    with pytest.raises(StudyError, match=said):
        train(place, tmp_path / "rl", trl={"max_steps": "6"})
    assert len(vllm()) <= 3 * 8 and not (tmp_path / "rl").exists()


def test_it_is_seen_without_the_correction_too(place, vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_STAND_IN", "other_weights")
    with pytest.raises(StudyError, match=r"step [123]: reports are sampled by another policy"):
        train(place, tmp_path / "rl", trl={"max_steps": "6", "vllm_importance_sampling_correction": "no"})


@pytest.mark.parametrize("corrects", [True, False])
@pytest.mark.parametrize("ratio", [[[0.5, 2.0], [1.0, 3.0]], [[0.25], [4.0]], None])
def test_what_is_only_looked_at_has_no_weight(monkeypatch, corrects, ratio):
    "TRL's loss is handed ratios, a token's or a report's, only where they are to correct it."
    monkeypatch.setattr(grpo.GRPOTrainer, "compute_loss", lambda self, model, inputs, *more, **named: inputs)
    trainer = object.__new__(grpo.GrpoTrainer)
    trainer.corrects = corrects
    given = {"advantages": torch.ones(2)} | ({} if ratio is None else {"importance_sampling_ratio": torch.tensor(ratio)})
    found = trainer.compute_loss(None, given, num_items_in_batch=2)
    assert found.keys() == given.keys()
    if ratio is not None:
        assert found["importance_sampling_ratio"].tolist() == (ratio if corrects else [[1.0] * len(ratio[0])] * 2)
        assert given["importance_sampling_ratio"].tolist() == ratio, "kept as it was for the next step"


def test_an_image_token_is_never_sampled(place, vllm, tmp_path, monkeypatch):
    "The stand-in likes it best of all; words that the settings forbid do not take its place."
    monkeypatch.setenv("VLLM_STAND_IN", "eager")
    train(place, tmp_path / "rl", trl={"max_steps": "1", "generation_kwargs": '{"bad_words": ["<|endoftext|>"]}'})
    assert len((tmp_path / "rl" / "rollouts" / "rank0.jsonl").read_text().splitlines()) == 8


def test_an_image_token_that_was_sampled_all_the_same_ends_the_training(place, vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_STAND_IN", "eager defiant")
    with pytest.raises(StudyError, match="a sampled report holds a film's token"):
        train(place, tmp_path / "rl", trl={"max_steps": "1"})


AGREEING = [(1.0, 0.02, False), (0.6, 0.09, False), (0.3, 0.02, True), (2.5, 0.0, True), (1.0, 0.11, True), (float("nan"), 0.0, True)]


@pytest.mark.parametrize("ratio, apart, stops", AGREEING)
@pytest.mark.parametrize("begun", [0, 700])
def test_the_first_steps_are_looked_at_after_a_resume_too(ratio, apart, stops, begun):
    guard, told = grpo.SamplingGuard(), {"sampling/importance_sampling_ratio/mean": ratio, "sampling/sampling_logp_difference/mean": apart}
    guard.on_train_begin(None, SimpleNamespace(global_step=begun), None)
    for step in range(1, 14):
        state, control = SimpleNamespace(global_step=begun + step), SimpleNamespace(should_log=False)
        guard.on_step_end(SimpleNamespace(use_vllm=True), state, control)
        assert control.should_log == (step <= 10)
        with pytest.raises(StudyError, match=f"step {begun + step}") if stops and step <= 10 else contextlib.nullcontext():
            guard.on_log(None, state, control, told)


FILM = 9
PROMPTS = [  # prompt, films, as vLLM wants it
    ([1, 9, 9, 9, 2], 1, [1, 9, 2]),
    ([9, 9], 1, [9]),
    ([1, 9, 2], 1, [1, 9, 2]),
    ([1, 9, 9, 2, 9, 9, 3], 2, [1, 9, 2, 9, 3]),
    ([1, 9, 9, 9, 9, 3], 2, [1, 9, 9, 3]),
    ([1, 2, 3], 0, [1, 2, 3]),
    ([9, 9, 1, 9, 9, 9, 2, 9], 3, [9, 1, 9, 2, 9]),
]


@pytest.mark.parametrize("tokens, films, short", PROMPTS)
def test_a_film_is_one_token_for_vllm(tokens, films, short):
    assert grpo.one_token_per_image(tokens, FILM, films) == short


@pytest.mark.parametrize("tokens, films", [([1, 9, 9], 0), ([1, 2], 1), ([9, 1, 9], 1), ([9, 1, 9], 3), ([9, 9, 1, 9, 9], 4)])
def test_films_and_tokens_that_do_not_match_are_an_error(tokens, films):
    with pytest.raises(StudyError, match="image tokens"):
        grpo.one_token_per_image(tokens, FILM, films)


def test_prompts_without_films_and_a_server_are_handed_on_as_they_are():
    seen = []

    def generate(prompts, images, num_generations, profiler=None):
        seen.append((prompts, images, num_generations, profiler))
        return prompts, [[4]] * len(prompts), None, None

    wide, film = [1, 9, 9, 2], Image.new("L", (8, 8))
    for widens, images in ((True, None), (True, [None]), (False, [[film]])):
        prompts = [wide if images and images[0] else [1, 2]]
        told = grpo.reads_the_same(generate, FILM, widens)(prompts=prompts, images=images, num_generations=4, profiler="p")
        assert told == (prompts, [[4]], None, None) and seen[-1] == (prompts, images, 4, "p")
    assert grpo.reads_the_same(generate, FILM, True)([wide], [[film]], 4)[0] == [[1, 9, 2]]


NAMES = [name for name in option_fields("grpo") if name.startswith(("vllm_", "use_vllm")) or "importance_sampling" in name]
OTHERS = {"vllm_mode": "server", "vllm_model_impl": "transformers", "vllm_importance_sampling_mode": "sequence_truncate"}
OTHERS |= {"vllm_server_base_url": "http://node2:8000", "vllm_structured_outputs_regex": "[A-Z].*", "importance_sampling_level": "sequence"}


def value_for(name):
    "A value that is not the default, as settings.ini words it, and what it is to be."
    default = next(each.default for each in dataclasses.fields(GRPOConfig) if each.name == name)
    if name in OTHERS:
        return OTHERS[name], OTHERS[name]
    if isinstance(default, bool):
        return ("no", False) if default else ("yes", True)
    if isinstance(default, int):
        return str(default + 1), default + 1
    if isinstance(default, float):
        return str(default / 2), default / 2
    kind = str(option_fields("grpo")[name][0])
    return ("7", 7) if "int" in kind else ("0.5", 0.5) if "float" in kind else ("x", "x")


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_vllm_and_of_importance_sampling_reaches_trl(name):
    text, value = value_for(name)
    assert name not in OURS and len(NAMES) > 15
    assert trl_options("grpo", {name: text}, "settings") == {name: value}


def test_options_of_both_modes_make_a_config():
    for mode in ("colocate", "server"):
        told = trl_options("grpo", {"use_vllm": "yes", "vllm_mode": mode, "vllm_server_base_url": "http://node2:8000"}, "settings")
        assert GRPOConfig(output_dir="x", bf16=False, **told).vllm_mode == mode


@pytest.fixture
def vllm_here(vllm, monkeypatch):
    "The stand-in in this process too."
    monkeypatch.syspath_prepend(str(STAND_IN))
    yield vllm
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("prior, side, samples", [(False, None, 0), (True, None, 0), (False, 96, 0), (True, 64, 0), (True, None, 3)])
def test_vllm_writes_what_transformers_writes(place, vllm_here, tmp_path, prior, side, samples):
    rows = training_rows(toy_table(10), image_size=side or 64, split=None, prior=prior)
    writing = generation.Writing(str(place / "tiny"), side, max_new_tokens=8, samples=samples)
    batch = [rows[row] for row in range(6)]
    written = generation.VllmWriter(writing, rows)(batch)
    if samples:
        assert [len(texts) for texts in written] == [samples] * 6
    else:
        assert written == generation.TransformersWriter(writing, rows)(batch)
    made = json.loads((tmp_path / "note").read_text().splitlines()[0])
    read = vllm_here()
    assert {told["films"] for told in read} == ({1, 2} if prior else {1})
    assert all(told["image_tokens"] == told["tokens_of_films"] for told in read) and made["dtype"] == "float32"
    longest = max(told["length"] for told in read)
    assert longest + 8 <= made["max_model_len"] < 2 * longest + 100


def test_a_file_by_vllm(place, vllm_here, tmp_path):
    options = dict(table=place / "toy", split="test", max_new_tokens=6, engine="vllm")
    assert len(generation.generate_reports(place / "tiny", out=tmp_path / "p.json", **options)) == len(vllm_here()) == 8
