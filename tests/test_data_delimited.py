"Tables that are none, or that somebody damaged: every row is one that was written, or an error or a fault names file and line."

import codecs
import csv
import gzip
import io
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unirg.core import StudyError
from unirg.data.delimited import AGAIN, EMPTY, Delimited, shape, sniffed, swallowed, table_rows
from unirg.data.studies import Tally

HEAD = "file,mrn,report\n"


def table_of(tmp_path, content, name="t.csv", **options):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Delimited(tmp_path / name, **options)


def rows_of(tmp_path, content, **options):
    return list(table_of(tmp_path, content, **options).rows())


CELL = st.text(st.sampled_from('ab,;"\n\t |0é'), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=6), st.sampled_from(",;\t|"), st.booleans())
def test_what_a_writer_writes_is_what_is_read(tmp_path_factory, content, delimiter, quoted):
    "Cells of any text, by Python's own writer: the same rows come back, but for blank ones and blanks at a cell's beginning."
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([["one", "two", "three"], *content])
    table = table_of(tmp_path_factory.mktemp("t"), text.getvalue(), delimiter=delimiter)
    read = [row.cells for row in table.rows() if not row.kind]
    kept = [cells for cells in content if any(cell.strip(" \n\t") for cell in cells)]
    unblank = [[cell.lstrip(" ") for cell in cells] for cells in kept]
    assert [[cell.lstrip(" ") for cell in cells] for cells in read] == unblank


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + 'a.png,1,"open\nb.png,2,Large\n', "line 2: a quote is opened in this row and never closed"),
        (HEAD + 'a.png,1,Clear\nb.png,2,"open', "line 3: a quote is opened"),
        (HEAD + 'a.png,1,"The \\"apical\\" line"\n', r'line 2: a quote within a cell.*doubled \(""\), and not escaped by'),
        (HEAD + 'a.png,1,"Small "effusion"\n', "line 2: a quote within a cell"),
        ('"file","mrn","report"\n"a.png","1","Small\n"b.png","2","Large"\n', "line 3, in the row that begins in line 2: a quote within"),
        (HEAD + 'a.png,1,"Small effusion\nb.png,2,tube of 5"\nc.png,3,Clear\n', "line 2: a cell of this row holds lines that look like"),
        ('mrn,note,sex\n1,"Small effusion,F\n2,Clear,M\n3,tube of 5",F\n', "line 2: a cell of this row holds lines that look like"),
        ('note,mrn,day\n"Small effusion,1,2020-01-02\nLarge,2,2020-01-03\nClear 5",3,2020-01-04\n', "line 2: a cell of this row holds"),
        (HEAD + '1.dcm,A1,"Small\n2.dcm,A2,Large\n3.dcm,A3,"\n', "line 2: a cell of this row holds|line 4"),
        (HEAD + "a.png,1,Clear\nmrn,file,report\n2,b.png,Clear\n", "line 3 is another header, with other columns"),
        (HEAD + "a.png,1,Clear\nfile,mrn,report,sex\nb.png,2,Clear,F\n", "line 3 is another header"),
        (HEAD + "a.png,1,Cl\0ear\n", "line 2 holds NUL bytes"),
        ('"file,mrn,report"\n"a.png,1,Clear"\n', "whole lines stand in quotes"),
        ("", "holds no rows"),
        ("\ufeff", "holds no rows"),
        (",,\n", "holds no rows"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_line(tmp_path, text, message):
    with pytest.raises(StudyError, match=f"t.csv.*(?:{message})"):
        rows_of(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (HEAD + "a.png,1,Clear lungs, no effusion\nb.png,2,Clear\n", {2: "4 cells"}),
        (HEAD + "a.png,1\nb.png,2,Clear\n", {2: "2 cells"}),
        (HEAD + "a.png,1,Clear lungs.\nNo effusion.\nb.png,2,Clear\n", {2: "may go on in the next row", 3: "1 cells"}),
        ("file,report,mrn\na.png,Clear lungs.\nNo effusion.,1\nb.png,Clear,2\n", {2: "2 cells", 3: "2 cells"}),
        (HEAD + "a.png,1,Clear lungs.\rNo effusion.\nb.png,2,Clear\n", {2: "may go on", 3: "1 cells"}),
        (HEAD + "a.png,1,Clear\n(1 rows affected)\n", {2: "may go on", 3: "1 cells"}),
        (HEAD + "a.png,1,Clear\n\n(1 rows affected)\n", {4: "1 cells"}),
        (HEAD + "1,a.png,7,Clear\n2,b.png,8,Clear\n", {2: "4 cells", 3: "4 cells"}),
    ],
)
def test_a_row_that_does_not_fit_has_a_fault_that_names_its_line(tmp_path, text, faults):
    found = {row.line: row.fault for row in rows_of(tmp_path, text) if row.fault}
    assert found.keys() == faults.keys()
    assert all(said in found[line] and f"line {line} of t.csv" in found[line] for line, said in faults.items())


