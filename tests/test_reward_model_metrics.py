"Model-based measures on weights of the true format filled with random numbers: loading, shapes, batching, and what is refused."

import importlib.util
import json
import math
import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from unirg.core import StudyError
from unirg.reward.composite import Composite
from unirg.reward.findings import CHEXPERT_NAMES
from unirg.reward.metrics import minilm_folder
from unirg.reward.model_metrics import (
    MODEL_MEASURES,
    NEEDS,
    RATE_KINDS,
    Green,
    RadGraph,
    RateScore,
    ReferenceBertScore,
    SembScore,
    entity_spans,
    green_from,
    mean_between,
    older_tokenizers,
    own_device,
    radgraph_items,
    rate_half,
    set_f1,
)

TEXTS = ["No effusion.", "Small left pleural effusion, worse than before. The heart is enlarged.", "Clear lungs.\nNo pneumothorax!"]
PAIRS = (TEXTS, TEXTS[1:] + TEXTS[:1])
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(7)


def small_bert(folder, **config):
    "A BERT of random numbers with BERT-base's vocabulary, as Hugging Face saves it."
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96, "initializer_range": 0.3}
    transformers.AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    return transformers.BertConfig(**(sizes | config))


@pytest.mark.parametrize("name", list(MODEL_MEASURES))
def test_without_weights_it_raises_when_it_is_made(name, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIRG_WEIGHTS", str(tmp_path))
    with pytest.raises(StudyError, match=f"{name}: .* is missing in {tmp_path / NEEDS[name].folder}"):
        MODEL_MEASURES[name]()
    with pytest.raises(StudyError, match=name):
        Composite(weights={name: 1})


# ---------------------------------------------------------------- CheXbert


def chexbert_parts(config):
    heads = torch.nn.ModuleList([*(torch.nn.Linear(config.hidden_size, 4) for _ in range(13)), torch.nn.Linear(config.hidden_size, 2)])
    return torch.nn.ModuleDict({"bert": transformers.BertModel(config), "linear_heads": heads}).eval()


def save_chexbert(parts, folder, prefix="module."):
    state = {f"{prefix}{name}": value for name, value in parts.state_dict().items()}
    torch.save({"epoch": 7, "model_state_dict": state, "optimizer_state_dict": {"state": {}}}, folder / "chexbert.pth")


@pytest.fixture
def chexbert(tmp_path):
    "A small CheXbert: its folder and its parts."
    parts = chexbert_parts(small_bert(tmp_path))
    save_chexbert(parts, tmp_path)
    return tmp_path, parts


def test_chexbert_of_the_true_size_loads(tmp_path):
    "BERT-base, 768 wide, twelve layers and heads."
    small_bert(tmp_path)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in chexbert_parts(transformers.BertConfig()).state_dict().items()}
    state = {name: torch.empty(shape).uniform_(-0.02, 0.02) for name, shape in shapes.items()}
    torch.save({"model_state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "chexbert.pth")
    measure = SembScore(tmp_path, device="cpu")
    _, loaded = measure.load()
    assert loaded["bert"].config.num_attention_heads == 12 and loaded["bert"].config.num_hidden_layers == 12
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in state.items())
    assert measure.readings(TEXTS[:1])[TEXTS[0]][0].shape == (768,)


def test_chexbert_labels_and_scores_are_what_its_weights_say(chexbert):
    folder, parts = chexbert
    measure = SembScore(folder, device="cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    classes = {0: None, 1: 1, 2: 0, 3: -1}
    vectors = []
    for text, labels in zip(TEXTS, measure.labels(TEXTS)):
        with torch.inference_mode():
            vectors.append(parts["bert"](**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0])
            expected = [classes[int(head(vectors[-1]).argmax())] for head in parts["linear_heads"]]
        assert list(labels) == list(CHEXPERT_NAMES.values()) and list(labels.values()) == expected
    cosine = torch.nn.functional.cosine_similarity(torch.stack(vectors), torch.stack(vectors[1:] + vectors[:1])).tolist()
    assert measure.score(*PAIRS) == pytest.approx(cosine, abs=1e-5)
    assert len({str(labels) for labels in measure.labels(TEXTS)}) > 1


def test_a_text_does_not_depend_on_its_batch(chexbert):
    folder, _ = chexbert
    texts = [*TEXTS, "", "opacity " * 3000]
    together, alone = SembScore(folder, batch_size=8).readings(texts), SembScore(folder, batch_size=1).readings(texts)
    for text in texts:
        assert np.allclose(together[text][0], alone[text][0], atol=1e-5) and together[text][1] == alone[text][1]


def test_labels_of_lists_alone(chexbert):
    folder, _ = chexbert
    measure = SembScore(folder, device="cpu")
    assert len(measure.labels(text for text in TEXTS)) == 3 == len(measure.labels((*TEXTS[:2], "Small \ud83d effusion.")))
    for call in (measure.labels, measure.readings, lambda texts: measure.score(texts, TEXTS[:1])):
        with pytest.raises(StudyError, match="a list is wanted, one entry a report, not one text"):
            call(TEXTS[0])


def test_a_plain_vocabulary_is_enough(chexbert):
    "bert-base-uncased is often kept as vocab.txt alone."
    folder, _ = chexbert
    expected = SembScore(folder, device="cpu").score(*PAIRS)
    numbers = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    for file in folder.glob("*.json"):
        file.unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(numbers, key=numbers.get)) + "\n")
    assert SembScore(folder, device="cpu").score(*PAIRS) == pytest.approx(expected, abs=1e-6)


