"Archives and results behind symbolic links: followed everywhere, loops excepted, and never the reason for a table without a row."

import shutil
from pathlib import Path

import pytest
from PIL import Image

from unirg.core import Settings, StudyError, digest, files_below, remembered
from unirg.data import chexpert_plus, iu_xray, mimic_cxr, rexgradient, rexrank, table
from unirg.phantom.archives import write_archive
from planned import plan_of

ROOT = Path(__file__).parents[1]
READERS = {"mimic_cxr": mimic_cxr, "chexpert_plus": chexpert_plus, "rexgradient": rexgradient, "iu_xray": iu_xray, "rexrank": rexrank}


def behind_links(root, disk):
    "Move every folder of an archive to another disk, and every folder of it to yet another, with a link back into the archive for a loop."
    disk.mkdir()
    for number, folder in enumerate(sorted(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())[::-1]):
        there = disk / f"{number}-{folder.name}"
        shutil.move(folder, there)
        folder.symlink_to(there)
        (there / "loop").symlink_to(root)
    return root


@pytest.mark.parametrize("layout", READERS)
def test_an_archive_behind_links_is_the_same_archive(layout, tmp_path):
    write_archive(layout, tmp_path / "written", 4, 3, film_size=64)
    (tmp_path / "written" / layout).rename(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "linked")
    behind_links(tmp_path / "linked", tmp_path / "disk")
    (tmp_path / "root").symlink_to(tmp_path / "linked")
    plain, linked = (READERS[layout].read(tmp_path / name, size=32) for name in ("plain", "root"))
    assert linked.counts == plain.counts and linked.counts["rows"] > 0
    for column in ("study_id", "view", "findings"):
        assert linked.table[column][:] == plain.table[column][:]


def test_a_tables_films_behind_links(tmp_path):
    for folder in ("disk/one", "archive"):
        (tmp_path / folder).mkdir(parents=True)
    Image.linear_gradient("L").save(tmp_path / "disk/one/a.png")
    (tmp_path / "archive/films").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/t.csv").write_text("file\na\n")
    (tmp_path / "archive/t.csv").symlink_to(tmp_path / "disk/t.csv")
    studies = table.read(tmp_path / "archive", table="t.csv", image="films/one/{file}", size=32)
    assert studies.table["image_path"][:] == ["films/one/a.png"]


def test_an_archive_without_its_films_is_no_finished_table(tmp_path):
    write_archive("iu_xray", tmp_path / "iu", 6, 3, film_size=64)
    for film in [*(tmp_path / "iu").rglob("*.png")]:
        film.unlink()
    with pytest.raises(StudyError, match=r"none of \d+ studies can be used: file is missing .*Looked in .*/iu"):
        iu_xray.read(tmp_path / "iu", size=32, out=tmp_path / "out")
    assert "file is missing" in (tmp_path / "out.quarantine.csv").read_text() and not (tmp_path / "out").exists()
    assert iu_xray.read(tmp_path / "iu", pixels=False).counts["rows"] > 0  # the text alone


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    for folder in ("a/b/c", "d"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "film.png").touch()
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/b/self").symlink_to(tmp_path / "a/b")
    (tmp_path / "a/over").symlink_to(tmp_path / "d")
    (tmp_path / "d/back").symlink_to(tmp_path / "a")
    (tmp_path / "a/gone").symlink_to(tmp_path / "nowhere")
    found = sorted(str(path.relative_to(tmp_path / "a")) for path in files_below(tmp_path / "a"))
    assert found == ["b/c/film.png", "over/film.png"]


def test_a_change_behind_a_link_changes_the_digest(tmp_path):
    for folder in ("archive", "disk"):
        (tmp_path / folder).mkdir()
    (tmp_path / "archive/films").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/loop").symlink_to(tmp_path / "archive")
    (tmp_path / "disk/a.png").write_text("one")
    before, memory = digest(tmp_path / "archive"), tmp_path / "digests.json"
    assert remembered(tmp_path / "archive", memory) == before
    (tmp_path / "disk/a.png").write_text("another")
    assert digest(tmp_path / "archive") == remembered(tmp_path / "archive", memory) != before


@pytest.mark.parametrize("linked", ["outputs", "outputs/phantom"])
def test_a_plan_whose_results_lie_on_another_disk(tmp_path, linked):
    root = tmp_path / "study"
    (root / "nbs").mkdir(parents=True)
    shutil.copy(ROOT / "settings.ini", root)
    (root / "nbs/study").symlink_to(ROOT / "nbs/study")
    (root / linked).parent.mkdir(exist_ok=True)
    (tmp_path / "disk").mkdir()
    (root / linked).symlink_to(tmp_path / "disk")
    plan = plan_of(Settings("phantom", root=root))
    assert "phantom" in plan.tasks and plan.tasks["prepare-mimic_cxr"].needs == ["phantom"]
    assert plan.tasks["prepare-mimic_cxr"].parameters["root"] == "outputs/phantom/archives/mimic_cxr"
