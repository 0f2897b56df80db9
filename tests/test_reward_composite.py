"The composite reward: TRL's calling convention, what it refuses, and what must not pay."

import math
import os

import pytest
import torch

from unirg.core import StudyError
from unirg.reward import composite
from unirg.reward.composite import REWARDS, STEP1, STEP2, Composite, RayActors, completion_text, composite_from, parse_weights
from unirg.reward.judge import count_errors
from unirg.reward.metrics import BertScore

REFERENCES = {
    "effusion": "Small left pleural effusion with left lower lobe atelectasis. Mild cardiomegaly. No pneumothorax.",
    "lesion": "There is a nodule in the right upper lobe. The heart size is normal. No pleural effusion or pneumothorax.",
    "edema": "Moderate pulmonary edema, worsened from the prior study. Small right pleural effusion. Enlarged heart.",
}
NORMAL = "The heart size is normal. The lungs are clear. No pleural effusion or pneumothorax."
EVERYTHING = (
    "Large bilateral pleural effusions, pneumothorax, consolidation, pneumonia, edema, atelectasis, cardiomegaly, "
    "mediastinal widening, nodule, rib fracture and a central line."
)
FLIPPED = {
    "effusion": "No left pleural effusion or atelectasis. No cardiomegaly. There is a pneumothorax.",
    "lesion": "There is no nodule. The heart is enlarged. There is a pleural effusion and a pneumothorax.",
    "edema": "No pulmonary edema. No right pleural effusion. The heart size is normal.",
}
PARAPHRASE = {
    "effusion": "Small pleural effusion on the left and atelectasis in the left lower lobe. The heart is mildly enlarged. No pneumothorax.",
    "lesion": "Right upper lobe nodule. Normal heart size. There is no pneumothorax or pleural effusion.",
    "edema": "Pulmonary edema is moderate and has worsened since the prior study. There is a small right pleural effusion. Cardiomegaly.",
}


def swapped(text: str) -> str:
    return text.replace("left", "\0").replace("right", "left").replace("\0", "right")


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("study", list(REFERENCES))
def test_the_reference_outranks_what_must_not_pay(study, step):
    reference = REFERENCES[study]
    probes = {
        "empty": "",
        "spaces": "  \n ",
        "header": "Findings: Impression:",
        "constant normal": NORMAL,
        "negation flipped": FLIPPED[study],
        "side swapped": swapped(reference),
        "everything": EVERYTHING,
        **{f"other {other}": text for other, text in REFERENCES.items() if other != study},
    }
    reward = Composite(step=step)
    scores = dict(zip(probes, reward(list(probes.values()), [reference] * len(probes))))
    own, paraphrase = reward([reference, PARAPHRASE[study]], [reference] * 2)
    assert own == pytest.approx(sum((STEP1 if step == 1 else STEP2).values()), abs=1e-5)
    assert own > paraphrase
    for probe, score in scores.items():
        assert score < own - 0.01, probe
    for probe in ("empty", "constant normal", "negation flipped", "everything"):
        assert scores[probe] < 2 / 3 * own, probe
    if step == 2:
        assert paraphrase > max(scores.values())
        assert study == "edema" or scores["side swapped"] < 2 / 3 * own


@pytest.mark.parametrize("step", [1, 2])
def test_a_degree_that_is_mostly_right_pays_and_leaving_it_out_does_not(step):
    "A policy that is right about a degree two times in three must not earn by silence, and one that has none to give need not invent it."
    for words in ("{}pleural effusion on the left.", "{}pulmonary edema. No pneumothorax."):
        small, large, bare = (words.format(degree).capitalize() for degree in ("moderate ", "severe ", ""))
        right, wrong, silent = Composite(step=step)([small, large, bare], [small] * 3)
        assert wrong < right and silent < right and silent < (2 * right + wrong) / 3
        assert Composite(step=step)([small], [bare])[0] < Composite(step=step)([bare], [bare])[0]


