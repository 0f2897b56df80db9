"Measures against independent implementations and published numbers."

import ast
import csv
import itertools
import json
import math
import random
import re
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas
import pytest

from unirg.core import StudyError, study_root
from unirg.reward import metrics
from unirg.reward.composite import MEASURES, Composite, score_pairs
from unirg.reward.findings import CHEXPERT_NAMES, chexpert_labels
from unirg.reward.judge import rule_judge, temporal_scores
from unirg.reward.metrics import BertScore, bleu2, bleu4, fact_f1, fact_scores, label_cosine, label_f1, read_vectors, rouge_l

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "data" / "radcliq_rows.csv"
LEFT = "Small left pleural effusion. No pneumothorax."
NORMAL = "The heart size is normal. The lungs are clear. No pleural effusion or pneumothorax."


def some_reports(n: int, seed: int = 0) -> list[str]:
    "Texts of every kind that matters to a tokeniser: repeats, one word, stray dots, capitals, doubled spaces."
    dice = random.Random(seed)
    words = "no left right small pleural effusion . Effusion. the The heart is normal, clear lungs..  2.5 cm".split(" ")
    return [" ".join(dice.choices(words, k=dice.randint(1, 40))) for _ in range(n)]


def iu_texts() -> list[str]:
    "The 590 reports of ReXrank's IU-Xray test set; skips where they are not here."
    path = study_root().parent / "shared" / "real_data" / "iu_xray_text" / "ReXRank_IUXray_test.json"
    if not path.exists():
        pytest.skip("real_data/iu_xray_text is not here")
    rows = json.loads(path.read_text()).values()
    return [f"Findings: {row['section_findings']} Impression: {row['section_impression']}" for row in rows]


def words_of(text: str) -> list[str]:
    "CXR-Report-Metric's tokens."
    return [word for word in text.lower().replace(".", " .").split(" ") if word]


def plain_bleu(prediction: str, reference: str, order: int = 2) -> float:
    "BLEU once more, written another way: n-grams by counting over lists, logarithms as in fast_bleu."
    hypothesis, target = words_of(prediction), words_of(reference)
    total = 0.0
    for n in range(1, order + 1):
        ours = [" ".join(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1)]
        theirs = [" ".join(target[i : i + n]) for i in range(len(target) - n + 1)]
        hits = sum(min(ours.count(gram), theirs.count(gram)) for gram in set(ours))
        if n == 1 and hits == 0:
            return 0.0
        total += math.log((hits if hits else 0.1) / max(1, len(ours))) / order
    brevity = 1 if len(hypothesis) > len(target) else math.exp(1 - len(target) / len(hypothesis))
    return brevity * math.exp(total)


def nltk_bleu(prediction: str, reference: str, order: int = 2) -> float:
    nltk = pytest.importorskip("nltk.translate.bleu_score", reason="nltk is not installed")
    method1 = nltk.SmoothingFunction().method1
    return nltk.sentence_bleu([words_of(reference)], words_of(prediction), weights=(1 / order,) * order, smoothing_function=method1)


def fast_bleu(prediction: str, reference: str, order: int = 2) -> float:
    "The library that CXR-Report-Metric itself calls; it must be built from source, so it is rarely here."
    library = pytest.importorskip("fast_bleu", reason="fast_bleu is not installed")
    return library.BLEU([words_of(reference)], {"it": (1 / order,) * order}).get_score([words_of(prediction)])["it"][0]


@pytest.mark.parametrize("other", [plain_bleu, nltk_bleu, fast_bleu])
def test_bleu_agrees_with_another_implementation(other):
    for prediction, reference in zip(some_reports(590, 1), some_reports(590, 2)):
        assert bleu2(prediction, reference) == pytest.approx(other(prediction, reference), abs=1e-9)
        if min(len(words_of(prediction)), len(words_of(reference))) >= 4:  # nltk counts missing orders of shorter texts its own way
            assert bleu4(prediction, reference) == pytest.approx(other(prediction, reference, 4), abs=1e-9)