@pytest.mark.parametrize(
    "text",
    [
        "file;mrn;report;\na.png;1;Clear;\nb.png;2;Clear;\n",  # a delimiter at the end of every line
        "file;mrn;report\na.png;1;Clear;\nb.png;2;Clear;;;\n",  # or of the rows only
        "file,mrn,report,\na.png,1,Clear\nb.png,2,Clear\n",  # or of the header only
        ',file,mrn,report\n0,a.png,1,Clear\n1,b.png,2,Clear\n',  # an index without a name
        '"file", "mrn", "report"\n"a.png", "1", "Clear"\n"b.png", "2", "Clear"\n',
        "sep=;\nfile;mrn;report\na.png;1;Clear\nb.png;2;Clear\n",
        '"sep=,"\nfile,mrn,report\na.png,1,Clear\nb.png,2,Clear\n',
        "\n\nfile|mrn|report\na.png|1|Clear\n|||\n\nb.png|2|Clear\n\x1a",
        "\ufefffile,mrn,report\r\na.png,1,Clear\r\nb.png,2,Clear\r\n",
        "file,mrn,report\ra.png,1,Clear\rb.png,2,Clear\r",
        "file\tmrn\treport\n----\t---\t------\na.png\t1\tClear\nfile\tmrn\treport\nb.png\t2\tClear\n",
        "file , \u200bmrn,report\u200b\na.png,1,Clear\n\ufefffile,mrn,report\nb.png,2,Clear\n",
    ],
)
def test_ways_of_writing_the_same_table(tmp_path, text):
    table = table_of(tmp_path, text)
    place = [table.columns.index(name) for name in ("file", "mrn", "report")]
    rows = [row for row in table.rows() if not row.kind]
    assert [[row.cells[i] for i in place] for row in rows] == [["a.png", "1", "Clear"], ["b.png", "2", "Clear"]]
    assert not any(row.fault for row in rows)


def test_empty_rows_and_headers_that_come_again_are_told_apart(tmp_path):
    kinds = [row.kind for row in rows_of(tmp_path, HEAD + ",,\n\n  \n---,---,---\na.png,1,Clear\n" + HEAD)]
    assert kinds == [EMPTY] * 4 + ["", AGAIN]


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        ("file;weight, kg;report\na;70,5;Clear, no effusion\n", ";"),
        ('file,"a;b;c;d",report\na,1,Clear; no; effusion; at; all\n', ","),
        ("file;report\na;Clear, no effusion, no pneumothorax, and so on\n", ";"),
        ("file\treport\na\tClear, no effusion; no pneumothorax\n", "\t"),
        ('"Name, first";report\n"Doe, J";Clear\n', ";"),
        ("file,report\na,Clear | no | effusion\n", ","),
        ("file\na.png\n", ","),
    ],
)
def test_delimiters(lines, delimiter):
    assert sniffed(lines.splitlines(keepends=True)) == delimiter


