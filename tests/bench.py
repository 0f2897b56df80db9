"""`make bench`: timings of one run on one machine, written to BENCHMARKS.md. Only ratios within a run compare."""

import csv
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from training_toys import many_studies, toy_texts

from unirg.analysis.statistics import means_with_intervals, randomisation_p
from unirg.core import derived_seed, read_json, write_json, atomic_write_text
from unirg.data.radiographs import load_radiograph
from unirg.data.reports import prompt_text, target_text
from unirg.data.sources import read_source
from unirg.phantom.anatomy import CAMERAS, film
from unirg.phantom.archives import write_archive
from unirg.phantom.dictation import dictate
from unirg.phantom.patients import INSTITUTIONS, draw_patient
from unirg.reward import findings, judge, metrics
from unirg.reward.composite import STEP2, Composite, Measures
from unirg.reward.findings import facts, sentence_facts
from unirg.training.launch import environment, launch
from unirg.training.policy import build_tiny_policy

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared/real_data/dicom"


def seconds(work, repeats=3):
    "Median seconds of some work."
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def bare_decode(path):
    "Stored values by pydicom alone; by imagecodecs alone where pydicom has no decoder that takes the file."
    dataset = pydicom.dcmread(path, force=True)
    dataset.file_meta.setdefault("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
    if dataset.file_meta.TransferSyntaxUID == pydicom.uid.JPEGExtended12Bit:
        return imagecodecs.jpeg8_decode(next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)))
    return dataset.pixel_array


def bare_resize(grey):
    "The decoded film, brought to 8 bits beforehand, to at most 512 pixels a side."
    height, width = grey.shape
    scale = 512 / max(height, width)
    size = (round(width * scale), round(height * scale))
    picture = Image.fromarray(grey)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def film_seconds(paths, repeats=7):
    "Best processor seconds of decoding, resizing and loading each film, [film, term]; the three take turns, other work does not count."
    taken = np.full((len(paths), 3), np.inf)
    eight_bits = []
    for path in paths:
        pixels = bare_decode(path).astype(np.float32)
        eight_bits.append(((pixels - pixels.min()) * (255 / np.ptp(pixels))).astype(np.uint8))
    for _ in range(repeats):
        for i, (path, grey) in enumerate(zip(paths, eight_bits)):
            for term, work in enumerate((partial(bare_decode, path), partial(bare_resize, grey), partial(load_radiograph, path, 512))):
                start = time.process_time()
                work()
                taken[i, term] = min(taken[i, term], time.process_time() - start)
    return taken


def film_row(what, taken):
    "Films per second, and what the load costs beside the bare decode and resize of the same films."
    decode, resize, load = 1000 * taken.mean(0)
    ratio = load / (decode + resize)
    worst = (taken[:, 2] / taken[:, :2].sum(1)).max()
    beside = f"{load:.2f} ms a film = {ratio:.2f} x (bare decode {decode:.2f} ms + bare resize {resize:.2f} ms); worst film {worst:.2f} x"
    return f"{what} ({len(taken)} films), films per second of one core", 1000 / load, beside


def load_only(path):
    "Load, send nothing back but the processor seconds."
    start = time.process_time()
    load_radiograph(path, 512)
    return time.process_time() - start


def process_row(paths, rounds=5):
    "How much faster two processes load the same films than one: the median of some rounds, one and two taking turns."
    clock, processor = np.empty((2, rounds, 2))
    with ProcessPoolExecutor(1) as one, ProcessPoolExecutor(2) as two:
        for pool in (one, two):
            list(pool.map(load_only, paths, chunksize=4))  # awake, everything imported
        for turn in range(rounds):
            for i, pool in enumerate((one, two)):
                start = time.perf_counter()
                processor[turn, i] = sum(pool.map(load_only, paths * 8, chunksize=16))
                clock[turn, i] = time.perf_counter() - start
    by_clock, by_processor = np.median(clock[:, 0] / clock[:, 1]), 2 * np.median(processor[:, 0] / processor[:, 1])
    beside = f"{by_clock:.2f} x one process by the clock; {by_processor:.2f} x by processor time, as if nothing else ran"
    return "phantom DICOM on two processes, films per second", len(paths) * 8 / np.median(clock[:, 1]), beside


