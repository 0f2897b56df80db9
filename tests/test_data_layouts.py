"""What the readers share: JSON an entry at a time agrees with json, tables name their damage, films are found where people unpack them."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirg.core import StudyError
from unirg.data.layouts import LABELS, ImageFinder, find_file, json_entries, label_values, table_rows

PLAIN = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(PLAIN, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=6)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]))
def test_entries_agree_with_json_whatever_the_block(content, block, indent):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
        assert list(json_entries(path, block)) == list(content.items())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 80))
def test_a_cut_file_is_an_error_and_never_fewer_entries(cut):
    text = json.dumps({"a": {"x": [1, 2.5, None]}, "b": 12345, "c": {"text": 'a "quoted" } word'}})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cut.json"
        path.write_text(text[: min(cut, len(text) - 1)])
        with pytest.raises(StudyError, match=r"cut\.json"):
            list(json_entries(path, 16))


def test_tables_name_what_is_wrong(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffone,two\n1,\n\n1,2,\n", encoding="utf-8")
    assert list(table_rows(tmp_path / "a.csv", ["one", "two"])) == [{"one": "1", "two": ""}, {"one": "1", "two": "2"}]
    with pytest.raises(StudyError, match="no column 'three'"):
        list(table_rows(tmp_path / "a.csv", ["three"]))
    packed = gzip.compress(b"one\n" + b"1\n" * 10_000)
    (tmp_path / "b.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(StudyError, match=r"b\.csv\.gz"):
        list(table_rows(tmp_path / "b.csv.gz", ["one"]))
    long = "word " * 100_000
    (tmp_path / "c.csv").write_text(f'text\n"{long}"\n')
    assert next(table_rows(tmp_path / "c.csv", ["text"]))["text"] == long


def test_files_are_found_below_the_root_and_hidden_ones_are_not(tmp_path):
    for name in ("a/.x.csv", "a/b/x.csv", "a/b/c/d/deep.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_file(tmp_path, "*.csv") == tmp_path / "a" / "b" / "x.csv" and find_file(tmp_path, "deep.csv") is None
    with pytest.raises(StudyError, match=r"deep\.csv.*the deep table"):
        find_file(tmp_path, "deep.csv", what="the deep table")


def test_films_in_many_folders_and_names_with_brackets(tmp_path):
    for name in ("one/p1/a.png", "two/three/p2/a.jpg", "p3/[a] (1).png", "p3/.azDownload-a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    finder = ImageFinder(tmp_path, (".png", ".jpg"), searches=2)
    assert finder.find("p1/a.dcm") == "one/p1/a.png" and finder.find("/p2/a.dcm") == "two/three/p2/a.jpg"
    assert finder.find("p3/[a] (1).dcm") == "p3/[a] (1).png"
    assert finder.find("p3/a.dcm") is finder.find("p4/a.dcm") is finder.find("p5/a.dcm") is None and finder.searches == 0
    assert finder.find("p6/a.dcm") is None and finder.searches == 0
    assert finder.find("p1/a.dcm") == "one/p1/a.png"  # what is known is still found


def test_films_of_a_part_that_is_far_down_the_table_are_found(tmp_path):
    (tmp_path / "PNG" / "chunk_5" / "train" / "p99").mkdir(parents=True)
    (tmp_path / "PNG" / "chunk_5" / "train" / "p99" / "a.png").touch()
    finder = ImageFinder(tmp_path, (".png",))
    assert [finder.find(f"train/p{n}/a.jpg") for n in range(99)] == [None] * 99  # chunks that were not downloaded
    assert finder.find("train/p99/a.jpg") == "PNG/chunk_5/train/p99/a.png"


@pytest.mark.parametrize(("change", "said"), [({"Edema": "2"}, "'Edema' is '2'"), ({"Edema": "yes"}, "'yes'")])
def test_what_is_no_label(change, said):
    with pytest.raises(StudyError, match=f"a.csv.*{said}"):
        label_values(dict.fromkeys(LABELS, "") | change, "a.csv")
    with pytest.raises(StudyError, match=r"a\.csv has no label 'Edema'"):
        label_values({name: "" for name in LABELS if name != "Edema"}, "a.csv")
