"""`make bench`: timings of one run on one machine, written to BENCHMARKS.md. Only ratios within a run compare."""

import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

from unirg.core import derived_seed, write_whole
from unirg.data.radiographs import load_radiograph
from unirg.data.sources import read_source
from unirg.phantom.anatomy import CAMERAS, film
from unirg.phantom.archives import write_archive
from unirg.phantom.dictation import dictate
from unirg.phantom.patients import INSTITUTIONS, draw_patient
from unirg.reward.composite import Composite
from unirg.reward.findings import facts, sentence_facts

ROOT = Path(__file__).parents[1]


def seconds(work, repeats=3):
    "Median seconds of some work."
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


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
        write_whole(Path(folder, "iu_xray", "t.csv"), "\n".join(lines))
        mapping = dict(table="t.csv", image="NLMCXR_png/{film}", report="report")
        start = time.perf_counter()
        rows = read_source("table", f"{folder}/iu_xray", out=f"{folder}/data", **mapping).counts["rows"]
        yield "reader table, rows per second", rows / (time.perf_counter() - start), ""


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
    reward, rng = Composite(step=2), np.random.default_rng(derived_seed(1, "bench"))
    sampled = [reports[i] for i in rng.integers(0, len(reports), 64)]
    references = [reports[i // 8] for i in range(64)]
    reward(sampled, reference=references)
    rows.append(("composite of step 2, warm, ms a completion", 1000 * seconds(lambda: reward(sampled, reference=references)) / 64, ""))
    rows += reader_rows()
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