GERMAN = HEAD + "a.png,1,Größe für Ärzte – kein „weißer“ Fleck\n"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (GERMAN.encode(), "utf-8-sig"),
        (codecs.BOM_UTF8 + GERMAN.encode(), "utf-8-sig"),
        (codecs.BOM_UTF16_LE + GERMAN.encode("utf-16-le"), "utf-16"),
        (codecs.BOM_UTF16_BE + GERMAN.encode("utf-16-be"), "utf-16"),
        (GERMAN.encode("cp1252"), "cp1252"),
        ((HEAD + "a.png,1,“weiß” été à gauche »\n").encode("cp1252"), "cp1252"),
        ((HEAD + "a.png,1,Легкие чистые\n").encode(), "utf-8-sig"),
        ((HEAD + "a.png,1,心影不大\n").encode(), "utf-8-sig"),
    ],
)
def test_letters_come_as_they_were_written(tmp_path, data, encoding):
    table = table_of(tmp_path, data)
    assert table.encoding == encoding and bool(table.note) == (encoding == "cp1252")
    decoded = data.decode(encoding).splitlines()[1].removeprefix("a.png,1,")
    assert next(table.rows()).cells[2] == decoded


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GERMAN.encode() + b"b.png,2,Caf\xe9\n", "line 3: byte 0xe9 is not UTF-8, but line 2 is"),
        (b"file,mrn,report\na.png,1,Caf\xe9\n" + "b.png,2,Größe\n".encode(), "line 2: byte 0xe9 is not UTF-8, but line 3 is"),
        ((HEAD + "a.png,1,Größe ").encode() + b"Caf\xe9\n", "line 2: byte 0xe9 is not UTF-8, but line 2 is"),
        (codecs.BOM_UTF8 + HEAD.encode() + b"a.png,1,Caf\xe9\n", "line 2: byte 0xe9"),
        ((HEAD + "a.png,1,Müdigkeit ärztlich Größe\n").encode("mac_roman"), "not in Windows' western letters"),
        ((HEAD + "a.png,1,Müdigkeit schön Größe\n").encode("cp850"), "not in Windows' western letters"),
        ((HEAD + "a.png,1,Легкие чистые\n").encode("cp1251"), "not in Windows' western letters"),
        ((HEAD + "a.png,1,心影不大，两肺清晰\n").encode("gbk"), "not in Windows' western letters"),
        ((HEAD + "a.png,1,心臓は正常\n").encode("shift_jis"), "not in Windows' western letters"),
        (HEAD.encode("utf-16-le"), "NUL bytes: damage, or UTF-16 without its mark"),
    ],
)
def test_two_encodings_and_unknown_ones_are_asked_about(tmp_path, data, message):
    with pytest.raises(StudyError, match=message):
        rows_of(tmp_path, data)


@pytest.mark.parametrize("text", ["Größe".encode().decode("cp1252"), "weiß“".encode().decode("cp1252", "replace"), "Gr\ufffdße"])
def test_letters_that_were_lost_before_are_told(tmp_path, text):
    assert "line 3 holds letters that an earlier export lost" in table_of(tmp_path, HEAD + f"a.png,1,Größe\nb.png,2,{text}\n").note


def test_a_person_may_name_the_encoding(tmp_path):
    for encoding in ("cp1251", "mac_roman", "utf-16-le"):
        text = "Легкие" if encoding == "cp1251" else "Größe"
        assert rows_of(tmp_path, (HEAD + f"a.png,1,{text}\n").encode(encoding), encoding=encoding)[0].cells[2] == text
    with pytest.raises(StudyError, match="there is no encoding 'utf-9'"):
        table_of(tmp_path, HEAD, encoding="utf-9")
    with pytest.raises(StudyError, match=r"line 2: byte 0xe9 is not UTF-8"):
        rows_of(tmp_path, HEAD.encode() + b"a.png,1,Caf\xe9\n", encoding="utf-8")


