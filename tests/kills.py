"""Kill the smoke study with -9 at random moments, its runner, Snakemake, tasks, kernels and trainers by turns: it goes on as if nothing
had been.

    python tests/kills.py 20        kills, with an undisturbed study first to compare with; about a minute of two cores each
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wheel import installed

WORDS = {
    "runner": "unirg-run",
    "snakemake": "snakemake.cli",
    "task": "-m unirg.study",
    "kernel": "ipykernel_launcher",
    "trainer": "unirg.training.",
}


def at_work(root: Path) -> dict[int, str]:  # process -> its command line
    "Every process of a study: its children inherit where it is, whoever their parent has become."
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "environ").read_bytes().split(b"\0")
            state = (place / "stat").read_text().rsplit(")", 1)[1].split()[0]
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state not in "ZX" and (f"UNIRG_ROOT={root}".encode() in words or f"KILLS_OF={root}".encode() in words):
            found[int(place.name)] = line
    return found


def victims(root: Path, kind: str) -> list[int]:
    "Processes of a kind."
    return [pid for pid, line in at_work(root).items() if WORDS[kind] in line and (kind == "runner" or "unirg-run" not in line)]


def gone(root: Path, patience: float = 20.0) -> bool:
    "Whether every process ends by itself."
    until = time.time() + patience
    while at_work(root) and time.time() < until:
        time.sleep(0.2)
    return not at_work(root)


def started(root: Path, environment: dict[str, str]) -> subprocess.Popen:
    log = (root / "run.log").open("a")
    command = ["unirg-run", "--profile", "smoke"]
    return subprocess.Popen(command, cwd=root, env=environment | {"KILLS_OF": str(root)}, stdout=log, stderr=subprocess.STDOUT)


def finished(root: Path) -> dict[str, float]:  # task -> when it began
    from unirg.core import read_json

    return {path.stem: read_json(path)["started"] for path in (root / "outputs/smoke/runs").glob("[!.]*.json")}


def results(root: Path) -> dict[str, str]:
    "Digests of what the study is for: tables, weights, predictions, scores, figures."
    base, found = root / "outputs/smoke", {}
    kinds = ("data/*/*.arrow", "models/*/*.safetensors", "predictions/*/*.json", "scores/*/*.parquet", "figures/*.csv", "figures/*.png")
    for kind in kinds:
        for path in base.glob(kind):
            found[str(path.relative_to(base))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main(kills: int, seed: int = 0) -> None:
    folder, draw, done = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(seed), 0
    environment = installed(folder)
    environment.pop("UNIRG_ROOT", None)
    for name in ("whole", "killed"):
        subprocess.run(["unirg-new", str(folder / name)], env=environment, check=True)
    began = time.time()
    assert started(folder / "whole", environment).wait() == 0, "the undisturbed study failed"
    whole, took = results(folder / "whole"), time.time() - began
    print(f"undisturbed: {took:.0f} s, {len(whole)} results", flush=True)
    root = folder / "killed"
    while done < kills:
        process, before = started(root, environment), finished(root)
        kind, until = list(WORDS)[done % len(WORDS)], time.time() + draw.uniform(3, took / 4)
        while process.poll() is None and (time.time() < until or not victims(root, kind)):
            time.sleep(0.1)
        if process.poll() is None:
            for pid in victims(root, kind)[:1]:
                os.kill(pid, signal.SIGKILL)
            process.wait()
            done += 1
            assert gone(root), f"left running: {at_work(root)}"
            after = finished(root)
            assert all(after[task] == when for task, when in before.items()), "a finished task was repeated"
            print(f"{done}: {kind} killed with {len(after)} tasks done", flush=True)
            continue
        assert process.returncode == 0, (root / "run.log").read_text()[-2000:]
        assert results(root) == whole, sorted(name for name in whole if results(root).get(name) != whole[name])
        print("finished: the same results", flush=True)
        subprocess.run(["rm", "-rf", str(root / "outputs")], check=True)
    assert started(root, environment).wait() == 0, (root / "run.log").read_text()[-2000:]
    differ = sorted(name for name in {*whole, *results(root)} if results(root).get(name) != whole.get(name))
    print(f"{done} kills, {len(whole)} results compared, {len(differ)} differ {differ[:5]}, left running: {len(at_work(root))}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["20"]))