@pytest.mark.parametrize("other", [plain_bleu, nltk_bleu, fast_bleu])
def test_bleu2_agrees_on_590_pairs_of_real_reports(other):
    texts = iu_texts()
    assert len(texts) == 590
    for prediction, reference in zip(texts, texts[1:] + texts[:1]):
        assert bleu2(prediction, reference) == pytest.approx(other(prediction, reference), abs=1e-9)


def test_bleu2_at_its_edges():
    "Values worked out by hand from fast_bleu's rules."
    assert bleu2("a b c d", "a x b y") == pytest.approx(math.sqrt(2 / 4 * 0.1 / 3))
    assert bleu2("a", "a") == pytest.approx(math.sqrt(0.1)) and bleu2("a b", "a b") == 1
    assert bleu2("", "a b") == 0 and bleu2("a b", "") == 0 and bleu2("", "") == 0


@pytest.mark.parametrize("row", list(csv.DictReader(GOLDEN.open())), ids=lambda row: f"{row['board']}-{row['system']}")
def test_radcliq_gives_the_published_values(row):
    values = {name: float(row[name]) for name in ("radgraph", "bertscore", "sembscore", "bleu2")}
    assert metrics.radcliq_v1(**values) == pytest.approx(float(row["radcliq_v1"]), abs=0.003)
    assert metrics.radcliq_v0(**values) == pytest.approx(float(row["radcliq_v0"]), abs=0.003)


def test_radcliq_takes_arrays():
    rows = list(csv.DictReader(GOLDEN.open()))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("radgraph", "bertscore", "sembscore", "bleu2")}
    assert metrics.radcliq_v1(**columns).shape == (len(rows),)
    assert metrics.radcliq_v1(**columns).mean() == pytest.approx(metrics.radcliq_v1(**{k: v.mean() for k, v in columns.items()}))
    assert isinstance(metrics.radcliq_v1(0.5, 0.5, 0.5), float)


def test_label_and_fact_measures_of_equal_texts_are_one():
    for text in (LEFT, NORMAL, "Possible bilateral pneumonia, worsened.", ""):
        assert label_cosine(text, text) == pytest.approx(1)
        assert fact_f1(text, text) == pytest.approx(1) and label_f1(text, text) == 1


def test_saying_nothing_earns_nothing_where_there_is_something_to_say():
    for reference, text in itertools.product((LEFT, NORMAL), ("", "the the the", "Findings:")):
        assert fact_f1(text, reference) == 0
        assert label_cosine("", reference) == 0


def test_a_page_of_negatives_earns_little_on_an_abnormal_study():
    negatives = NORMAL + " No consolidation, edema, atelectasis, fracture or nodule. The mediastinum is normal. No support devices."
    for text in (NORMAL, negatives):
        assert fact_f1(text, LEFT) < 0.15 and label_cosine(text, LEFT) < 0.25 and label_f1(text, LEFT) == 0
        assert fact_f1(text, NORMAL) > 0.85 and label_cosine(text, NORMAL) > 0.85 and label_f1(text, NORMAL) == 1


def test_a_wrong_side_earns_nothing_and_a_missing_one_something():
    right, none, both = LEFT.replace("left", "right"), LEFT.replace("left ", ""), LEFT.replace("left", "bilateral")
    assert fact_f1(right, LEFT) < 0.1 < fact_f1(none, LEFT) < fact_f1(both, LEFT) < 1


def test_a_wrong_word_costs_more_than_a_missing_one():
    reference = "Small left pleural effusion, increased. No pneumothorax."
    wrong, missing = reference.replace("increased", "decreased"), reference.replace(", increased", "")
    assert fact_f1(wrong, reference) < fact_f1(missing, reference) < 1
    assert fact_f1(reference.replace("Small", "Large"), reference) < fact_f1(reference.replace("Small left", "Left"), reference) < 1
    assert fact_f1("Possible s" + reference[1:], reference) < 1