def film_rows():
    "Phantom films as the MIMIC-CXR layout stores them, then the real samples where they are."
    with tempfile.TemporaryDirectory() as folder:
        write_archive("mimic_cxr", folder, 60, 1)
        films = sorted(Path(folder).rglob("*.dcm"))
        plain = [not pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_compressed for path in films]
        taken = film_seconds(films)
        yield film_row("phantom DICOM, 512 x 512", taken)
        yield film_row("the uncompressed ones of them", taken[plain])
        yield process_row(films)
    if not REAL.is_dir():
        return
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "RG2_UNC_hip.dcm"
        raw.write_bytes(imagecodecs.zstd_decode((REAL / "RG2_UNC_hip.dcm.zst").read_bytes()))
        yield film_row("real DICOM", film_seconds([*(p for p in sorted(REAL.iterdir()) if p.suffix != ".zst"), raw]))
        yield film_row("the uncompressed hip of 2140 x 1760", film_seconds([raw]))


def reader_rows(studies=60):
    "Rows per second of each reader, from an archive on disk to a saved table; films of the phantom's size, one process."
    for layout in INSTITUTIONS:
        with tempfile.TemporaryDirectory() as folder:
            write_archive(layout, f"{folder}/world", studies, 1)
            start = time.perf_counter()
            counts = read_source(layout, f"{folder}/world/{layout}", out=f"{folder}/data/{layout}").counts
            whole = time.perf_counter() - start
            start = time.perf_counter()
            read_source(layout, f"{folder}/world/{layout}", pixels=False)
            text = time.perf_counter() - start
        yield f"reader {layout}, rows per second", counts["rows"] / whole, f"{counts['rows'] / text:.0f} without films"
    with tempfile.TemporaryDirectory() as folder:  # a hospital's table over the films of one of the archives
        write_archive("iu_xray", folder, studies, 1)
        films = sorted(Path(folder, "iu_xray", "NLMCXR_png").iterdir())
        lines = ["film,report", *(f"{film.name},FINDINGS: Lungs are clear. IMPRESSION: Normal." for film in films)]
        atomic_write_text(Path(folder, "iu_xray", "t.csv"), "\n".join(lines))
        mapping = dict(table="t.csv", image="NLMCXR_png/{film}", report="report")
        start = time.perf_counter()
        rows = read_source("table", f"{folder}/iu_xray", out=f"{folder}/data", **mapping).counts["rows"]
        yield "reader table, rows per second", rows / (time.perf_counter() - start), ""


def rollouts(prompts=256, each=16, seed=1):
    """Reports as a policy samples them, (completions, references): a reference's sentences, some dropped, some replaced by a neighbour's,
    some with a word lost."""
    dice = random.Random(derived_seed(seed, "rollouts"))
    names = list(INSTITUTIONS)
    references = [dictate(draw_patient(names[i % len(names)], i, seed), 0, seed).text for i in range(prompts)]
    cut = [re.split(r"(?<=[.])\s+", text) for text in references]
    pools = [[sentence for parts in cut[k :: len(names)] for sentence in parts] for k in range(len(names))]
    sampled = []
    for i, parts in enumerate(cut):
        for _ in range(each):
            drawn = [dice.choice(pools[i % len(names)]) if dice.random() < 0.3 else part for part in parts if dice.random() < 0.9]
            words = [sentence.split() for sentence in drawn]
            for sentence in words:
                if len(sentence) > 2 and dice.random() < 0.2:
                    del sentence[dice.randrange(len(sentence))]
            sampled.append(" ".join(word for sentence in words for word in sentence))
    return sampled, [reference for reference in references for _ in range(each)]


def forget():
    "Empty every cache that a reward fills, but keep what is loaded."
    for cached in (sentence_facts, findings._facts, metrics.reading, metrics._ngrams, judge.compares):
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

    def started(count):
        many = Composite(weights=STEP2, workers=count)
        many(warm[0] * count, warm[1] * count)  # starts them
        return many

    def alone(many):
        many(*warm)
        start = time.perf_counter()
        many(completions, references)
        return time.perf_counter() - start

    taken = {"one": [], "two": [], "side by side": []}
    for who in [*taken] * 4:  # in turn and the best of four: whatever else the machine does should hit all alike
        teams = [started(2 if who == "two" else 1) for _ in range(2 if who == "side by side" else 1)]
        with ThreadPoolExecutor(len(teams)) as pool:
            taken[who].append(max(pool.map(alone, teams)))
        for many in teams:
            many.close()
    taken = {who: min(times) for who, times in taken.items()}
    most = 2 * taken["one"] / taken["side by side"]
    yield "composite by one worker process, ms a completion", 1000 * taken["one"] / n, ""
    said = f"{taken['one'] / taken['two']:.2f} times as fast as one; two that share nothing, each on all of it: {most:.2f} times"
    yield "composite by two, ms a completion", 1000 * taken["two"] / n, said