def zipped(*names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (zipped("xl/workbook.xml"), r"an Excel file \(.xlsx\); save it as CSV"),
        (zipped("content.xml", "mimetype"), "an OpenDocument spreadsheet"),
        (zipped("studies.csv"), "a zip archive; unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), r"an old Excel file \(.xls\)"),
        (b"PAR1" + bytes(99), "a Parquet file"),
        (b"SQLite format 3\0" + bytes(99), "an SQLite database"),
        (b"<html><body><table><tr><td>file</td></tr></table>", "a web page or XML"),
        (b'<?xml version="1.0"?><Workbook/>', "a web page or XML"),
        (b'[{"file": "a.png"}]', "JSON"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "packed by zstd; unpack it"),
        (b"{\\rtf1\\ansi file}", "an RTF document"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.xls"])
def test_what_is_no_text_is_named_whatever_its_name(tmp_path, data, what, name):
    with pytest.raises(StudyError, match=f"{name} is {what}"):
        table_of(tmp_path, data, name)


def test_a_packed_table_is_read_as_it_is_and_a_cut_one_is_an_error(tmp_path):
    packed = gzip.compress((HEAD + "a.png,1,Clear\n" * 10_000).encode())
    assert len(rows_of(tmp_path, packed)) == 10_000  # whatever its name
    with pytest.raises(StudyError, match=r"t\.csv cannot be read"):
        rows_of(tmp_path, packed[: len(packed) // 2])
    with pytest.raises(StudyError, match=r"gone\.csv cannot be read: No such file"):
        Delimited(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("cell", "rows"),
    [
        ("Clear.\nHeart, lungs, and bones are normal.", False),
        ("1. Effusion, left.\n2. Pneumothorax, right.", False),
        ("Compared to 2020-01-02, no change, none at all.\n2020-01-03, fine, too", False),
        ("A\n" * 80, False),
        ("Fine.\n3, unchanged", False),
        ("Small\nb.png,2,Large", True),
        ("Small\nand more\nc12.png,77,Clear\nd.png,8,", True),
    ],
)
def test_lines_of_a_report_are_not_taken_for_rows(cell, rows):
    assert swallowed(["a.png", "1", cell], 3, ",") == rows
    assert shape("a.png") == "a.a" and shape("2020-01-31") == "x-x-x" and shape("Heart") == "" and shape("two words") is None


def test_lines_are_counted_over_cells_of_many_lines(tmp_path):
    assert [row.line for row in rows_of(tmp_path, HEAD + 'a.png,1,"one\ntwo\nthree"\nb.png,2,Clear\n\nc.png,3,x\n')] == [2, 5, 6, 7]


def test_an_archives_table_has_no_row_out_of_line(tmp_path):
    (tmp_path / "t.csv").write_text("id,text\n1,Clear\n\n2,Clear, no\n")
    tally = Tally()
    with pytest.raises(StudyError, match=r"t\.csv is damaged: a row of 3 cells where the header has 2: line 4"):
        list(table_rows(tmp_path / "t.csv", ["id"], tally=tally))
    assert (tally.read, tally[EMPTY]) == (3, 1)
    (tmp_path / "t.csv").write_text("id,id,text\n1,2,Clear\n")
    with pytest.raises(StudyError, match="two columns 'id'"):
        list(table_rows(tmp_path / "t.csv", ["id"]))
    assert list(table_rows(tmp_path / "t.csv", ["text"])) == [{"text": "Clear"}]
    (tmp_path / "t.csv").write_bytes(b"id,text\n1,Clear\n2,Caf\xe9\n")
    with pytest.raises(StudyError, match="line 3: byte 0xe9 is not UTF-8"):
        list(table_rows(tmp_path / "t.csv", ["id"]))