def test_measures_are_symmetric_where_they_should_be():
    for ours, theirs in itertools.combinations((LEFT, NORMAL, "Cardiomegaly. Possible right pneumonia.", ""), 2):
        for measure in (label_cosine, label_f1, fact_f1):
            assert measure(ours, theirs) == pytest.approx(measure(theirs, ours))


@pytest.fixture(scope="module")
def raw():
    return BertScore(baseline=0)


def test_bertscore_agrees_with_bert_score_on_single_sentences(raw):
    "The library lets words match special tokens, we do not: exact without them, near with them."
    library = pytest.importorskip("bert_score", reason="bert_score is not installed")
    from bert_score.utils import get_bert_embedding, greedy_cos_idf

    predictions = ["small left pleural effusion.", "the heart is mildly enlarged", "the lungs are clear.", "possible pneumonia"]
    references = ["small effusion on the left.", "mild cardiomegaly", "there is a right effusion.", "consolidation"]
    even = defaultdict(lambda: 1.0)
    scorer = library.BERTScorer(model_type=str(metrics.minilm_folder()), num_layers=metrics.MINILM_LAYER, device="cpu", idf=False)
    scores = raw.score(predictions, references)
    assert scores == pytest.approx(scorer.score(predictions, references)[2].tolist(), abs=0.05)
    for score, *pair in zip(scores, predictions, references):
        embedded = [get_bert_embedding([text], scorer._model, scorer._tokenizer, even, device="cpu")[0] for text in pair]
        ours, theirs = (vectors[:, 1:-1] for vectors in embedded)
        ones = [ours.new_ones(vectors.shape[:2]) for vectors in (theirs, ours)]
        expected = greedy_cos_idf(theirs, ones[0], ones[0].clone(), ours, ones[1], ones[1].clone())[2].item()
        assert score == pytest.approx(expected, abs=1e-5)


def test_bertscore_matching_is_bert_scores_matching(raw):
    "The same vectors through the library's own greedy matching, with all weights equal."
    library, torch = pytest.importorskip("bert_score.utils", reason="bert_score is not installed"), pytest.importorskip("torch")
    texts = ["Small left effusion. The heart is normal.", "No pneumothorax. Left effusion, small, unchanged."]
    ours, theirs = (torch.tensor(vectors)[None] for vectors in raw.vectors(texts))
    ones = [torch.ones(v.shape[:2]) for v in (ours, theirs)]
    expected = library.greedy_cos_idf(theirs, ones[1], ones[1].clone(), ours, ones[0], ones[0].clone())[2]
    assert raw.score(texts[:1], texts[1:])[0] == pytest.approx(expected.item(), abs=1e-5)


def test_bertscore_does_not_depend_on_what_is_cached(raw):
    predictions, references = [LEFT, NORMAL, "Cardiomegaly."], [NORMAL, LEFT, LEFT]
    whole = raw.score(predictions, references)
    small = BertScore(baseline=0, keep=2)
    single = [small.score([p], [r])[0] for p, r in zip(predictions, references)]
    assert whole == pytest.approx(single, abs=1e-5) and len(small._vectors) <= 2


def test_sentences_left_in_a_folder_score_as_if_they_were_embedded_anew(tmp_path):
    words = "no acute small left right pleural effusion pneumothorax is seen again heart size normal the of lungs are clear".split()
    rng = random.Random(3)
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 12))) + "." for _ in range(150)]
    ours, theirs = texts[:75], texts[75:]
    anew = BertScore().score(ours, theirs)
    with (half := BertScore()).sharing(tmp_path):
        half.score(ours[::2], theirs[::2])  # in other company
    with (first := BertScore()).sharing(tmp_path):
        assert first.score(ours, theirs) == anew
    with (second := BertScore()).sharing(tmp_path):
        assert second.score(ours, theirs) == anew
    assert second._loaded is None and len(list(tmp_path.iterdir())) == 1