def statistics_rows(studies=5000, measures=12, draws=10_000):
    "The bootstrap and the randomisation test at the size of a large test set, every study a patient of its own, beside a loop of numpy."
    rng = np.random.default_rng(1)
    scores = pd.DataFrame(rng.random((studies, measures)), columns=[f"m{i}" for i in range(measures)])
    change, patients, values = rng.normal(0, 1, studies), np.arange(studies), scores.to_numpy()
    loop = seconds(lambda: [values[rng.integers(studies, size=studies)].mean(0) for _ in range(draws // 100)], 1) * 100
    ours = seconds(lambda: means_with_intervals(scores, patients, draws))
    beside = f"{loop / ours:.0f} times as fast as a loop over resamples"
    yield f"bootstrap, {draws} resamples of {studies} studies x {measures} measures, s", ours, beside
    loop = seconds(lambda: [abs((change * rng.choice([-1, 1], studies)).sum()) for _ in range(draws // 100)], 1) * 100
    ours = seconds(lambda: randomisation_p(change, patients, draws))
    yield f"randomisation test, {draws} trials of {studies} studies, s", ours, f"{loop / ours:.0f} times as fast as a loop over trials"


def share_of_a_step():
    "The reward's share of a GRPO step: the phantom profile's own run from its SFT policy, every step of it."
    finished = ROOT / "outputs" / "phantom" / "models" / "rl1-s1" / "training.json"
    what = "reward's share of a GRPO step, phantom profile, %"
    if not finished.exists():
        return what, float("nan"), "needs `make study` first"
    job = read_json(finished)["job"]
    options = job["trl"] | {"save_steps": "1000", "logging_steps": "1"}
    with tempfile.TemporaryDirectory() as folder:
        launch(job | {"trl": options, "reward": "step2", "evaluate_studies": 0, "out": f"{folder}/rl"}, show=False)
        with open(f"{folder}/rl/log.csv", encoding="utf-8") as file:
            log = [row for row in csv.DictReader(file) if row.get("step_time")]
    spent, whole = (sum(float(row[name]) for row in log) for name in ("reward/seconds", "step_time"))
    each = f"{spent / len(log):.3f} of {whole / len(log):.2f} s"
    share = f"{each} a step, {len(log)} steps; {job['batch'] * int(options['num_generations'])} completions, reward step2"
    return what, 100 * spent / whole, share


def bench_world(folder, studies=80):
    "A prepared source and a tiny policy for the trainers, (source, policy)."
    write_archive("iu_xray", f"{folder}/world", studies, 1)
    source = Path(folder, "data", "iu_xray")
    table = read_source("iu_xray", f"{folder}/world/iu_xray", out=source).table.remove_columns("image")
    texts = [text for study in table for text in (target_text(study), prompt_text(study)) if text]
    return source, build_tiny_policy(texts, f"{folder}/policy")


def trainer_run(who, kind, job, folder):
    "One short training in a process of its own: what its clock said."
    place = tempfile.mkdtemp(dir=folder)  # a work folder of its own: one that is there already is gone on with
    path, out = write_json(f"{place}/job.json", job | {"out": f"{place}/policy"}), f"{place}/clock.json"
    line = [sys.executable, str(Path(__file__).with_name("trainer_bench.py")), who, kind, str(path), out]
    own = {name: value for name, value in environment().items() if name != "UNIRG_LAUNCHED"}  # it has no launcher to end with
    done = subprocess.run(line, env=own, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return read_json(out)


def trainer_rows(sft_steps=40, grpo_steps=12, rounds=3, warm=3):
    "Seconds a step of ours beside a plain script with the same trainer of TRL's, model, rows and batch; and where they go."
    shared = {"learning_rate": "2e-4", "save_steps": "1000", "per_device_train_batch_size": "64"}
    kinds = {"sft": (16, shared | {"max_steps": str(sft_steps)})}
    kinds["grpo"] = (8, shared | {"max_steps": str(grpo_steps), "num_generations": "8", "max_completion_length": "48"})
    with tempfile.TemporaryDirectory() as folder:
        source, policy = bench_world(folder)
        for kind, (batch, options) in kinds.items():
            job = {
                "kind": kind,
                "start": str(policy),
                "tables": [str(source)],
                "batch": batch,
                "trl": options,
                "reward": "step1",
                "evaluate_studies": 0,
                "target_sections": "findings_impression",
                "seed": 1,

            }
            taken = {"ours": [], "plain": []}
            for who in [*taken] * rounds:  # taking turns
                clock = trainer_run(who, kind, job, folder)
                taken[who].append(np.median(np.diff(clock["steps"], axis=0)[warm:], axis=0))
                if who == "ours":
                    step = np.diff(clock["steps"], axis=0)[warm:, 0].mean()
                    parts = {what: np.mean(spent[warm:]) / step for what, spent in clock["parts"].items() if spent}
            (wall, processor), (_, theirs) = np.min(taken["ours"], axis=0), np.min(taken["plain"], axis=0)
            beside = f"{processor / theirs:.3f} x the plain script, by processor time; aim at most 1.05"
            yield f"{kind.upper()} step of the tiny policy, ms", 1000 * wall, beside
            for what, share in parts.items():
                yield f"- {what}, % of {kind.upper()}'s step", 100 * share, ""


def start_rows(studies=560_000):
    "From the start of a trainer to its first batch, with the studies of the paper and with few; films and texts are few and repeated."
    options = {"sft": {"max_steps": "1"}, "grpo": {"max_steps": "1", "num_generations": "2", "max_completion_length": "8"}}
    with tempfile.TemporaryDirectory() as folder:
        policy = build_tiny_policy(toy_texts(), f"{folder}/policy")
        tables = {number: str(many_studies(f"{folder}/{number}", number)) for number in (studies, 560)}
        for kind in ("sft", "grpo"):
            clocks = {}
            for number, table in tables.items():
                job = {"kind": kind, "start": str(policy), "tables": [table], "batch": 8, "trl": options[kind], "evaluate_studies": 0}
                start = time.time()
                _, imports, batch, processor = trainer_run("ours", kind, job, folder)["begun"]
                clocks[number] = batch - start, processor, processor - imports
            (whole, *spent), (_, *few) = clocks[studies], clocks[560]
            beside = "{:.1f} s of the processor, {:.1f} of them after the imports; with 560 studies {:.1f} and {:.1f}; aim under 60"
            beside = beside.format(*spent, *few)
            yield f"{kind.upper()}, {studies:,} studies: from the start to the first batch, s", whole, beside


def world_rows():
    "The phantom's films and the facts of its reports."
    patients = [draw_patient(name, i, 1) for name in INSTITUTIONS for i in range(4)]

    def render():
        for p in patients:
            film(p.body, p.visits[0].signs, CAMERAS[p.institution], p.visits[0].view, 512, p.visits[0].seed)

    yield "phantom film, 512 x 512, ms", 1000 * seconds(render) / len(patients), ""
    reports = [dictate(p, 0, 1).text for p in patients]

    def cold():
        forget()
        for text in reports:
            facts(text)

    yield "facts of a report, cold, ms", 1000 * seconds(cold) / len(reports), ""


PARTS = {"world": world_rows, "films": film_rows, "statistics": statistics_rows, "reward": reward_rows}
PARTS |= {"share": lambda: [share_of_a_step()], "trainers": trainer_rows, "start": start_rows, "readers": reader_rows}


def main(names):
    "Measure all, or some parts by name: their rows take the place of those that the file has."
    load_before = os.getloadavg()[0]
    warnings.simplefilter("ignore")  # pydicom's, of the real files' headers
    rows = [f"| {what} | {value:.3g} | {beside} |" for name in names or PARTS for what, value, beside in PARTS[name]()]
    path = ROOT / "BENCHMARKS.md"
    before, _, gpus = path.read_text(encoding="utf-8").partition("\n## ")  # what tests/gpu_bench.py wrote
    on = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}. Load average before: {load_before:.1f}"
    if names:
        table, new = [line for line in before.splitlines() if line.startswith("| ")], {row.split("|")[1] for row in rows}
        at = next((number for number, line in enumerate(table) if line.split("|")[1] in new), len(table))
        table = [*table[:at], *rows, *(line for line in table[at:] if line.split("|")[1] not in new)]
        top = [line for line in before.splitlines() if not line.startswith("|") and not line.startswith(f"Part {', '.join(names)}:")]
        lines = [*"\n".join(top).rstrip().split("\n"), "", f"Part {', '.join(names)}: a run of its own. {on}", "", *table]
    else:
        top = ["# Benchmarks", "", "Written by `make bench`; not a test. Compare within a run only.", "", on]
        top += ["(where other work holds the cores, two processes gain less by the clock).", ""]
        lines = [*top, "| what | value | beside |", *rows]
    lines.insert(len(lines) - len([line for line in lines if line.startswith("|")]) + 1, "|---|---|---|")
    atomic_write_text(path, "\n".join(lines) + "\n" + ("\n## " + gpus if gpus else ""))


if __name__ == "__main__":
    main(sys.argv[1:])
