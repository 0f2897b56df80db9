"Two runs of the study, set side by side."

import pandas as pd
import pytest

from unirg.analysis.reruns import agreement, main, panel_numbers
from unirg.core import StudyError, study_root

PANELS = study_root() / "outputs" / "phantom" / "figures"


def test_the_committed_panels_agree_with_themselves_and_each_number_is_taken_once(capsys, tmp_path):
    main([str(PANELS), str(PANELS), "--table", str(tmp_path / "numbers.csv")])
    said, table = capsys.readouterr().out, pd.read_csv(tmp_path / "numbers.csv")
    count = len(list(PANELS.glob("*.csv")))
    assert f"{count} of {count} tables are the same to the byte." in said and "furthest apart" not in said
    assert table.agree.all() and not table.duplicated(["panel", "number"]).any()
    answer = pd.read_csv(PANELS / "fig_answer.csv")
    row = answer[answer.difference.notna() & (answer.measure == "judged_errors")].iloc[0]
    words = f"{row.family}, {row.dataset}, {row.run}, judged_errors, {row.against}, difference"
    assert table.set_index(["panel", "number"])["first"]["fig_answer", words] == pytest.approx(row.difference)


def test_a_number_outside_is_named_and_what_only_one_has_is_left_out(capsys, tmp_path):
    table = pd.read_csv(PANELS / "fig_4b.csv")
    moved = table.copy()
    moved.loc[0, ["estimate", "low", "high"]] += 3 * (table.high - table.low).max()
    for name, what in (("one", table), ("two", moved[:20])):
        (tmp_path / name).mkdir()
        what.to_csv(tmp_path / name / "fig_4b.csv", index=False)
    found = agreement(panel_numbers(tmp_path / "one"), panel_numbers(tmp_path / "two"))
    assert list(found.agree) == [False] + [True] * (len(found) - 1) and len(found) == table[:20].low.notna().sum()
    main([str(tmp_path / "one"), str(tmp_path / "two")])
    assert "0 of 1 tables" in (said := capsys.readouterr().out) and "The furthest apart" in said
    assert f"{table.low.notna().sum() - len(found)} numbers are in the first only, 0 in the second only" in said


def test_rows_that_nothing_tells_apart_are_refused_and_not_dropped(tmp_path):
    rows = pd.DataFrame({"run": ["sft", "sft"], "somewhere": [1, 2], "estimate": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3]})
    rows.to_csv(tmp_path / "fig_x.csv", index=False)
    with pytest.raises(StudyError, match="fig_x: two rows are both 'sft'"):
        panel_numbers(tmp_path)
    rows.assign(against=["base", "rl1"]).to_csv(tmp_path / "fig_x.csv", index=False)  # levels on the studies shared with each
    assert list(panel_numbers(tmp_path).number) == ["sft, base", "sft, rl1"]


def test_nothing_to_compare_ends_in_a_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main([str(PANELS), str(tmp_path)])
    assert ended.value.code == 2 and "no table in common" in capsys.readouterr().err