def test_weights_of_another_form_are_refused(chexbert):
    folder, parts = chexbert
    state = dict(parts.state_dict())
    for wrong in ({"model_state_dict": dict(list(state.items())[:-1])}, {"state_dict": state}, {"model_state_dict": {**state, "x": state}}):
        torch.save(wrong, folder / "chexbert.pth")
        with pytest.raises(StudyError, match="sembscore: the weights in"):
            SembScore(folder).load()
    (folder / "chexbert.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(StudyError, match="sembscore"):
        SembScore(folder).load()


def test_a_measure_travels_without_its_weights(chexbert):
    folder, _ = chexbert
    measure = SembScore(folder, device="cpu")
    measure.load()
    sent = pickle.dumps(measure)
    assert len(sent) < 1000 and pickle.loads(sent).score(*PAIRS) == pytest.approx(measure.score(*PAIRS), abs=1e-6)
    with pytest.raises(StudyError, match="sembscore: 1 predictions but 2"):
        measure.score(["a"], ["a", "b"])


def test_a_gpu_gives_what_the_cpu_gives(chexbert):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    folder, _ = chexbert
    assert SembScore(folder).score(*PAIRS) == pytest.approx(SembScore(folder, device="cpu").score(*PAIRS), abs=1e-3)


# ---------------------------------------------------------------- BERTScore


@pytest.fixture
def distilroberta(tmp_path):
    "distilroberta's architecture (six layers) in small, with a byte-level vocabulary of its own."
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TEXTS * 5, vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False
    )
    fast = transformers.RobertaTokenizerFast(tokenizer_object=tokenizer._tokenizer, model_max_length=512)
    fast.save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 514}
    transformers.RobertaModel(transformers.RobertaConfig(vocab_size=len(fast), type_vocab_size=1, **sizes)).save_pretrained(tmp_path)
    return tmp_path


def test_bertscore_is_the_librarys(distilroberta):
    library = pytest.importorskip("bert_score", reason="bert_score is not installed")
    scorer = library.BERTScorer(model_type=str(distilroberta), num_layers=5, idf=False, device="cpu")
    raw = np.array(scorer.score(*([" ".join(text.split()) for text in texts] for texts in PAIRS))[2].tolist())
    expected = (raw - 0.8473319) / (1 - 0.8473319)
    measure = ReferenceBertScore(distilroberta, device="cpu")
    assert measure.score(*PAIRS) == pytest.approx(expected.tolist(), abs=1e-4)
    assert measure.score(*PAIRS) == pytest.approx(expected.tolist(), abs=1e-4), "and so when its texts are known"
    assert measure.score(TEXTS, TEXTS) == pytest.approx([1, 1, 1], abs=1e-5)
    assert measure.score([""], TEXTS[:1]) == pytest.approx([-0.8473319 / (1 - 0.8473319)])


def test_bertscore_takes_white_space_of_any_kind_for_one_blank(distilroberta):
    measure = ReferenceBertScore(distilroberta, device="cpu")
    laid_out = ["No  effusion.", " No effusion.\n", "No\neffusion.", "No\r\n\r\n  effusion.", "No\u00a0\u2028effusion."]
    assert measure.score(laid_out, ["No effusion."] * 5) == pytest.approx([1] * 5, abs=1e-5)


WORDLESS = ["", " ", "\n\n", "\t \u2003", "\u200b", ".", "-", "\ufeff", "\ud83d", "\x00"]


