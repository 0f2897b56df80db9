"Preparing a large archive in small: kills, damage, jobs side by side, memory that does not grow with the archive."

import os
import re
import subprocess
import sys

import pytest
import scale

from unirg.core import StudyError, digest
from unirg.data import mimic_cxr
from unirg.data import studies as module
from unirg.data import shards
from unirg.data.shards import Listing, listed_in
from unirg.data.studies import Record, Studies, collect


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    return scale.repeated(scale.small_archive(folder / "base", 40), folder / "archive", 8)


@pytest.fixture(scope="module")
def whole(archive):
    return prepared(archive, archive.parent / "data" / "whole")


def prepared(archive, out, step="all"):
    return collect("mimic_cxr", mimic_cxr.records(archive), root=archive, size=64, step=step, out=out, shard=8)


def test_killed_twice_the_result_is_the_same(archive, whole, tmp_path):
    counts = [scale.killed(archive, tmp_path / "killed", at, shard=8) for at in (3, 12)]
    assert counts[0] >= 3 and counts[1] >= 12
    process = scale.preparing(archive, tmp_path / "killed", shard=8)
    process.communicate()
    assert process.returncode == 0 and digest(tmp_path / "killed") == digest(archive.parent / "data" / "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["killed"]  # nothing is left of the runs that were killed


def test_jobs_side_by_side_read_a_part_each(archive, whole, tmp_path, monkeypatch):
    out, work = tmp_path / "shared", tmp_path / ".shared.shards"
    assert prepared(archive, out, step="list") is None
    read = "import sys; from unirg.data.shards import listed_in, write_shards; write_shards(listed_in(sys.argv[1]), int(sys.argv[2]), 3)"
    jobs = [subprocess.Popen([sys.executable, "-c", read, str(work), str(part)]) for part in (1, 2, 3)]
    assert [job.wait() for job in jobs] == [0, 0, 0]

    def nothing_left(*args):
        raise AssertionError("the jobs left a shard, or the archive was listed anew")

    monkeypatch.setattr(shards, "do_shard", nothing_left)
    monkeypatch.setattr(module, "start_or_resume", nothing_left)
    prepared(archive, out, step="join")
    assert digest(out) == digest(archive.parent / "data" / "whole") and not work.exists()


def test_a_shard_that_no_job_read_is_read_when_they_are_joined(archive, whole, tmp_path):
    out = tmp_path / "shared"
    prepared(archive, out, step="list")
    shards.write_shards(listed_in(tmp_path / ".shared.shards"), 2, 5)
    prepared(archive, out, step="join")
    assert digest(out) == digest(archive.parent / "data" / "whole")


def test_nothing_was_listed(tmp_path):
    with pytest.raises(StudyError, match=r"\.x\.shards"):
        listed_in(tmp_path / ".x.shards")


def test_damaged_films_end_in_quarantine_and_the_rest_is_untouched(archive, whole, tmp_path):
    copy = scale.repeated(archive, tmp_path / "copy", 1)  # damage must not reach the other tests
    before = prepared(copy, tmp_path / "before")
    broken = scale.damaged(copy, scale.images_of(before.table), share=0.05)
    after = prepared(copy, tmp_path / "after")
    assert set(broken.values()) == set(scale.DAMAGES)
    assert set(after.quarantine) - set(before.quarantine) == set(broken)
    for study, kind in broken.items():
        assert re.search(scale.DAMAGES[kind][1], after.quarantine[study]["reason"]), (kind, after.quarantine[study])
        assert after.quarantine[study]["path"].endswith(scale.images_of(before.table)[study])
    rows, kept = scale.rows_of(before.table), scale.rows_of(after.table)
    assert set(kept) == set(rows) - set(broken)
    assert [s for s in kept if kept[s] != rows[s]] == []
    lost = [s for s, prior in zip(before.table["study_id"], before.table["prior_study_id"]) if prior in broken and s in kept]
    flags = dict(zip(after.table["study_id"], after.table["flags"]))
    assert all("prior_unreadable" in flags[s] for s in lost) and sum("prior_unreadable" in f for f in flags.values()) >= len(lost)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc to read a process's peak from")
def test_the_list_of_studies_does_not_live_in_memory(tmp_path):
    # pages of the table's own file, which is mapped and looked through for leaks, are the kernel's to drop and do not count
    code = """
import re, sys, threading, time
from unirg.data.studies import Record, collect
most = 0
def watch():
    global most
    while True:
        most = max(most, int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
text = "The lungs are clear. " * 500
def records():
    for i in range(int(sys.argv[1])):
        yield Record("demo", f"s{i}", f"p{i // 3}", order_key=i % 3, split=None, findings=f"{text}{i}")
if len(sys.argv) == 3:
    collect("demo", records(), pixels=False, out=sys.argv[2])
else:
    everything = list(records())
    time.sleep(0.1)
print(most)
"""

    def used(studies, *out):
        command = [sys.executable, "-c", code, str(studies), *map(str, out)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    few, many, as_a_list = used(500, tmp_path / "few"), used(4000, tmp_path / "many"), used(4000) - used(500)
    assert as_a_list > 30 and many - few < 0.6 * as_a_list, f"{few:.0f} MiB, then {many:.0f} MiB; as a list {as_a_list:.0f} MiB more"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc to read a process's peak from")
def test_a_table_does_not_live_in_memory(tmp_path):
    "Rows of one study far apart, long reports, ids by the thousand: read twice in a stream, and gathered on disk."
    code = f"""{scale.PEAK}
import sys
from unirg.data import table
mapping = dict(image="file", study_id="acc", patient_id="mrn", order="day", report="report", view="view")
for record in table.records(sys.argv[1], table=sys.argv[2], **mapping):
    pass
print(record.study_id, len(record.images), peak())
"""

    def used(studies):
        with (tmp_path / f"{studies}.csv").open("w") as file:
            file.write("file,acc,mrn,day,report,view\n")
            for film in range(2):
                for i in range(studies):
                    text = f"FINDINGS: {'The lungs are clear. ' * 400}\nIMPRESSION: Number {i}."
                    file.write(f'{i}-{film}.png,A{i},P{i // 3},2020-01-{1 + i % 28:02d},"{text}",{"lateral" if film else "PA"}\n')
        command = [sys.executable, "-c", code, str(tmp_path), f"{studies}.csv"]
        study, films, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        assert (study, films) == (f"A{studies - 1}", "2")
        return float(peak), (tmp_path / f"{studies}.csv").stat().st_size / 2**20

    (few, small), (many, large) = used(100), used(1500)
    assert large - small > 20 and many - few < 0.3 * (large - small), f"{few:.0f} MiB of {small:.0f} MiB, {many:.0f} MiB of {large:.0f} MiB"


def test_another_version_of_the_list_or_of_the_options_starts_anew(archive, tmp_path):
    out = tmp_path / "other"
    scale.killed(archive, out, 2, shard=8)
    first = {p.name for p in (tmp_path / ".other.shards").iterdir()}
    options = dict(root=str(archive), size=64)
    folders = []
    for size, limit in ((64, None), (32, None), (64, 100)):
        records = list(mimic_cxr.records(archive))[:limit]
        plan = module.Options(**{**options, "size": size})
        folders.append(module.start_or_resume(tmp_path / ".other.shards", "mimic_cxr", iter(records), plan, 8)[0])
    assert {folders[0].name} == first and len(set(folders)) == 3 and not folders[0].exists()


def test_studies_come_back_in_the_archives_order(tmp_path):
    def visits():
        return (Record("demo", f"s{i}", f"p{i * 7 % 5}" if i % 4 else None, order_key=i) for i in range(40))

    with Listing(tmp_path / "listing.db", new=True) as listing:
        told = module.list_studies(listing, "demo", visits())
    with Listing(tmp_path / "listing.db") as listing:
        again = [record for number in range(6) for record in listing.shard(number, 7)]
    assert [r.study_id for r in again] == [f"s{i}" for i in range(40)] and told["studies"] == 40
    by_hand = list(visits())
    module.link_priors(by_hand)
    module.number_encounters(by_hand)
    assert again == by_hand


def test_encounters_are_numbered_a_patient_at_a_time():
    def visits():
        return (Record("demo", f"s{i}", f"p{i // 2}", order_key=i, admission="stay" if i < 2 else None) for i in range(4))

    assert collect("demo", visits(), pixels=False, encounters="admission").table["encounter"][:] == [1, 2, None, None]
    with pytest.raises(StudyError, match="gap"):
        collect("demo", visits(), pixels=False, encounters="gap 30")


def test_a_prepared_folder_loads(whole):
    assert len(Studies.load(scale.Path(whole.table.cache_files[0]["filename"]).parent).table) == whole.counts["rows"]