def test_trl_calls_it_as_it_is():
    "The keywords GRPOTrainer passes, completions as messages."
    reward, logged = Composite(step=1), {}
    texts = [REFERENCES["effusion"], NORMAL]
    scores = reward(
        prompts=[[{"role": "user", "content": "Report."}]] * 2,
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[1], [2]],
        reference=[REFERENCES["effusion"]] * 2,
        study_id=["s1", "s2"],
        trainer_state=None,
        log_extra=None,
        log_metric=logged.__setitem__,
    )
    assert all(type(score) is float for score in scores) and scores[0] > scores[1]
    assert reward.__name__ == "composite_step1" and {f"reward/{name}" for name in STEP1} < set(logged)
    assert logged["reward/judged_errors"] > 0 and logged["reward/distinct"] == 1
    assert reward([], []) == []


def test_rewards_do_not_depend_on_their_neighbours():
    reward, reference = Composite(step=2), REFERENCES["effusion"]
    texts = [reference, NORMAL, EVERYTHING, reference, ""]
    together = reward(texts, [reference] * 5)
    assert together == pytest.approx([reward([text], [reference])[0] for text in texts], abs=1e-5) and together[0] == together[3]


def test_equal_pairs_are_scored_once(monkeypatch):
    seen = []
    monkeypatch.setitem(composite.PAIRWISE, "fact_f1", lambda *pair: seen.append(pair) or 0.5)
    assert Composite(weights={"fact_f1": 1}, watch=())([NORMAL] * 6, [NORMAL] * 6) == [0.5] * 6 and len(seen) == 1


def test_the_weighted_sum_is_what_the_components_give():
    reference, reward = REFERENCES["edema"], Composite(step=2)
    parts = reward.components([NORMAL], [reference])
    expected = sum(weight * parts[name][0] for name, weight in STEP2.items())
    assert reward([NORMAL], [reference]) == pytest.approx([expected]) and parts["error_term"][0] == 1 / (parts["judged_errors"][0] + 1)


def test_what_is_wrong_is_named(monkeypatch):
    reward = Composite(step=1)
    with pytest.raises(StudyError, match="2 predictions but 1 references"):
        reward([NORMAL, NORMAL], [NORMAL])
    with pytest.raises(StudyError, match="reference of study s2 is None"):
        reward([NORMAL, NORMAL], [NORMAL, None], study_id=["s1", "s2"])
    monkeypatch.setattr(BertScore, "score", lambda self, predictions, references: [math.nan] * len(predictions))
    with pytest.raises(StudyError, match="component bertscore_minilm: study s9 scored nan"):
        reward([NORMAL], [NORMAL], study_id=["s9"])
    monkeypatch.setattr(BertScore, "score", lambda self, predictions, references: [])
    with pytest.raises(StudyError, match="bertscore_minilm"):
        reward([NORMAL], [NORMAL], study_id=["s9"])


def test_settings_name_rewards():
    assert composite_from("step2").weights == STEP2 and composite_from("step2").__name__ == "composite_step2"
    assert composite_from("bleu").weights == {"bleu2": 1.0} and {"step1", "step2", "bleu", "labels", "facts"} < set(REWARDS)
    assert composite_from("bleu2=0 bertscore_minilm=0.37 label_cosine=0.253 fact_f1=0.377").weights == STEP1
    refused = {"steps": "step1", "radgraph=1": "radgraph", "fact_f1=much": "fact_f1=much", "fact_f1=0": "nothing", "fact_f1=nan": "nan"}
    for setting, part in refused.items():
        with pytest.raises(StudyError, match=part):
            composite_from(setting)
    with pytest.raises(StudyError, match="semb"):
        Composite(weights={"semb": 1})
    with pytest.raises(StudyError, match="step is 3"):
        Composite(step=3)
    assert parse_weights("fact_f1=1") == {"fact_f1": 1.0}


def test_completions_come_as_text_or_messages():
    assert completion_text("a") == "a" and completion_text([]) == ""
    assert completion_text([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]) == "a"
    assert completion_text([{"role": "assistant", "content": None}]) == ""


