"What reinforcement learning may do beyond plain GRPO: each variant by itself, and in a training."

import json
import random

import pytest
import torch
from training_toys import SAID, UNSAID, toy_studies, toy_texts

from planned import plan_of
from unirg.core import Settings, StudyError, read_json, write_json
from unirg.training import grpo
from unirg.training.options import Job, recipe_of
from unirg.training.policy import build_tiny_policy, load_policy
from unirg.training.preflight import preflight
from unirg.training.variants import edited_tokens, edits, sentences_of, stated_weights, variant_of, widest_only

# ---------------------------------------------------------------- what a run asks for


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("edited=0.5", {"edited": 0.5}),
        ("widest=.25", {"widest": 0.25}),
        ("stated=3", {"stated": 3.0}),
        ("collapse=0.1", {"stop_on_collapse": 0.1}),
        ("edited=0.5, widest=0.5  stated=2", {"edited": 0.5, "widest": 0.5, "stated": 2.0}),
    ],
)
def test_variants_are_read(text, found):
    assert variant_of(text) == found and Job("grpo", "start", [], "out", **found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edits=0.5", "there is no 'edits'; there are: edited, widest, stated, collapse"),
        ("edited", "'edited' is not NAME=NUMBER"),
        ("widest=half", "'widest=half' is not NAME=NUMBER"),
        ("edited=0.7", "above 0 and at most 0.5"),
        ("widest=0", "above 0 and at most 1"),
        ("stated=-1", "above 0 and at most 100"),
        ("stated=nan", "above 0 and at most 100"),
    ],
)
def test_a_variant_that_there_is_not_is_told(text, said):
    with pytest.raises(StudyError, match=said):
        variant_of(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [("edits=0.5", "variant: variant: there is no 'edits'"), ("edited=0.5", "set trl.use_vllm = no")],
)
def test_a_plan_tells_what_is_wrong_with_a_variant_before_it_starts(tmp_path, text, said):
    plan = plan_of(Settings("recipes", {"variant": text, "runs": "base sft rl1", "trl.use_vllm": "yes"}))
    assert any(said in line and "variant" in line for line in preflight(plan))


# ---------------------------------------------------------------- edited reports

EDITS = [  # report, reference, what it may become
    ("No pleural effusion. No pneumothorax.", "There is a left pleural effusion.", {"There is a left pleural effusion. No pneumothorax."}),
    ("No pneumothorax.", "The heart is enlarged. No pneumothorax.", {"The heart is enlarged. No pneumothorax."}),
    ("The heart is enlarged. No pneumothorax.", "The heart is normal in size.", {"The heart is normal in size. No pneumothorax."}),
    ("The heart is enlarged. No pneumothorax.", "No pneumothorax.", {"No pneumothorax."}),
    ("Small right effusion.", "Small right effusion. No pneumothorax.", set()),
    ("No effusion. Normal heart.", "No effusion. Normal heart. No edema.", set()),
    ("Mild edema.", "Left rib fracture.", {"Left rib fracture. Mild edema."}),
    (
        "The heart is normal in size. There is pulmonary edema.",
        "The heart is enlarged. No pulmonary edema.",
        {"The heart is enlarged. There is pulmonary edema.", "The heart is normal in size. No pulmonary edema."},
    ),
    (  # what a sentence states besides is not thrown away with what it denies
        "Left effusion without pneumothorax.",
        "Left effusion. Small left pneumothorax.",
        {"Left effusion without pneumothorax. Small left pneumothorax."},
    ),
]


@pytest.mark.parametrize(("report", "reference", "made"), EDITS)
def test_an_edit_puts_in_replaces_or_takes_out_one_sentence(report, reference, made):
    found = edits(report, reference)
    assert set(found) == made and len(found) == len(made)
    ours, theirs = set(sentences_of(report)), set(sentences_of(reference))
    for one in found:
        new = set(sentences_of(one))
        assert len(new - ours) <= 1 and len(ours - new) <= 1 and new - ours <= theirs


def test_a_reports_own_letters_are_kept():
    assert sentences_of("Left PICC.  Heart: normal.") == ["Left PICC.", "Heart:", "normal."]
    assert " ".join(sentences_of("Heart enlarged. No effusion.")) == "Heart enlarged. No effusion."
    assert sentences_of("") in ([], [""])


WORDS = ["<end>", "no", "pleural", "effusion.", "left"]


def decode(ids):
    return " ".join(WORDS[i] for i in ids if i)


