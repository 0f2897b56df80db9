"The documentation's block for a hospital's own table, as it stands: pasted into settings.ini, on made films, by the command that it shows."

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from unirg.core import Settings, StudyError
from unirg.data.sources import read_source
from unirg.data.studies import Studies

ROOT = Path(__file__).parents[1]
PAGES = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))  # whichever page shows it
BLOCK = next(block for block in re.findall(r"```ini\n(.*?)```", PAGES, re.DOTALL) if "[source:our_hospital]" in block)
COMMAND = re.search(r"```\w*\n(unirg-run --profile hospital \S+)\n```", PAGES)[1]
ROWS = """accession;film;mrn;date;report;view;sex;age;race
A1;f1;007;13/01/2020;"INDICATION: Cough.\nFINDINGS: Clear lungs, no effusion.\nASSESSMENT: Normal.";thorax 1;F;34 years;White or Caucasian
A1;f2;007;13/01/2020;;thorax 2;F;34 years;White or Caucasian
A2;f3;007;02/02/2020;"FINDINGS: Small effusion.\nBEURTEILUNG: Pleural effusion.";;F;34;White or Caucasian
A3;f4;008;01/03/2020;"FINDINGS: Clear.";PA;1;90+;Klingon
A4;gone;009;01/03/2020;"FINDINGS: Clear.";PA;M;60;Black
A5;f4;010;01/03/2020;Clear;no effusion;PA;M;60;Black
"""


def film(path, view=None):
    shades = np.tile(np.linspace(0, 4095, 64, dtype=np.uint16), (64, 1))
    if path.suffix == ".png":
        Image.fromarray((shades / 16).astype(np.uint8)).save(path)
        return
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.SOPClassUID, one.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    one.Modality, one.PhotometricInterpretation, one.ViewPosition = "CR", "MONOCHROME2", view
    one.Rows, one.Columns, one.SamplesPerPixel, one.PixelRepresentation = 64, 64, 1, 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 12, 11
    one.PixelData = shades.tobytes()
    one.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    root = tmp_path_factory.mktemp("hospital")
    data, disk = root / "data" / "our_hospital", root / "another disk"
    data.mkdir(parents=True)
    disk.mkdir()
    (data / "films").symlink_to(disk)  # films lie on another disk
    for path, view in ((disk / "f1.png", None), (disk / "f2.png", None), (disk / "f3.dcm", "AP"), (disk / "f4.png", None)):
        film(path, view)
    (data / "studies.csv").write_text(ROWS, encoding="utf-8")
    block = BLOCK.replace("~/data/our_hospital", str(data))
    assert block != BLOCK
    (root / "settings.ini").write_text((ROOT / "settings.ini").read_text(encoding="utf-8") + "\n" + block, encoding="utf-8")
    shutil.copytree(ROOT / "nbs" / "study", root / "nbs" / "study", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (root / "elsewhere").mkdir()
    (root / "outputs").symlink_to(root / "elsewhere")  # and so do results
    return root


def run(root, *arguments):
    code = "import sys; from unirg.study import run; run(sys.argv[1:])"
    environment = {**os.environ, "UNIRG_ROOT": str(root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=root, env=environment, capture_output=True, text=True)


def test_the_values_are_without_their_comments(hospital):
    settings = Settings("hospital", root=hospital)
    source = settings.section("source:our_hospital")
    assert (source["role"], source["image"], source["date_form"]) == ("unseen", "films/{film}", "%d/%m/%Y")
    assert source["views"] == "LATERAL: thorax 2 | PA: thorax 1" and settings.get("sources") == "our_hospital"
    assert not [value for value in source.values() if ";" in value]


def test_more_damage_than_allowed_is_refused_and_all_of_it_named(hospital, tmp_path):
    source = Settings("hospital", root=hospital).section("source:our_hospital")
    options = Settings("hospital", root=hospital).reader_options("our_hospital")
    with pytest.raises(StudyError, match=r"gone: file is missing \(2 of 5 films or rows cannot be read; unreadable_limit is 0.01\)"):
        read_source("table", source["root"], 0.01, size=64, out=tmp_path / "ours", **options)
    listed = (tmp_path / "ours.quarantine.csv").read_text()
    assert "A4,file is missing" in listed and "line 10 of studies.csv,a row of 10 cells where the header has 9" in listed
    assert not (tmp_path / "ours").exists()


def test_it_is_prepared_by_the_command_that_is_shown(hospital):
    done = run(hospital, *COMMAND.split()[1:], "--set", "unreadable_limit=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "race is stated and not understood 1 times: 'Klingon' 1; say what they mean by races" in done.stdout
    studies = Studies.load(hospital / "outputs/hospital/data/our_hospital")
    rows = {row["study_id"]: row for row in studies.table.remove_columns("image")}
    assert {name: (row["view"], row["image_path"], row["prior_study_id"]) for name, row in rows.items()} == {
        "A1": ("PA", "films/f1.png", None), "A2": ("AP", "films/f3.dcm", "A1"), "A3": ("PA", "films/f4.png", None),
    }  # fmt: skip
    assert (rows["A1"]["impression"], rows["A2"]["impression"]) == ("Normal.", "Pleural effusion.")
    assert (rows["A1"]["age"], rows["A3"]["age"], rows["A1"]["race"], rows["A3"]["sex"]) == (34, 90, "white", None)
    told = json.loads((hospital / "outputs/hospital/data/our_hospital/counts.json").read_text())
    assert told["table_rows"] == {
        "of": "rows of studies.csv", "read": 6, "studies": 4, "further rows of a study": 1, "quarantined rows": 1,
    }  # fmt: skip
    assert told["not_understood"] == {"race": {"Klingon": 1}, "sex": {"1": 1}}


def test_a_task_without_its_source_is_told_of_those_that_go_on(hospital):
    done = run(hospital, "--profile", "hospital", "prepare")
    assert done.returncode == 2 and "did you mean 'prepare-our_hospital'?" in done.stderr
