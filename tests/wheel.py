"The package as a person installs it: the built wheel in a folder of its own, beside the dependencies that are here."

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def built(folder: Path, *kinds: str) -> list[Path]:
    "Build wheel or sdist from the files that git has or would take, away from the working tree."
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    arguments = ["--no-isolation", "--outdir", str(folder / "dist"), *kinds, str(folder / "source")]
    subprocess.run([sys.executable, "-m", "build", *arguments], check=True, capture_output=True)
    return sorted((folder / "dist").iterdir())


def installed(folder: Path) -> dict[str, str]:  # an environment in which the wheel's commands and modules come first
    "Install the wheel alone into a folder."
    wheel = next(path for path in built(folder, "--wheel") if path.suffix == ".whl")
    site = folder / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True)
    path = os.pathsep.join([str(site / "bin"), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(site), "PATH": path, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "users_cache")}