@pytest.mark.parametrize("weights", [{}, {"fact_f1": 0.0}, {"fact_f1": 0, "bleu2": 0}])
def test_weights_that_reward_nothing_are_no_step_2(weights):
    with pytest.raises(StudyError, match="reward nothing"):
        Composite(weights=weights)


@pytest.mark.parametrize("step, most", [(1, 1.0), (2, 1.5)])
def test_a_copy_has_the_most_that_can_be_had(step, most):
    copy, other, nothing = Composite(step=step)([NORMAL, "Large left effusion.", ""], [NORMAL] * 3)
    assert copy == pytest.approx(most) and nothing < copy and other < copy


def test_the_papers_reward_needs_its_weights_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIRG_WEIGHTS", str(tmp_path))
    with pytest.raises(StudyError, match=r"bertscore: config.json is missing"):
        composite_from("paper_step1")
    with pytest.raises(StudyError, match="give the composite a judge"):
        composite_from("paper_step2")
    assert {name: weight for name, weight in REWARDS["paper_step2"].items() if weight} == {
        "bertscore": 0.370,
        "sembscore": 0.253,
        "radgraph": 0.377,
        "error_term": 0.5,
    }


def test_what_is_logged():
    left, logged = REFERENCES["effusion"], {}
    texts, studies = [left, NORMAL, left, left], ["a", "a", "b", "b"]
    reward = Composite(weights={"fact_f1": 1}, watch=("label_f1",), end_ids=[9])
    scores = reward(texts, [left] * 4, completion_ids=[[1, 9], [1, 2], [9], []], study_id=studies, log_metric=logged.__setitem__)
    assert logged["reward/fact_f1"] == pytest.approx(sum(scores) / 4) and logged["reward/label_f1"] == pytest.approx(0.75)
    assert logged["reward/label_f1_std"] == pytest.approx((0.75 * 0.25) ** 0.5)
    assert logged["reward/group_variance"] == pytest.approx(((scores[0] - scores[1]) / 2) ** 2 / 2)
    assert logged["reward/truncated"] == 0.5 and logged["reward/distinct"] == 0.5 and logged["reward/seconds"] > 0


def test_a_failed_judgement_is_none_for_that_completion_alone():
    reference, logged = REFERENCES["edema"], {}

    def judge(predictions, references):
        return [None if text == NORMAL else count_errors(text, to) for text, to in zip(predictions, references)]

    reward = Composite(step=2, judge=judge)
    scores = reward([reference, NORMAL, EVERYTHING], [reference] * 3, log_metric=logged.__setitem__)
    by_rule = Composite(step=2)([reference, NORMAL, EVERYTHING], [reference] * 3)
    assert scores[1] is None and [scores[0], scores[2]] == pytest.approx([by_rule[0], by_rule[2]])
    assert logged["reward/judge_missing"] == pytest.approx(1 / 3) and logged["reward/judged_errors"] > 0
    assert None not in Composite(step=1, judge=judge)([NORMAL], [reference]), "a judgement that carries no weight is not needed"
    with pytest.raises(StudyError, match="judged_errors: 0 judgements for 1"):
        Composite(judge=lambda predictions, references: [])([NORMAL], [reference])


def silence(prediction, reference):
    return float(not prediction)


