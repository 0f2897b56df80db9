"""`make bench`: timings of one run on one machine, written to BENCHMARKS.md. Only ratios within a run compare."""

import csv
import os
import platform
import random
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

from unirg.core import derived_seed, read_json, write_whole
from unirg.data.radiographs import load_radiograph
from unirg.phantom.anatomy import CAMERAS, film
from unirg.phantom.archives import write_archive
from unirg.phantom.dictation import dictate
from unirg.phantom.patients import INSTITUTIONS, draw_patient
from unirg.reward import judge, metrics
from unirg.reward.composite import STEP2, Composite, Measures
from unirg.reward.findings import facts, sentence_facts
from unirg.training.launch import launch

ROOT = Path(__file__).parents[1]


def seconds(work, repeats=3):
    "Median seconds of some work."
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def rollouts(prompts=256, each=16, seed=1):
    "Reports as a policy samples them, (completions, references): a reference's sentences, some dropped, some replaced by a neighbour's."
    dice = random.Random(derived_seed(seed, "rollouts"))
    names = list(INSTITUTIONS)
    references = [dictate(draw_patient(names[i % len(names)], i, seed), 0, seed).text for i in range(prompts)]
    cut = [re.split(r"(?<=[.])\s+", text) for text in references]
    pools = [[sentence for parts in cut[k :: len(names)] for sentence in parts] for k in range(len(names))]
    sampled = []
    for i, parts in enumerate(cut):
        for _ in range(each):
            drawn = [dice.choice(pools[i % len(names)]) if dice.random() < 0.3 else part for part in parts if dice.random() < 0.9]
            sampled.append(" ".join(drawn))
    return sampled, [reference for reference in references for _ in range(each)]


def forget():
    "Empty every cache that a reward fills, but keep what is loaded."
    for cached in (sentence_facts, metrics.reading, metrics._ngrams, judge.compares):
        cached.cache_clear()