def test_two_that_share_a_folder_lose_nothing_and_it_stays_small(tmp_path):
    with (one := BertScore()).sharing(tmp_path):
        with (other := BertScore()).sharing(tmp_path):
            other.score(["heart is large."], ["heart is small."])
        one.score(["no effusion."], ["an effusion."])
    path = one.file_of_vectors(tmp_path)
    assert set(read_vectors(path)) == {"heart is large.", "heart is small.", "no effusion.", "an effusion."}
    with (small := BertScore(keep=3)).sharing(tmp_path):
        small.score(["a line ends here."], ["no line."])
    assert len(read_vectors(path)) == 3 and "no line." in read_vectors(path)


def test_vectors_of_other_weights_or_a_broken_file_are_not_taken(tmp_path):
    with (third := BertScore(layer=3, baseline=0)).sharing(tmp_path):
        third.score(["heart is large."], ["heart is small."])
    fifth, plain = BertScore(layer=5, baseline=0), BertScore(layer=5, baseline=0).score(["heart is large."], ["heart is small."])
    with fifth.sharing(tmp_path):
        assert fifth.score(["heart is large."], ["heart is small."]) == plain
    (path,) = tmp_path.iterdir()  # the other's is gone
    path.write_bytes(path.read_bytes()[:-100])
    with (after := BertScore(layer=5, baseline=0)).sharing(tmp_path):
        assert after.score(["heart is large."], ["heart is small."]) == plain


def test_bertscore_of_odd_texts():
    scorer = metrics.default_bertscore()
    long = "opacity " * 3000 + "." * 2000
    assert scorer.score(["", "", LEFT, LEFT], ["", LEFT, "", LEFT]) == pytest.approx([1, 0, 0, 1])
    assert 0 <= scorer.score([long], [LEFT])[0] < 0.5
    with pytest.raises(StudyError, match="2 predictions but 1"):
        scorer.score(["a", "b"], ["a"])


def test_missing_weights_name_their_folder(tmp_path):
    with pytest.raises(StudyError, match="nowhere"):
        BertScore(weights_path=tmp_path / "nowhere").score(["a"], ["b"])
    with pytest.raises(StudyError, match=str(tmp_path)):
        BertScore(weights_path=tmp_path).score(["a"], ["b"])


def test_score_pairs_has_every_column_and_no_hole():
    table = score_pairs([LEFT, NORMAL, ""], [LEFT, LEFT, NORMAL], names=["a", "b", "c"])
    assert list(table.columns) == list(MEASURES) and list(table.index) == ["a", "b", "c"] and not table.isna().any().any()
    assert table.loc["a", "composite_step2"] == pytest.approx(1.5, abs=1e-5) and table.loc["a", "judged_errors"] == 0
    assert (table.composite_step2 - table.composite_step1 - 0.5 / (table.judged_errors + 1)).abs().max() < 1e-9
    assert list(score_pairs([], []).columns) == list(MEASURES)


def test_score_pairs_names_what_is_wrong(monkeypatch):
    with pytest.raises(StudyError, match="2 predictions but 1 references"):
        score_pairs([LEFT, LEFT], [LEFT])
    with pytest.raises(StudyError, match="prediction of study s7 is None"):
        score_pairs([None], [LEFT], names=["s7"])
    monkeypatch.setattr(BertScore, "score", lambda self, predictions, references: [1.0, float("nan")])
    with pytest.raises(StudyError, match="bertscore_minilm: study s2 scored nan"):
        score_pairs([LEFT, LEFT], [LEFT, LEFT], names=["s1", "s2"])


