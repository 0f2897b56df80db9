"""Preparing a large archive: memory, damage and kills.

As a program (`python tests/scale.py`, some ten minutes) it prints what it measured; tests use its parts.
Rendering 20,000 films would take most of the time, so a few hundred phantom studies are written once, with small films, and then repeated
under new patient, study and film ids by hard links. To the reader every repeated study is one of its own: it has its rows in the tables,
its files, its place among its patient's studies.
"""

import contextlib
import csv
import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pydicom
from PIL import Image

from unirg.core import digest
from unirg.data.studies import Studies
from unirg.phantom import archives

TABLES = ("mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-split.csv.gz")


def small_archive(root, studies, film_size=128, seed=3):
    "A phantom archive in MIMIC-CXR's layout whose films are small, and so cheap to write and to read."
    archives.write_archive("mimic_cxr", root, studies, seed, film_size=film_size)
    return Path(root) / "mimic_cxr" if (Path(root) / "mimic_cxr").exists() else Path(root)


def repeated(base, root, copies):
    "The archive so many times over, its files hard links; returns the root."
    root.mkdir(parents=True)
    numbers: dict[str, int] = {}

    def new(name, copy):  # ids keep their shape: a first digit, and seven more
        number = numbers.setdefault(name, len(numbers))
        return f"{name[0]}{copy * 20_000 + number:07d}"

    def film(name, copy):
        digits = hashlib.sha1(f"{name} {copy}".encode()).hexdigest()
        return "-".join(digits[i : i + 8] for i in range(0, 40, 8))

    for table in TABLES:
        with gzip.open(base / table, "rt", newline="") as file:
            rows = list(csv.DictReader(file))
        with gzip.open(root / table, "wt", newline="", compresslevel=1) as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for copy in range(copies):
                for row in rows:
                    ids = {"subject_id": new(row["subject_id"], copy), "study_id": new(row["study_id"], copy)}
                    writer.writerow({**row, **ids, "dicom_id": film(row["dicom_id"], copy)})
    for path in sorted((base / "files").rglob("*.*")):
        study, subject = (path.parent.name, path.parents[1].name) if path.suffix == ".dcm" else (path.stem, path.parent.name)
        for copy in range(copies):
            patient = f"p{new(subject[1:], copy)}"
            place = root / "files" / patient[:3] / patient / f"s{new(study[1:], copy)}"
            place.mkdir(parents=True, exist_ok=True)
            os.link(path, place.with_suffix(".txt") if path.suffix == ".txt" else place / f"{film(path.stem, copy)}.dcm")
    return root


def edited(path, change):
    "A DICOM file with some elements changed."
    dataset = pydicom.dcmread(path)
    if change == "window":
        dataset.WindowCenter, dataset.WindowWidth = 1e9, 1
    else:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 2)
    path.unlink()  # its other names keep the film
    dataset.save_as(path)


def replaced(path, content):
    path.unlink()
    path.write_bytes(content)


def as_png(path):
    path.unlink()
    Image.linear_gradient("L").save(path, format="PNG")


# kind of damage -> what is done to the file, and a word of the reason it ends in quarantine with
DAMAGES = {
    "truncated": (lambda path: replaced(path, path.read_bytes()[:1500]), r"truncated|do not decode"),
    "zero bytes": (lambda path: replaced(path, b""), r"empty \(0 bytes\)"),
    "wrong suffix": (as_png, r"wrong suffix: the content is PNG"),
    "text": (lambda path: replaced(path, b"Dear colleague, the film is in the other folder. " * 30), r"not a DICOM file"),
    "all black": (lambda path: edited(path, "black"), r"all black"),
    "absurd window": (lambda path: edited(path, "window"), r"absurd window"),
}


def damaged(root, studies, share=0.01, seed=1):
    "Damage the films of a share of these studies; returns study -> kind."
    chosen = random.Random(seed).sample(sorted(studies), max(round(share * len(studies)), len(DAMAGES)))
    done = {study: list(DAMAGES)[number % len(DAMAGES)] for number, study in enumerate(chosen)}
    for study, kind in done.items():
        DAMAGES[kind][0](root / studies[study])
    return done