@pytest.mark.parametrize("text", WORDLESS, ids=ascii)
def test_a_completion_without_words_does_not_rule_its_group(distilroberta, monkeypatch, text):
    "The component ends at 0, whatever the measure gives; the measure stays the library's."
    monkeypatch.setitem(MODEL_MEASURES, "bertscore", lambda: ReferenceBertScore(distilroberta, device="cpu"))
    reward = Composite(weights={"bertscore": 0.37, "bleu2": 0.63})
    reference = TEXTS[1]
    silent, *others = reward([text, "No effusion.", "Small effusion.", reference], [reference] * 4)
    assert 0 <= silent <= 0.37 and others[-1] == pytest.approx(1, abs=1e-5)
    assert reward.components(["", reference], [reference] * 2)["bertscore"] == pytest.approx([0, 1], abs=1e-5)


def test_what_is_no_number_is_an_error_and_not_nothing(distilroberta, monkeypatch):
    monkeypatch.setitem(MODEL_MEASURES, "bertscore", lambda: ReferenceBertScore(distilroberta, device="cpu"))
    reward = Composite(weights={"bertscore": 1.0})
    _, model = reward.measures.made["bertscore"].load()
    for broken in (math.nan, math.inf):
        torch.nn.init.constant_(model.encoder.layer[0].output.dense.weight, broken)
        with pytest.raises(StudyError, match="bertscore: study s1 scored nan"):
            reward.components([f"No effusion {broken}."], ["An effusion."], ["s1"])


@pytest.mark.parametrize(
    ("f1", "precision", "recall", "right"),
    [(0.5, 0.4, 0.7, 0.5), (-17.4, 0.3, -0.29, -0.29), (17.4, -0.3, 0.29, 0.29), (0.0, 0.0, 0.0, 0.0), (-0.3, -0.2, -0.4, -0.3)],
)
def test_a_mean_lies_between_what_it_is_the_mean_of(f1, precision, recall, right):
    assert mean_between(f1, precision, recall) == right


# ---------------------------------------------------------------- RadGraph

LEFT = {"1": {"tokens": "effusion", "label": "OBS-DP", "relations": [["located_at", "2"]]}, "2": {"tokens": "left", "label": "ANAT-DP"}}
LEFT["2"]["relations"] = []
BARE = {"1": {"tokens": "effusion", "label": "OBS-DP", "relations": []}}


def test_radgraph_counts_as_radcliq_does():
    "By hand: one of two entities is shared, no relation."
    left, bare = radgraph_items(LEFT), radgraph_items(BARE)
    assert set_f1(bare["entities"], left["entities"]) == pytest.approx(2 / 3) and set_f1(bare["relations"], left["relations"]) == 0
    assert set_f1(bare["partial"], left["partial"]) == 0 and set_f1(bare["simple"], left["simple"]) == pytest.approx(2 / 3)
    assert set_f1(set(), set()) == 0