SLIPS = {
    "one text": "No effusion.",
    "bytes": b"No effusion.",
    "a dictionary": {"s1": "No effusion."},
    "a set": {"No effusion."},
    "nothing": None,
    "a number": 12,
    "a table": pandas.DataFrame({"report": ["No effusion."]}),
}
LISTED = {
    "score_pairs, predictions": lambda texts: score_pairs(texts, [LEFT]),
    "score_pairs, references": lambda texts: score_pairs([LEFT], texts),
    "score_pairs, names": lambda texts: score_pairs([LEFT], [LEFT], names=12 if texts is None else texts),
    "temporal_scores": lambda texts: temporal_scores(texts, [LEFT]),
    "rule_judge": lambda texts: rule_judge([LEFT], texts),
    "label_scores": lambda texts: metrics.label_scores(texts, [chexpert_labels(LEFT)]),
    "BertScore.score": lambda texts: metrics.default_bertscore().score(texts, [LEFT]),
    "BertScore.vectors": lambda texts: metrics.default_bertscore().vectors(texts),
    "BertScore.cache_keys": lambda texts: metrics.default_bertscore().cache_keys(texts),
    "distinct_rate": metrics.distinct_rate,
    "constant_baselines, validation": lambda texts: metrics.constant_baselines(texts, [LEFT]),
    "constant_baselines, test": lambda texts: metrics.constant_baselines([LEFT], texts),
    "Composite, completions": lambda texts: Composite(step=1)(texts, reference=[LEFT]),
    "Composite, reference": lambda texts: Composite(step=1)([LEFT], reference=texts),
    "Composite.components": lambda texts: Composite(step=1).components(texts, [LEFT]),
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
@pytest.mark.parametrize("function", LISTED.values(), ids=LISTED)
def test_what_is_no_list_of_texts_is_an_error_that_says_so(function, slip):
    with pytest.raises(StudyError, match=r"a list is wanted|not a list") as raised:
        function(slip)
    assert "effusion" not in str(raised.value)


@pytest.mark.parametrize(
    "kind",
    [tuple, np.array, pandas.Series, lambda texts: pandas.Series(texts, index=[7, 3]), lambda texts: dict(enumerate(texts)).values()],
)
def test_lists_of_any_kind_score_the_same(kind):
    texts, references = [LEFT, NORMAL], [NORMAL, LEFT + " Unchanged."]
    assert metrics.default_bertscore().score(kind(texts), kind(references)) == metrics.default_bertscore().score(texts, references)
    assert temporal_scores(kind(texts), kind(references), kind([False, True])) == temporal_scores(texts, references, [False, True])
    assert score_pairs(kind(texts), kind(references)).equals(score_pairs(texts, references))


def test_what_can_be_read_only_once_is_refused_where_it_is_read_twice():
    for function in (score_pairs, temporal_scores, rule_judge, metrics.default_bertscore().score):
        with pytest.raises(StudyError, match="predictions are a generator, not a list"):
            function((text for text in [LEFT]), [LEFT])


@pytest.mark.parametrize("wrong", [None, float("nan"), 3, b"x", ["Secret."], {"text": "Secret."}], ids=repr)
def test_an_entry_that_is_no_text_is_named_by_its_study_and_not_shown(wrong):
    for function in (score_pairs, lambda *pairs, names: Composite(step=1).components(*pairs, names)):
        for sides in (([LEFT, wrong], [LEFT, LEFT]), ([LEFT, LEFT], [LEFT, wrong])):
            with pytest.raises(StudyError, match=r"of study s2 is .*, not text") as raised:
                function(*sides, names=["s1", "s2"])
            assert "Secret" not in str(raised.value)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.5", [0.5], 10**400], ids=lambda value: str(value)[:9])
def test_a_score_that_is_no_number_names_measure_and_study(value):
    with pytest.raises(StudyError, match="bleu9: study s2 scored"):
        metrics.check_numbers([0.1, value], "bleu9", ["s1", "s2"])
    with pytest.raises(StudyError, match="bleu9: 1 values for 2 studies"):
        metrics.check_numbers([0.1], "bleu9", ["s1", "s2"])


EMPTY = [
    "nan",
    "NaN",
    " None ",
    "null",
    "N/A",
    "n/a.",
    "<NA>",
    "unknown",
    "NIL.",
    "'None'",
    "[missing]",
    "",
    " \n",
    "...",
    "12",
    "___",
    "- -",
    "Findings: nan Impression: nan",
    "FINDINGS: None. IMPRESSION: None.",
    "Findings: Impression:",
    "Findings: <NA>\nImpression: Clear lungs.",
    "Findings: Clear lungs. Impression: nan",
    "Findings: None Impression: Clear lungs.",
    "Impression: null",
]
SPOKEN = [
    "None seen.",
    "Clear.",
    "Findings: Clear lungs. Impression:",
    "Findings: Clear lungs. Impression: None.",
    "Nan Ning catheter in place.",
    "Comparison: None. Findings: Clear lungs.",
    "No change.",
    "PA and lateral views: normal",
    "\u80ba\u91ce\u6e05\u6670\u3002",
]


@pytest.mark.parametrize("reference", EMPTY, ids=ascii)
def test_a_reference_that_says_nothing_names_its_study(reference, caplog):
    with pytest.raises(StudyError, match="the reference of study s2 says nothing"):
        score_pairs([LEFT, LEFT], [LEFT, reference], names=["s1", "s2"])
    Composite(weights={"bleu2": 1}, watch=()).components([LEFT, LEFT], [LEFT, reference], ["s1", "s2"])
    assert caplog.text.count("the reference of study s2 says nothing") == 1
    with pytest.raises(StudyError, match="the reference of study number 1, test, says nothing"):
        metrics.constant_baselines([LEFT], [LEFT, reference])


@pytest.mark.parametrize("reference", SPOKEN, ids=ascii)
def test_a_reference_that_says_little_is_scored(reference):
    assert score_pairs([reference], [reference]).bertscore_minilm[0] == pytest.approx(1, abs=1e-5)


def test_no_reference_of_the_real_reports_says_nothing():
    assert not any(map(metrics.says_nothing, iu_texts()))


ODD = [
    "Small \ud83d left effusion.",
    "\udc00",
    "Left\ud800\udc00 effusion.",
    "No \x00 effusion.",
    "Effusion \ufffe\uffff.",
    "\U0001f600 effusion.",
]


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_text_that_cannot_be_encoded_is_scored_like_any_other(text):
    scores = score_pairs([text, text, LEFT], [LEFT, text + " Clear.", text + " Clear."])
    assert not scores.isna().any().any() and metrics.encodable(text).encode()
    assert BertScore().score([text], [metrics.encodable(text)]) == pytest.approx([1], abs=1e-5)


def wrapped(text: str, width: int, ending: str = "\n", indent: str = "") -> str:
    return ending.join(textwrap.wrap(text, width, break_long_words=False, subsequent_indent=indent))


PROSE = [
    "Findings: There is a small left-sided pleural effusion with atelectasis. The heart is mildly enlarged. Impression: Mild edema.",
    "NO PNEUMOTHORAX. SMALL LEFT PLEURAL EFFUSION, INCREASED SINCE THE PRIOR STUDY. THE HEART IS ENLARGED.",
    "Findings: 1. Endotracheal tube 3.5 cm above the carina. 2. Small right effusion. Impression: 1. Tubes and lines as above.",
    "Opacity at the right base - atelectasis or pneumonia - is new; a 5 - 7 mm nodule in the left upper lobe is unchanged (series 2).",
    "The PICC line ends in the SVC. A T12 compression fracture is old. No free air.",
]


@pytest.mark.parametrize("text", PROSE, ids=lambda text: text[:12])
def test_a_text_and_itself_on_short_lines_score_one(text):
    laid_out = [
        wrapped(text, width, ending, indent) for width in (12, 25, 60) for ending in ("\n", "\r\n", "\u2028") for indent in ("", "  ")
    ]
    laid_out += [text.replace(" ", "\t"), text.replace(" ", "  "), f"\n\n{text}\n"]
    assert default_score(laid_out, [text] * len(laid_out)) == pytest.approx([1] * len(laid_out), abs=1e-5)
    for other in laid_out:
        if "-\n" not in other and "-\r" not in other and "-\u2028" not in other:  # BLEU joins no words
            assert bleu2(other, text) == bleu4(other, text) == 1


def default_score(predictions, references):
    return metrics.default_bertscore().score(predictions, references)


def test_real_reports_on_short_lines_have_the_same_sentences():
    for number, text in enumerate(iu_texts()):
        assert metrics.sentences(wrapped(text, 15 + number % 70)) == metrics.sentences(text)


@pytest.mark.parametrize("mark", ["- {}", "* {}", "\u2022 {}", "\u2022{}", "{n}. {}", "({n}) {}", "{n}) {}", "  -{}", "a) {}"])
def test_the_items_of_a_list_end_where_the_next_begins(mark):
    items = ["No pneumothorax", "Small left effusion, larger than\n   on the prior study", "The heart is enlarged"]
    text = "\n".join(mark.format(item, n=n) for n, item in enumerate(items, 1))
    ends = [sentence for sentence in metrics.sentences(text) if any(letter.isalpha() for letter in sentence.replace("a)", ""))]
    assert [" ".join(re.findall(r"[a-z]{2,}", sentence)) for sentence in ends] == [
        "no pneumothorax", "small left effusion larger than on the prior study", "the heart is enlarged"
    ]  # fmt: skip
    turned = "\n".join(mark.format(item, n=n) for n, item in enumerate(reversed(items), 1))
    assert default_score([text], [text]) == pytest.approx([1], abs=1e-5) and default_score([turned], [text])[0] > 0.97


def test_repetition_costs_on_one_line_and_on_many():
    for joint in (" ", "\n", "\n- ", "\r\n\r\n"):
        once, thrice = "No acute disease.", joint.join(["No acute disease."] * 3)
        assert default_score([thrice], [once])[0] < 0.8 < default_score([once], [thrice])[0] + 1e-6
    assert metrics.repeated_share("\n".join(["No acute disease"] * 4), "No acute disease") == 0.75


def test_rows_of_labels_are_labels():
    for wrong in ([LEFT], [{}], [None], [{"Edema": 1}]):
        with pytest.raises(StudyError, match="no row of labels"):
            metrics.label_scores([chexpert_labels(LEFT)], wrong)


def test_a_long_run_of_blanks_costs_nothing():
    text = "No effusion." + " " * 200_000 + "\n" * 200_000 + "The heart is enlarged."
    assert metrics.sentences(text) == ["no effusion.", "the heart is enlarged."]


def imports(path):
    "Modules of the package that one imports, inside functions too."
    package = ("unirg", *path.relative_to(ROOT / "unirg").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *filter(None, [node.module])] if node.level else [node.module]
            yield from (".".join(base), *(".".join([*base, alias.name]) for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_reward_room_is_read_from_left_to_right():
    "Each module imports only from those before it."
    order = ["findings", "metrics", "judge", "model_metrics", "composite", "probes", "llm_judge", "agreement"]
    assert sorted(order) == sorted(path.stem for path in (ROOT / "unirg" / "reward").glob("[a-z]*.py"))
    for place, name in enumerate(order):
        found = {other.removeprefix("unirg.reward.").split(".")[0] for other in imports(ROOT / "unirg" / "reward" / f"{name}.py")}
        assert found.isdisjoint(order[place:]), name


def test_importing_the_reward_room_loads_no_torch():
    modules = "unirg.reward.metrics, unirg.reward.judge, unirg.reward.composite"
    code = f"import sys, {modules}; print(sorted({{'torch', 'transformers', 'pandas'}} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=study_root(), check=True)
    assert shown.stdout.strip() == "[]"


def test_rouge_l_at_its_edges():
    "Worked out by hand: longest common subsequence over the lengths; case and punctuation aside."
    assert rouge_l("No effusion.", "no, effusion") == 1 and rouge_l("", "a b") == 0 == rouge_l("a b", "")
    assert rouge_l("a b c d", "a x c") == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))


def test_label_scores_are_scikit_learns():
    learn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    texts = iu_texts()[:120]
    ours, theirs = ([chexpert_labels(text) for text in rows] for rows in (texts, texts[1:] + texts[:1]))
    ones = [np.array([[row[name] in (1, -1) for name in CHEXPERT_NAMES.values()] for row in rows], int) for rows in (ours, theirs)]
    table = metrics.label_scores(ours, theirs)
    for average in ("micro", "macro"):
        expected = learn.precision_recall_fscore_support(ones[1], ones[0], average=average, zero_division=0)[:3]
        assert table.loc[average, ["precision", "recall", "f1"]].tolist() == pytest.approx(expected)
    assert table.f1.iloc[:14].tolist() == pytest.approx(learn.f1_score(ones[1], ones[0], average=None, zero_division=0).tolist())


def test_the_rule_for_labels_that_nobody_has_is_the_callers():
    nothing, edema = dict.fromkeys(CHEXPERT_NAMES.values()), dict.fromkeys(CHEXPERT_NAMES.values()) | {"Edema": -1}
    macro = {empty: metrics.label_scores([edema], [edema], metrics.FIVE, empty).loc["macro", "f1"] for empty in (0.0, 1.0, None)}
    assert macro == {0.0: pytest.approx(0.2), 1.0: 1.0, None: 1.0}
    assert metrics.label_scores([edema], [nothing], metrics.FIVE, None).loc["macro", "f1"] == 0
    with pytest.raises(StudyError, match="1 predictions but 2"):
        metrics.label_scores([edema], [edema, edema])


def test_precision_and_recall_of_facts_say_which_side_says_too_much():
    more = LEFT + " Cardiomegaly."
    assert fact_scores(more, LEFT).precision < 0.6 < fact_scores(more, LEFT).recall
    assert fact_scores(LEFT, more).recall < 0.6 < fact_scores(LEFT, more).precision
    assert fact_scores(more, LEFT).f1 == fact_f1(more, LEFT)


def test_what_is_left_out_costs_recall_and_what_nobody_confirms_costs_precision():
    bare = LEFT.replace("Small", "").strip().capitalize()
    assert bare != LEFT
    assert fact_scores(bare, LEFT).precision == 1 > fact_scores(bare, LEFT).recall
    assert fact_scores(LEFT, bare).recall == 1 > fact_scores(LEFT, bare).precision > fact_scores(bare, LEFT).recall


def test_temporal_scores_look_at_finding_and_direction():
    reference = "The left pleural effusion has increased. Cardiomegaly is unchanged."
    assert temporal_scores([reference], [reference])["change_f1"] == 1
    for wrong in (reference.replace("increased", "decreased"), reference.replace("left pleural effusion", "edema")):
        assert temporal_scores([wrong], [reference])["change_f1"] == 0.5
    scores = temporal_scores([reference, LEFT, ""], [LEFT, LEFT, reference], has_prior=[False, False, True])
    assert scores["hallucinated_prior"] == 0.5 and scores["reference_hallucinated_prior"] == 0 and scores["change_precision"] == 0
    assert math.isnan(temporal_scores([LEFT], [LEFT])["change_f1"])


def test_constants_are_chosen_on_validation_and_scored_on_test():
    validation, test = [NORMAL, NORMAL, LEFT, LEFT + " The heart is normal."], [LEFT, NORMAL]
    table = metrics.constant_baselines(validation, test)
    assert table.loc["most common", "text"] == NORMAL and table.loc["best single", "text"] in validation
    assert table.loc["most common", "bleu2"] == pytest.approx((1 + bleu2(NORMAL, LEFT)) / 2)
    means = {text: np.mean([bleu2(text, reference) for reference in validation]) for text in validation}
    assert means[table.loc["best single", "text"]] == max(means.values())
    assert metrics.distinct_rate([LEFT, LEFT.upper(), NORMAL, NORMAL]) == 0.5
    with pytest.raises(StudyError, match="0 validation"):
        metrics.constant_baselines([], test)