# a program's own peak: ru_maxrss would begin with that of the process that started it
PEAK = """
import re
def peak():  # MiB
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
"""
PREPARE = PEAK + """
import json, sys
from unirg.data import mimic_cxr
from unirg.data.shards import listed_in, write_shards
from unirg.data.studies import collect
root, out, step, size, shard, part, parts = *sys.argv[1:4], *map(int, sys.argv[4:])
studies = []
if step == "read":
    write_shards(listed_in(out), part, parts)
else:
    studies = collect("mimic_cxr", mimic_cxr.records(root), root=root, size=size, step=step, out=out, shard=shard)
print(json.dumps({"rows": len(studies.table) if studies else 0, "mib": peak()}))
"""


def preparing(root, out, step="all", size=64, shard=256, part=1, parts=1):
    "A process that prepares an archive in MIMIC-CXR's layout, or a step of that; `read` takes the folder of shards."
    command = [sys.executable, "-c", PREPARE, str(root), str(out), step, *map(str, (size, shard, part, parts))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def shards_of(out):
    "How many shards of a source in the making are done."
    return len(list(out.with_name(f".{out.name}.shards").glob("*/0*.json")))


def killed(root, out, at, **options):
    "Begin to prepare, kill -9 once so many shards are done, and return how many there were; raises where it had finished before."
    process = preparing(root, out, **options)
    while shards_of(out) < at:
        if process.poll() is not None:
            raise AssertionError("it ended before it could be killed")
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    return shards_of(out)


def images_of(table):
    "Study -> path of its film."
    return dict(zip(table["study_id"][:], table["image_path"][:], strict=True))


def rows_of(table):
    "Study -> all that was prepared of it, but for its prior, which may be among the damaged."
    kept = table.remove_columns(["prior_study_id", "flags"]).with_format("arrow")
    return {row["study_id"]: row for batch in kept.iter(500) for row in batch.to_pylist()}


JOBS = int(os.environ.get("UNIRG_SCALE_JOBS", "2"))


def main():
    def said(process):
        return json.loads(process.communicate()[0].splitlines()[-1])

    def measured(root, out):
        started, work = time.time(), out.with_name(f".{out.name}.shards")
        listing = said(preparing(root, out, "list"))
        jobs = [preparing(root, work, "read", part=part, parts=JOBS) for part in range(1, JOBS + 1)]
        reading = [said(job)["mib"] for job in jobs]
        joining = said(preparing(root, out, "join"))
        most = {"list_mib": listing["mib"], "read_mib": max(reading), "join_mib": joining["mib"]}
        return {"rows": joining["rows"], **most, "seconds": time.time() - started}

    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1] / "outputs") as folder:
        folder = Path(folder)
        base = small_archive(folder / "base", 250)
        large = repeated(base, folder / "large", 80)
        few = repeated(base, folder / "few", 8)
        for name, root in (("few", few), ("large", large)):
            m = measured(root, folder / "data" / name)
            print(
                f"{m['rows']} rows: at the peak {m['list_mib']:.0f} MiB to list, {m['read_mib']:.0f} to read, {m['join_mib']:.0f} to join, "
                f"{m['seconds']:.0f} s, {m['rows'] / m['seconds']:.0f} studies a second", flush=True,
            )  # fmt: skip
        whole = Studies.load(folder / "data" / "large")
        broken = damaged(large, images_of(whole.table))
        measured(large, folder / "data" / "broken")
        after = Studies.load(folder / "data" / "broken")
        report_damage(whole, after, broken)
        out = folder / "data" / "killed"
        counts = [killed(large, out, at) for at in (20, 50)]
        measured(large, out)
        same = digest(out) == digest(folder / "data" / "broken")
        print(f"killed -9 at {counts[0]} and at {counts[1]} shards, then finished: {'the same bytes' if same else 'NOT THE SAME'}")


def report_damage(whole, after, broken):
    wrong = [s for s, kind in broken.items() if not re.search(DAMAGES[kind][1], after.quarantine.get(s, {"reason": ""})["reason"])]
    before, now = rows_of(whole.table), rows_of(after.table)
    changed = [s for s in before if s not in broken and now.get(s) != before[s]]
    print(f"damaged {len(broken)} of {len(before)} films, {dict(Counter(broken.values()))}")
    print(f"of these not in quarantine, or not with their reason: {len(wrong)}")
    print(f"other rows that changed: {len(changed)}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