def save_radgraph(folder):
    "Weights of radgraph's form, and the model that made them."
    from radgraph.dygie.models.dygie import DyGIE

    (folder / "vocabulary").mkdir()
    bert = small_bert(folder / "bert")
    transformers.BertModel(bert).save_pretrained(folder / "bert")
    indexer = {"type": "pretrained_transformer_mismatched", "model_name": "microsoft/some-bert", "max_length": 512}
    feedforward = {"num_layers": 2, "hidden_dims": 150, "dropout": 0.4}
    events = {"trigger_spans_per_word": 0.3, "argument_spans_per_word": 0.8, "loss_weights": {"trigger": 1.0, "arguments": 1.0}}
    modules = {"coref": {"spans_per_word": 0.3, "max_antecedents": 100, "coref_prop": 0}, "ner": {}, "relation": {"spans_per_word": 0.5}}
    model = {"type": "dygie", "embedder": {"token_embedders": {"bert": indexer}}, "feature_size": 20, "max_span_width": 12}
    model |= {"target_task": "relation", "feedforward_params": feedforward, "initializer": {}, "module_initializer": {}}
    model |= {"loss_weights": {"ner": 0.2, "relation": 1.0, "coref": 0.0, "events": 0.0}, "modules": modules | {"events": events}}
    reader = {"type": "dygie", "max_span_width": 12, "token_indexers": {"bert": indexer}}
    (folder / "config.json").write_text(json.dumps({"dataset_reader": reader, "model": model}))
    words = {"non_padded_namespaces": ["*labels", "*tags"], "radgraph__ner_labels": ["", "ANAT-DP", "OBS-DP", "OBS-U", "OBS-DA"]}
    words["radgraph__relation_labels"] = ["", "modify", "located_at", "suggestive_of"]
    for name, lines in words.items():
        (folder / "vocabulary" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (folder / "weights.th").touch()
    made, load = {}, DyGIE.load_state_dict
    DyGIE.load_state_dict = lambda self, state, strict=True: made.update(model=self)  # the package builds; the numbers stay random
    try:
        torch.save({}, folder / "weights.th")
        RadGraph(folder, device="cpu").load()
    finally:
        DyGIE.load_state_dict = load
    torch.save(made["model"].state_dict(), folder / "weights.th")
    return made["model"]


def test_radgraph_loads_and_runs(tmp_path):
    if importlib.util.find_spec("radgraph") is None:
        pytest.skip("the extra 'radgraph' is not installed")
    model = save_radgraph(tmp_path)
    measure = RadGraph(tmp_path, device="cpu")
    loaded = measure.load().model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    assert not hasattr(transformers.PreTrainedTokenizerBase, "encode_plus"), "what was lent is taken back"
    known = measure.readings([*TEXTS, " "])
    assert any(known[text]["entities"] for text in TEXTS) and not known[" "]["entities"]
    scores = measure.score(TEXTS, TEXTS)
    assert scores == [1.0 if known[text]["relations"] else 0.5 if known[text]["entities"] else 0.0 for text in TEXTS]
    alone = RadGraph(tmp_path, device="cpu", level="partial")
    assert alone.score(*PAIRS) == [alone.score([one], [other])[0] for one, other in zip(*PAIRS)]
    from radgraph.rewards import compute_reward

    with older_tokenizers():
        graphs = measure.load()(TEXTS)
    for level, place in (("simple", 0), ("partial", 1), ("complete", 2)):
        for one, other in ((0, 1), (1, 2)):
            ours, theirs = (radgraph_items(graphs[str(i)]["entities"])[level] for i in (one, other))
            assert set_f1(ours, theirs) == pytest.approx(compute_reward(graphs[str(one)], graphs[str(other)], "all")[place])


@pytest.mark.parametrize(
    ("gpus", "rank", "current", "expected"),
    [(0, "3", 0, "cpu"), (8, "3", 0, "cuda:3"), (8, None, 2, "cuda:2"), (1, "3", 0, "cuda:0"), (8, "0", 5, "cuda:0"), (2, "", 1, "cuda:1")],
)
def test_each_rank_keeps_its_measures_on_its_own_device(monkeypatch, gpus, rank, current, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert own_device() == expected


@pytest.mark.parametrize(("device", "cuda"), [(None, 3), ("cuda", 3), ("cuda:1", 1), ("cpu", -1)])
def test_radgraphs_package_is_told_the_device(tmp_path, monkeypatch, device, cuda):
    "On a machine of four GPUs as it looks from rank 3; the package itself is not asked for more than where it was to go."
    told = []
    package = SimpleNamespace(RadGraph=lambda **options: told.append(options["cuda"]) or "opened")
    monkeypatch.setitem(sys.modules, "radgraph", package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    for name in NEEDS["radgraph"].files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name.split("|")[0]).write_text("{}")
    assert RadGraph(tmp_path, device=device).load() == "opened" and told == [cuda]


def test_radgraph_levels():
    with pytest.raises(StudyError, match="no level 'exact'"):
        RadGraph("nowhere", level="exact")


# ---------------------------------------------------------------- RaTEScore


def plain_rate(ours, theirs):
    "RaTEScore's half by loops, from its description: best cosine, weight by the pair of kinds, penalty where one side denies."
    from unirg.reward.model_metrics import RATE_DENIED, RATE_WEIGHTS

    above = below = 0.0
    for vector, kind in zip(*ours):
        cosines = [float(vector @ other) for other in theirs[0]]
        match = theirs[1][int(np.argmax(cosines))]
        weight = RATE_WEIGHTS[RATE_KINDS.index(kind)][RATE_KINDS.index(match)]
        denied = kind.startswith("NON-") != match.startswith("NON-") and "ANATOMY" not in (kind, match)
        above, below = above + max(cosines) * weight * (RATE_DENIED if denied else 1), below + weight
    return above / below


def test_rate_half_is_its_description():
    numbers = np.random.default_rng(3)
    for _ in range(20):
        sides = []
        for size in numbers.integers(1, 6, 2):
            vectors = numbers.normal(size=(size, 8))
            sides.append((vectors / np.linalg.norm(vectors, axis=1, keepdims=True), list(numbers.choice(RATE_KINDS, size))))
        assert rate_half(*sides) == pytest.approx(plain_rate(*sides))


def test_spans_of_tags():
    assert entity_spans(["B-DISEASE", "B-DISEASE", "I-DISEASE", "O", "I-ANATOMY"]) == [(0, 1, "DISEASE"), (1, 3, "DISEASE")]
    assert entity_spans([]) == []


def save_ratescore(folder, kinds=RATE_KINDS):
    tags = ["O", *(f"{start}-{kind}" for kind in kinds for start in "BI")]
    config = small_bert(
        folder / "ner", id2label=dict(enumerate(tags)), label2id={tag: i for i, tag in enumerate(tags)}, initializer_range=0.5
    )
    transformers.BertForTokenClassification(config).save_pretrained(folder / "ner")
    transformers.BertModel(small_bert(folder / "encoder")).save_pretrained(folder / "encoder")
    return RateScore(folder, device="cpu")


def test_ratescore_loads_and_runs(tmp_path):
    measure = save_ratescore(tmp_path)
    entities = measure.entities(TEXTS)
    assert any(entities) and {kind for found in entities for _, kind in found} <= set(RATE_KINDS)
    for text, found in zip(TEXTS, entities):
        plain = " ".join(text.lower().split()).replace(" ", "")
        assert all(words.replace("##", "").replace(" ", "") in plain for words, _ in found)
    scores = measure.score(*PAIRS)
    assert all(math.isfinite(score) for score in scores) and measure.score(["", ""], ["", TEXTS[1]]) == [0.5, 0.5]
    again = RateScore(tmp_path, device="cpu", batch_size=1)
    assert [again.score([one], [other])[0] for one, other in zip(*PAIRS)] == pytest.approx(scores, abs=1e-5)


def test_ratescore_of_other_kinds_is_refused(tmp_path):
    with pytest.raises(StudyError, match=r"ratescore: .* its entities are"):
        save_ratescore(tmp_path, ["PERSON", "PLACE"]).load()


# ---------------------------------------------------------------- GREEN


def test_green_reads_a_reply_or_says_that_it_cannot():
    matched = "[Matched Findings]:\n2. heart; lungs"
    full = f"[Explanation]:\nWell.\n\n[Clinically Significant Errors]:\n(a) False: 1. edema\n(b) Missing: 2. x; y\n\n{matched}"
    assert green_from(full) == pytest.approx(2 / 5) and green_from(full.replace("\n\n", "\n")) == pytest.approx(2 / 5)
    assert green_from(full.replace("2. heart; lungs", "No matched findings.")) == 0
    assert green_from(f"[Clinically Significant Errors]: No errors.\n\n{matched}") == 1
    for reply in ("", "GREEN is 0.8", matched, full.split("[Matched")[0], full.replace("(a) False: 1.", "").replace("(b) Missing: 2.", "")):
        assert green_from(reply) is None


def test_green_runs_and_nonsense_is_missing(tmp_path):
    transformers.AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=30522, max_position_embeddings=2048, **sizes))
    model.generation_config.eos_token_id = 102
    model.save_pretrained(tmp_path)
    with pytest.raises(StudyError, match=r"green: prompt.txt is missing"):
        Green(tmp_path)
    (tmp_path / "prompt.txt").write_text("Compare {reference} with")
    with pytest.raises(StudyError, match=r"prompt.txt lacks"):
        Green(tmp_path).load()
    (tmp_path / "prompt.txt").write_text("Compare {reference} with {candidate}.")
    measure = Green(tmp_path, device="cpu", batch_size=2)
    asked = measure.replies
    measure.replies = lambda prompts: asked(prompts, longest=8)
    assert measure.score(*PAIRS) == [None] * 3, "a model of random numbers says nothing that can be read"
    reward = Composite(weights={"fact_f1": 1}, watch=("green",), measures={"green": measure})
    values = reward.components(*PAIRS)
    assert values["green"] == [None] * 3 and len(values["fact_f1"]) == 3


def test_golden_values_where_weights_are():
    "The radgraph package's own example, with its real weights."
    folder = os.environ.get("UNIRG_WEIGHTS")
    if not folder or importlib.util.find_spec("radgraph") is None:
        pytest.skip("UNIRG_WEIGHTS names no folder with RadGraph's weights, or the extra is not installed")
    predictions = [
        "no acute cardiopulmonary abnormality",
        "no evidence of acute cardiopulmonary process moderate hiatal hernia",
        "no acute cardiopulmonary process",
    ]
    references = [
        "no acute cardiopulmonary abnormality",
        "no evidence of acute pulmonary process moderately large size hiatal hernia",
        "no acute intrathoracic process",
    ]
    published = {"simple": [1.0, 0.5714285714, 0.4], "partial": [1.0, 0.4285714286, 0.4], "complete": [1.0, 0.4, 0.4]}
    for level, expected in published.items():
        assert RadGraph(level=level).score(predictions, references) == pytest.approx(expected)