def encode(text):
    return [WORDS.index(word) for word in text.lower().split()]


@pytest.mark.parametrize(
    ("ids", "reference", "longest", "made"),
    [
        ([1, 2, 3, 0], "Left pleural effusion.", 8, [4, 2, 3, 0]),
        ([4, 2, 3, 0], "No pleural effusion.", 8, [1, 2, 3, 0]),
        ([1, 2, 3], "Left pleural effusion.", 8, None),  # cut off
        ([4, 2, 3, 0], "Left pleural effusion.", 8, None),  # nothing to mend
        ([1, 2, 3, 0], "Left pleural effusion.", 3, None),  # would be too long
        ([], "Left pleural effusion.", 8, None),
    ],
)
def test_an_edited_report_ends_as_it_ended_and_is_no_longer_than_may_be(ids, reference, longest, made):
    assert edited_tokens(ids, reference, decode, encode, [0], longest, random.Random(0)) == made


# ---------------------------------------------------------------- the widest studies


@pytest.mark.parametrize(
    ("rewards", "groups", "share", "told"),
    [
        ([1.0, 0.0, 0.6, 0.4], "aabb", 0.5, [1.0, 0.0, 0.5, 0.5]),
        ([0.6, 0.4, 1.0, 0.0], "aabb", 0.5, [0.5, 0.5, 1.0, 0.0]),
        ([1.0, 0.6, 0.0, 0.4], "abab", 0.5, [1.0, 0.5, 0.0, 0.5]),
        ([1.0, 0.0, 0.6, 0.4], "aabb", 1.0, [1.0, 0.0, 0.6, 0.4]),
        ([1.0, 0.0, 0.6, 0.4], "aabb", 0.01, [1.0, 0.0, 0.5, 0.5]),  # one at least
        ([None, None, 0.6, 0.4], "aabb", 0.5, [None, None, 0.6, 0.4]),  # a study without a judgement is not among them
        ([None, 0.2, 0.6, 0.4], "aabb", 0.5, [None, 0.2, 0.6, 0.4]),
        ([0.5, 0.5], "aa", 0.5, [0.5, 0.5]),
    ],
)
def test_only_the_widest_keep_their_rewards_and_a_groups_mean_stays(rewards, groups, share, told):
    assert widest_only(rewards, groups, share) == pytest.approx(told)
    sums = [sum(value for value in some if value is not None) for some in (rewards, told)]
    assert sums[0] == pytest.approx(sums[1])


# ---------------------------------------------------------------- more weight for what is stated


@pytest.mark.parametrize(
    ("pieces", "heavy"),
    [
        (["Left", " effusion", ".", " No", " edema", ".", ""], [0, 1, 2]),
        (["No", " edema", ".", " Left", " effusion", ".", ""], [3, 4, 5]),
        (["No", " edema", ".", " Heart", " enlarged", ". N", "o effusion."], [3, 4, 5]),  # a token that is in two sentences
        (["No", " edema", "."], []),
        (["Clear", " lungs"], []),
        ([], []),
    ],
)
def test_words_that_state_a_finding_weigh_more_and_the_mean_stays_1(pieces, heavy):
    weights = stated_weights(pieces, 3.0)
    assert len(weights) == len(pieces) and (not pieces or sum(weights) / len(weights) == pytest.approx(1))
    light = {value for number, value in enumerate(weights) if number not in heavy}
    assert all(weights[number] == pytest.approx(3 * value) for number in heavy for value in light)
    assert stated_weights(pieces, 1.0) == [1.0] * len(pieces)


# ---------------------------------------------------------------- in a training