def test_a_measure_of_ones_own(monkeypatch, tmp_path):
    (tmp_path / "our_measures.py").write_text("def half(prediction, reference):\n    return 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert composite_from("our_measures.half=2")([NORMAL], [NORMAL]) == [1.0]
    assert Composite(weights={"silence": 1}, measures={"silence": silence})(["", NORMAL], [NORMAL] * 2) == [1.0, 0.0]
    with pytest.raises(StudyError, match=r"our_measures.third"):
        composite_from("our_measures.third=1")
    with pytest.raises(StudyError, match="study s4 scored nan"):
        Composite(weights={"it": 1}, measures={"it": lambda *pair: math.nan})([NORMAL], [NORMAL], study_id=["s4"])
    with pytest.raises(StudyError, match="study s4 scored None"):
        Composite(weights={"it": 1}, measures={"it": lambda *pair: None})([NORMAL], [NORMAL], study_id=["s4"])


def some_rollouts():
    texts = [*REFERENCES.values(), NORMAL, EVERYTHING, "", *PARAPHRASE.values()]
    return [text for text in texts for _ in REFERENCES], [*REFERENCES.values()] * len(texts)


def test_workers_give_the_same_rewards():
    "Of one, two and three workers to the last bit; this process may run more threads, which round otherwise."
    texts, references = some_rollouts()
    rewards = {}
    for count in (1, 2, 3):
        reward = Composite(weights={**STEP2, "silence": 1}, measures={"silence": silence}, workers=count)
        try:
            rewards[count] = reward(texts, references)
            assert reward(texts[:1], references[:1]) == pytest.approx(rewards[count][:1], abs=1e-6)
        finally:
            reward.close()
    assert rewards[1] == rewards[2] == rewards[3]
    here = Composite(weights={**STEP2, "silence": 1}, measures={"silence": silence})(texts, references)
    assert rewards[1] == pytest.approx(here, abs=1e-6)


class WordLengths:
    "A measure with parts: words; it writes down which it looks at."

    def __init__(self, log):
        self.log, self.taken = log, {}

    def cache_keys(self, texts):
        return dict.fromkeys(word for text in texts for word in text.split())

    def compute(self, parts):
        made = {word: len(word) for word in parts if word not in self.taken}
        with open(self.log, "a") as file:
            file.writelines(f"{word}\n" for word in made)
        return made | {word: self.taken[word] for word in parts if word in self.taken}

    def fill_cache(self, made):
        self.taken |= made

    def score(self, predictions, references):
        made = self.compute(self.cache_keys([*predictions, *references]))
        return [float(sum(made[word] for word in text.split())) for text in predictions]


def test_what_several_workers_need_is_made_once(tmp_path):
    texts, references = some_rollouts()
    reward = Composite(weights={"letters": 1}, watch=(), measures={"letters": WordLengths(tmp_path / "seen")}, workers=3)
    try:
        assert reward(texts, references) == [len("".join(text.split())) for text in texts]
    finally:
        reward.close()
    seen = (tmp_path / "seen").read_text().split()
    assert sorted(seen) == sorted({word for text in [*texts, *references] for word in text.split()})


def threads(prediction, reference):
    return torch.get_num_threads()


def test_a_worker_takes_one_core_whatever_its_script_imports(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # this file imports torch, and a worker imports this file to find `threads`
    reward = Composite(weights={"threads": 1}, watch=(), measures={"threads": threads}, workers=2)
    try:
        assert reward([NORMAL, EVERYTHING], list(REFERENCES.values())[:2]) == [1, 1]
    finally:
        reward.close()
    assert os.environ["OMP_NUM_THREADS"] == "2"


def failing(prediction, reference):
    if prediction == "die":
        os._exit(1)
    raise ValueError(f"cannot read '{prediction}'")


def test_what_happens_to_a_worker_reaches_the_caller():
    for text, error, said in (("odd", ValueError, "cannot read 'odd'"), ("die", StudyError, "one of 2 worker processes ended")):
        reward = Composite(weights={"failing": 1}, watch=(), measures={"failing": failing}, workers=2)
        try:
            with pytest.raises(error, match=said):
                reward([text] * 2, ["a", "b"])
        finally:
            reward.close()


def test_ray_actors_give_the_same_rewards():
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    import ray

    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # Ray gives its own processes 30 seconds, which a crowded machine may not grant
        pytest.skip(f"Ray does not start here: {error}")
    texts, references = some_rollouts()
    reward = Composite(step=2, workers=RayActors(2, num_cpus=0.5))
    try:
        assert reward(texts, references) == pytest.approx(Composite(step=2)(texts, references), abs=1e-6)
    finally:
        reward.close()
        ray.shutdown()


def test_workers_that_settings_cannot_mean():
    for setting in ("two", "ray:", "cluster:2", "-1"):
        with pytest.raises(StudyError, match="reward workers"):
            Composite(step=1, workers=setting)