def reward_rows():
    "The composite at 256 prompts x 16 rollouts: by component, beside libraries called per pair, by one worker and by two."
    completions, references = rollouts()
    n, warm = len(completions), rollouts(8, 2, seed=2)
    bertscore = metrics.BertScore(keep=8192)
    reward = Composite(weights=STEP2, bertscore=bertscore)
    reward(*warm)
    forget()
    start = time.perf_counter()
    reward(completions, references)
    whole = 1000 * (time.perf_counter() - start) / n
    distinct = f"{len(set(completions))} different texts of {n}, {np.mean([len(text.split()) for text in completions]):.0f} words"
    yield "composite of step 2, 256 prompts x 16 rollouts, nothing known, ms a completion", whole, distinct
    pairs = list(dict.fromkeys(zip(completions, references)))
    forget()
    texts = list(dict.fromkeys([*completions, *references]))
    yield "- facts and labels, each text once", 1000 * seconds(lambda: [metrics.reading(text) for text in texts], 1) / n, ""
    fresh = metrics.BertScore(keep=8192)
    fresh.load()
    yield "- bertscore_minilm: sentences embedded", 1000 * seconds(lambda: fresh.vectors(texts), 1) / n, ""
    parts = Measures([*STEP2, "judged_errors"], bertscore=fresh)
    parts(pairs)
    for name, spent in parts.seconds.items():
        yield f"- {name}, texts read", 1000 * spent / n, ""
    yield "- the same completions again, all known", 1000 * seconds(lambda: reward(completions, references), 1) / n, ""

    import bert_score
    import sacrebleu

    scorer = bert_score.BERTScorer(model_type=str(metrics.minilm_folder()), num_layers=metrics.MINILM_LAYER, device="cpu")
    few = pairs[:: len(pairs) // 64][:64]
    one = 1000 * seconds(lambda: [scorer.score([p], [r]) for p, r in few], 1) / len(few)
    yield "bert-score per pair (the same weights), ms a pair", one, f"{one / whole:.1f} times the whole composite"
    bleu = sacrebleu.metrics.BLEU(effective_order=True, max_ngram_order=2)
    one = 1000 * seconds(lambda: [bleu.sentence_score(p, [r]) for p, r in few * 8], 1) / len(few) / 8
    yield "sacrebleu per pair (BLEU-2), ms a pair", one, f"{one / (1000 * parts.seconds['bleu2'] / n):.1f} times bleu2"

    taken = {1: [], 2: []}
    for count in (1, 2) * 3:  # in turn and the best of three: whatever else the machine does should hit both alike
        many = Composite(weights=STEP2, workers=count)
        many(warm[0] * count, warm[1] * count)  # starts them
        many(*warm)
        start = time.perf_counter()
        many(completions, references)
        taken[count].append(time.perf_counter() - start)
        many.close()
    taken = {count: min(times) for count, times in taken.items()}
    yield "composite by one worker process, ms a completion", 1000 * taken[1] / n, ""
    yield "composite by two, ms a completion", 1000 * taken[2] / n, f"{taken[1] / taken[2]:.2f} times as fast as one"


def share_of_a_step(steps=10):
    "The reward's share of a GRPO step: the phantom profile's own run, a few steps from its SFT policy."
    finished = ROOT / "outputs" / "phantom" / "models" / "rl1-s1" / "training.json"
    what = "reward's share of a GRPO step, phantom profile, %"
    if not finished.exists():
        return what, float("nan"), "needs `make study` first"
    job = read_json(finished)["job"]
    recipe = job["recipe"] | {"steps": steps, "evaluate_every": 0, "save_every": 1000, "log_every": 1, "reward": "step2"}
    with tempfile.TemporaryDirectory() as folder:
        launch("unirg.training.grpo", job | {"recipe": recipe, "out": f"{folder}/rl", "cache": folder, "studies": 200}, show=False)
        with open(f"{folder}/rl/log.csv", encoding="utf-8") as file:
            log = [row for row in csv.DictReader(file) if row.get("step_time")][1:]  # the first step loads the weights
    spent, whole = (sum(float(row[name]) for row in log) for name in ("reward/seconds", "step_time"))
    share = f"{spent / len(log):.3f} of {whole / len(log):.2f} s; {recipe['completions_per_step']} completions, reward step2"
    return what, 100 * spent / whole, share


def main():
    rows = []
    patients = [draw_patient(name, i, 1) for name in INSTITUTIONS for i in range(4)]

    def render():
        for p in patients:
            film(p.body, p.visits[0].signs, CAMERAS[p.institution], p.visits[0].view, 512, p.visits[0].seed)

    rows.append(("phantom film, 512 x 512, ms", 1000 * seconds(render) / len(patients), ""))
    with tempfile.TemporaryDirectory() as folder:
        write_archive("mimic_cxr", folder, 40, 1)
        films = sorted(Path(folder).rglob("*.dcm"))

        def bare():
            for path in films:
                pydicom.dcmread(path).pixel_array  # noqa: B018

        def loaded():
            for path in films:
                load_radiograph(path, 512)

        decode, load = seconds(bare), seconds(loaded)
    rows.append(("DICOM to 8-bit film, films per second", len(films) / load, f"{load / decode:.2f} times the bare decode"))
    reports = [dictate(p, 0, 1).text for p in patients]

    def cold():
        sentence_facts.cache_clear()
        for text in reports:
            facts(text)

    rows.append(("facts of a report, cold, ms", 1000 * seconds(cold) / len(reports), ""))
    rows += reward_rows()
    rows.append(share_of_a_step())
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; not a test. Compare within a run only.",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| what | value | beside |",
        "|---|---|---|",
    ]
    write_whole(
        ROOT / "BENCHMARKS.md", "\n".join([*lines, *(f"| {what} | {value:.3g} | {beside} |" for what, value, beside in rows)]) + "\n"
    )


if __name__ == "__main__":
    main()