GRPO = {"max_steps": "2", "num_generations": "4", "logging_steps": "1", "save_steps": "2", "warmup_steps": "0", "learning_rate": "1e-3"}
GRPO |= {"max_completion_length": "24", "per_device_train_batch_size": "16", "max_grad_norm": "0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    build_tiny_policy(toy_texts(), folder / "tiny")
    toy_studies(folder / "toy")
    return folder


def trained(place, name, trl=(), **more):
    "Train in this process; the record, the rollouts, and what every loss was made of."
    seen, losses = [], grpo.GRPOTrainer.compute_loss
    job = {"kind": "grpo", "start": str(place / "tiny"), "tables": [str(place / "toy")], "out": str(place / name), "batch": 4}
    job |= {"reward": "label_f1=1 bleu2=1", "trl": GRPO | dict(trl), "evaluate_studies": 4, "want": "findings"} | more

    def watched(self, model, inputs, *given, **named):
        seen.append({key: inputs[key].clone() for key in ("advantages", "completion_ids", "completion_mask")})
        return losses(self, model, inputs, *given, **named)

    grpo.GRPOTrainer.compute_loss = watched
    try:
        grpo.main(write_json(place / f"{name}.json", job))
    finally:
        grpo.GRPOTrainer.compute_loss = losses
    rows = [json.loads(line) for line in (place / name / "rollouts" / "rank0.jsonl").read_text().splitlines()]
    return read_json(place / name / "training.json"), rows, seen


@pytest.fixture
def writes(monkeypatch):
    "A policy that always writes one report: as many tokens of it as fit, and its end."

    def fix(text):
        from transformers import Qwen3VLForConditionalGeneration as Policy

        def generate(self, input_ids, **named):
            ids = torch.tensor(fix.tokens, device=input_ids.device).expand(len(input_ids), -1)
            return torch.cat([input_ids, ids], dim=1)

        fix.text = text
        monkeypatch.setattr(Policy, "generate", generate)

    return fix


def test_half_of_a_studys_reports_are_edited_scored_and_learned_from(place, writes):
    _, processor = load_policy(place / "tiny")
    tokenizer = processor.tokenizer
    report = " ".join([UNSAID["effusion"], UNSAID["cardiomegaly"]])
    writes(report)
    writes.tokens = [*tokenizer.encode(report, add_special_tokens=False), tokenizer.eos_token_id]
    record, rows, seen = trained(place, "edited", edited=0.5)
    assert len(rows) == 2 * 4 * 4 and record["recipe"]["edited"] == 0.5
    for number, row in enumerate(rows):
        sick = any(said in row["report"] for said in SAID.values())
        assert row["edited"] == sick and (not row["edited"] or number % 2), "every second at most, where there is something to mend"
    assert any(row["edited"] for row in rows)
    better = [row["reward"] for row in rows if row["edited"]]
    assert min(better) > 0 and {row["report"] for row in rows if not row["edited"]} == {report}
    learned = {tokenizer.decode(ids[mask.bool()], skip_special_tokens=True) for batch in seen for ids, mask in zip(
        batch["completion_ids"], batch["completion_mask"])}  # fmt: skip
    assert {row["report"] for row in rows} == learned, "what is scored is what is learned from"
    looks = (place / "edited" / "log.csv").read_text()
    assert "reward/edited" in looks and "eval_words" in looks, "a look is of the policy's own reports"


def test_only_half_of_a_steps_studies_are_learned_from(place):
    record, rows, seen = trained(place, "widest", widest=0.5)
    assert record["recipe"]["widest"] == 0.5 and len(rows) == 32
    for batch in seen:
        assert (batch["advantages"] != 0).sum() <= 8, "two of four studies, four reports each"
    assert len({row["reward"] for row in rows[:16]}) > 1, "the table of rollouts has the rewards as they were"


def test_a_token_that_states_a_finding_weighs_three_times_as_much(place, writes):
    _, processor = load_policy(place / "tiny")
    tokenizer = processor.tokenizer
    report = " ".join([SAID["effusion"], UNSAID["cardiomegaly"]])
    writes(report)
    writes.tokens = [*tokenizer.encode(report, add_special_tokens=False), tokenizer.eos_token_id]
    record, _, seen = trained(place, "stated", stated=3.0, edited=0.5)
    assert record["recipe"]["stated"] == 3.0
    found = 0
    for batch in seen:
        for advantages, ids, mask in zip(batch["advantages"], batch["completion_ids"], batch["completion_mask"].bool()):
            own = advantages[mask]
            if tokenizer.decode(ids[mask], skip_special_tokens=True) == report and own.abs().max() > 0:
                first = len(tokenizer.encode(SAID["effusion"], add_special_tokens=False))
                assert torch.allclose(own[:first], 3 * own[-1]) and torch.allclose(own[first:], own[-1])
                found += 1
    assert found, "some report as it was sampled had an advantage"


def test_edited_reports_and_vllm_do_not_go_together(place, monkeypatch):
    monkeypatch.setattr(grpo, "find_spec", lambda name: name)
    with pytest.raises(StudyError, match=r"set trl\.use_vllm = no"):
        trained(place, "vllm", trl={"use_vllm": "yes"}, edited=0.5)


def test_plain_grpo_tells_of_no_variant():
    told = recipe_of(Job("grpo", "start", [], "out"))
    assert not {"edited", "widest", "stated"} & set(told)
