"""Tables as people export them: read where they can mean one thing only, else refused by file, line and column."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.errors import TaskError
from federation.task import TaskContext
from federation.tasks import csv_data

PLAIN = "heat,vibration,state\n60.1,1.5,ok\n70.2,2.5,worn\n65.0,3.5,ok\n"
INPUTS = [[60.1, 1.5], [65.0, 3.5], [70.2, 2.5]]


def read(folder: Path, text: str | bytes, **options: Any) -> Any:
    """All inputs in the order of their values, and the targets in the same order."""
    (folder / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    context = TaskContext(node_index=0, node_count=1, data=folder)
    given: dict[str, Any] = {"target": "state", "classes": ("ok", "worn"), "test_share": 0.0} | options
    inputs, targets = csv_data(context, "t.csv", **given).train()
    order = np.lexsort(inputs.T[::-1])
    return np.round(inputs[order].astype(np.float64), 4).tolist(), targets[order].tolist()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        pytest.param(PLAIN, {}, id="as the quickstart has it"),
        pytest.param("vibration,state,heat\n1.5,ok,60.1\n2.5,worn,70.2\n3.5,ok,65.0\n", {}, id="another order"),
        pytest.param(PLAIN, {"features": ["heat", "vibration"]}, id="an order that is said"),
        pytest.param("\n\n" + PLAIN.replace("70.2", "\n  \n,,\n70.2") + "\n\n", {}, id="empty lines"),
        pytest.param(PLAIN.replace("\n", ",\n"), {}, id="separators at the end"),
        pytest.param(PLAIN.replace("ok\n", "ok,,\n"), {}, id="separators at the end of some lines"),
        pytest.param(PLAIN.replace("\n", "\r"), {}, id="line ends of old Macs"),
        pytest.param(PLAIN.replace("\n", "\r\n").replace(",", ";"), {}, id="semicolons"),
        pytest.param("sep=;\n" + PLAIN.replace(",", ";"), {}, id="Excel's hint"),
        pytest.param('"sep=|"\r\n' + PLAIN.replace(",", "|"), {}, id="Excel's hint in quotes"),
        pytest.param("sep=\t\n" + PLAIN.replace(",", "\t"), {}, id="Excel's hint with a tab"),
        pytest.param(PLAIN.replace(",", ":"), {"sep": ":"}, id="a separator that is said"),
        pytest.param(PLAIN.replace(",", ", "), {}, id="spaces after separators"),
        pytest.param('"heat", "vibration","state"\n' + PLAIN.partition("\n")[2], {}, id="quoted names"),
        pytest.param(
            PLAIN.replace(",", ";").replace("heat;vib", '"heat";"vib').replace("ion;", 'ion";'), {}, id="both"
        ),
        pytest.param("\ufeff" + PLAIN, {}, id="byte order mark"),
        pytest.param("# exported by X\n" + PLAIN, {}, id="a comment above"),
        pytest.param('\ufeff# on 1,5; "by\n\n #x,y,z\n' + PLAIN, {}, id="comments with separators and a quote"),
        pytest.param("# x\r\nsep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n"), {}, id="a comment and a hint"),
        pytest.param(PLAIN.replace("state", "state\u200b"), {}, id="a mark of no width in a name"),
        pytest.param("\n" * 60 + PLAIN, {}, id="many empty lines"),
        pytest.param(PLAIN.encode("utf-16"), {}, id="UTF-16"),
        pytest.param(PLAIN.encode("utf-32"), {}, id="UTF-32"),
        pytest.param(gzip.compress(PLAIN.encode("utf-16")), {}, id="packed, whatever it is called"),
        pytest.param(
            PLAIN.replace("heat", "BZh").replace("vibration", "PAR1"), {}, id="names like other files' begins"
        ),
        pytest.param(PLAIN.encode("utf-16-le"), {"encoding": "utf-16-le"}, id="an encoding that is said"),
        pytest.param(PLAIN.replace(",", ";").replace(".", ","), {"decimal": ","}, id="decimal commas"),
        pytest.param(
            '"heat","vibration","state"\n"60,1","1,5","ok"\n"70,2","2,5","worn"\n"65,0","3,5","ok"\n',
            {"decimal": ","},
            id="decimal commas in quotes",
        ),
        pytest.param(PLAIN + ",4.5,ok\nNaN,2.2,worn\n1,2,\n", {"missing": "drop"}, id="rows with gaps left out"),
        pytest.param(PLAIN.replace("ok", "0").replace("worn", "1"), {"classes": (0, 1)}, id="classes that are numbers"),
        pytest.param(PLAIN.replace("ok", "0.0").replace("worn", "1.0"), {"classes": (0, 1)}, id="as pandas has them"),
        pytest.param(
            PLAIN.replace("ok", "False").replace("worn", "True"), {"classes": (False, True)}, id="classes yes or no"
        ),
        pytest.param(
            "id,heat,,cold,cold,vibration,state\na,60.1,x,y,,1.5,ok\nb,70.2,x,y,,2.5,worn\nc,65.0,x,y,,3.5,ok\n",
            {"features": ("heat", "vibration")},
            id="what is not asked for may be anything",
        ),
    ],
)
def test_every_way_to_write_the_same_table_is_the_same_inputs(
    tmp_path: Path, text: str | bytes, options: dict[str, Any]
) -> None:
    assert read(tmp_path, text, **options) == (INPUTS, [0, 0, 1])


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        (
            PLAIN.replace("heat", "heat.").replace("\n", "\n1,").replace("heat.", ",heat", 1)[:-2],
            {},
            "line 1: column 1 has no",
        ),
        (
            "Unnamed: 0," + PLAIN.replace("\n", "\n1,")[:-2],
            {},
            "column 1 is called 'Unnamed: 0'.*features=\\('heat', 'vib",
        ),
        (PLAIN.replace("vibration", "heat"), {}, "line 1: columns 1 and 2 are both called 'heat'"),
        (PLAIN.replace("heat", "state"), {}, "columns 1 and 3 are both called 'state': rename one$"),
        (PLAIN.replace(",ok\n", "\n", 1), {}, "line 2: 2 values, and 3 columns"),
        (PLAIN.replace("60.1", "60,1"), {}, "line 2: 4 values, and 3 columns"),
        ("\n\n" + PLAIN.replace("70.2", "\nhot"), {}, "line 6: heat is 'hot'"),
        (PLAIN.replace("2.5", ""), {}, "line 3: vibration is '', which is no value: give missing='drop'.* or a number"),
        (PLAIN.replace("2.5", "n/a"), {}, "line 3: vibration is 'n/a', which is no value"),
        (PLAIN.replace("2.5", "-inf"), {"missing": 0}, "line 3: vibration is '-inf', which is not finite"),
        (PLAIN.replace("2.5", "1e39"), {}, "line 3: vibration is '1e39', which is not finite"),
        (PLAIN.replace("worn", ""), {"missing": 0}, "line 3: state is '': give missing='drop'"),
        (PLAIN.replace("worn", "broken"), {}, "line 3: state is 'broken', and the classes are ok, worn"),
        (PLAIN, {"classes": ()}, "line 2: state is 'ok', which is no number: give classes="),
        (PLAIN.replace(",", ";").replace(".", ","), {}, "line 2: heat is '60,1'.*decimal=','"),
        (PLAIN.replace("60.1", '"1,060.1"'), {}, "'1,060.1'.*thousands="),
        (PLAIN.replace("60.1", '"1,06"'), {"thousands": ","}, "'1,06', which is no number"),
        (PLAIN.replace("60.1", "1_0"), {}, "'1_0', which is no number"),
        (PLAIN.replace("60.1", "1.234"), {"decimal": ","}, "'1.234', which is no number: give thousands="),
        (PLAIN.replace("ok", "ök").encode("cp1252"), {}, "line 2 is not utf-8: give encoding="),
        (PLAIN.encode("utf-16-le"), {}, "line 1 has a zero byte: give encoding="),
        (PLAIN.replace("70.2", '"70.2'), {}, "line 3 cannot be read.*quotes"),
        (PLAIN.replace(",", ":"), {}, "no column state: it has heat:vibration:state; give sep="),
        (PLAIN, {"encoding": "utf-99"}, "cannot be read: unknown encoding"),
        (PLAIN, {"features": ("heat", "cold")}, "line 1 has no column cold"),
    ],
)
def test_what_is_not_certain_is_refused_by_its_place_with_what_resolves_it(
    tmp_path: Path, text: str | bytes, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TaskError, match=r"t\.csv.*" + problem):
        read(tmp_path, text, **options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"missing": "mean"}, "missing must be"),
        ({"missing": float("nan")}, "missing must be"),
        ({"missing": True}, "missing must be"),
        ({"decimal": "comma"}, "decimal must be"),
        ({"thousands": "."}, "thousands must be"),
        ({"sep": "::"}, "sep must be"),
        ({"classes": "ok"}, "classes must be a list"),
        ({"classes": {"ok", "worn"}}, "classes must be .* in a fixed order"),
        ({"classes": ("ok", "ok")}, "classes has 'ok' twice"),
        ({"features": "heat"}, "features must be a list"),
        ({"features": ("heat", "heat")}, "features has 'heat' twice"),
        ({"features": ("heat", "state")}, "features must name columns beside the target"),
        ({"features": ()}, "features must name columns"),
    ],
)
def test_an_argument_that_says_nothing_is_refused_before_anything_is_read(
    tmp_path: Path, options: dict[str, Any], problem: str
) -> None:
    given: dict[str, Any] = {"target": "state", "classes": ("ok", "worn")} | options
    with pytest.raises(TaskError, match=problem):
        csv_data(TaskContext(node_index=None, node_count=1), "t.csv", **given)


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"PK\x03\x04\x14", "an Excel workbook, or another zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel workbook"),
        (b"PAR1\x15\x04", "a Parquet file"),
        (b"BZh91AY&SY\x00", "packed by bzip2"),
    ],
)
def test_what_is_no_table_of_text_is_called_what_it_is(tmp_path: Path, begin: bytes, kind: str) -> None:
    with pytest.raises(TaskError, match=rf"t\.csv is {kind}: save it as a table of text"):
        read(tmp_path, begin + bytes(100))


MANY = "heat,vibration,state\n" + "".join(f"{60 + row}.5,{row},{'worn' if row % 2 else 'ok'}\n" for row in range(6))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("Report of line 3\n\n" + MANY, {}, "line 1 has no column state, and line 3 has one: take out the lines above"),
        ("Device;3\nBy;X\n" + MANY.replace(",", ";"), {}, "line 1 has no column state, and line 3 has one"),
        ("A,A,B\n" + MANY, {}, "line 1 has no column state, and line 2 has one"),
        (
            MANY.replace("\n", "\nC,mm/s,\n", 1),
            {},
            "line 2: heat is 'C', .*all others .*a line of units",
        ),
        (MANY + "Total,9,\n", {}, "line 8: heat is 'Total', .*a line of units, or of totals"),
        (MANY + '"1,234.5",3,ok\n', {}, "line 8: heat is '1,234.5', which is no number: give thousands="),
        (MANY + MANY, {}, "line 8: heat is 'heat', .*has the columns' names again: take it out"),
        (
            MANY.replace("61.5", "5%").replace("62.5", "6%"),
            {},
            "line 3: heat is '5%', which is no number: change it, or",
        ),
        (MANY.replace("60.5", "2024-01-01").replace("61.5", "2024-01-02"), {}, "hours or days since a fixed date"),
        (MANY, {"decimal": ","}, "line 2: heat is '60.5', which is no number: decimal=',' is given"),
        (MANY + "# end\n", {}, "line 8: 1 values, and 3 columns: take the comment out"),
        (
            MANY.replace("state", "State"),
            {},
            "has no column state: it has heat, vibration, State; did you mean 'State'",
        ),
        ("#state,heat\n" + "ok,1\n" * 3, {}, "did you mean '#state'"),
        (MANY.partition("\n")[2], {}, "the first line must name the columns"),
        (MANY.replace("61.5", "#DIV/0!"), {}, "line 3: heat is '#DIV/0!', which is no value: give missing='drop'"),
        (MANY.encode("utf-16-le")[2:].replace(b"h", b"\xff"), {}, "utf-16-le"),
    ],
)
def test_what_stands_around_a_tables_rows_is_told_by_its_line(
    tmp_path: Path, text: str | bytes, options: dict[str, Any], message: str
) -> None:
    """A line above the names was said to be cells that must be in quotes."""
    with pytest.raises(TaskError, match=message):
        read(tmp_path, text, **options)


def test_the_minus_sign_of_mathematics_is_one(tmp_path: Path) -> None:
    assert read(tmp_path, PLAIN.replace("60.1", "\u221260.1"))[0][0] == [-60.1, 1.5]


def test_lines_of_quotes_far_below_are_refused_whichever_separator_is_tried(tmp_path: Path) -> None:
    for rows in (1, 200):
        with pytest.raises(TaskError, match=rf"line {rows + 2} cannot be read: .*see its quotes"):
            read(tmp_path, "heat,vibration,state\n" + "1,2,ok\n" * rows + '1,"2"x,ok\n')


def test_a_table_of_which_no_row_is_left_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"t\.csv has no row$"):
        read(tmp_path, "heat,state\n")
    with pytest.raises(TaskError, match=r"t\.csv has no row in which nothing is missing"):
        read(tmp_path, "heat,state\n,ok\n-,worn\n", missing="drop")


def test_numbers_that_float32_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    times = [1_764_000_000 + 60 * minute for minute in range(20)]
    text = "time,state\n" + "".join(f"{time},ok\n" for time in times)
    with pytest.raises(
        TaskError, match="float32 tells numbers apart that differ by 128, and its own differ by about 346"
    ):
        read(tmp_path, text)
    shifted = "time,state\n" + "".join(f"{time - times[0]},ok\n" for time in times)
    assert read(tmp_path, shifted)[0] == [[60.0 * minute] for minute in range(20)]
    days = "time,state\n" + "".join(f"{time},ok\n" for time in range(times[0], times[0] + 86_400, 600))
    assert len({row[0] for row in read(tmp_path, days)[0]}) == 144


def test_a_long_cell_is_told_by_its_begin(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"heat is '9{60}\.\.\.', which is not finite"):
        read(tmp_path, f"heat,state\n{'9' * 5000},ok\n")


def test_a_number_can_take_the_place_of_a_gap(tmp_path: Path) -> None:
    text = PLAIN.replace("3.5", "NA").replace("60.1", "")
    assert read(tmp_path, text, missing=-1)[0] == [[-1.0, 1.5], [65.0, -1.0], [70.2, 2.5]]


@pytest.mark.parametrize(("thousands", "decimal"), [(",", "."), (".", ","), (" ", ","), ("\u202f", ","), ("'", ".")])
def test_groups_of_three_digits_can_be_asked_for(tmp_path: Path, thousands: str, decimal: str) -> None:
    amount = f"1{thousands}234{thousands}567{decimal}5"
    text = f"amount;state\n{amount};ok\n12;worn\n"
    assert read(tmp_path, text, thousands=thousands, decimal=decimal)[0] == [[12.0], [1234567.5]]


def test_a_class_may_be_called_as_a_gap_is(tmp_path: Path) -> None:
    text = PLAIN.replace("worn", "none")
    assert read(tmp_path, text, classes=("ok", "none"), missing="drop") == (INPUTS, [0, 0, 1])


def test_one_letter_written_in_two_ways_is_one_name(tmp_path: Path) -> None:
    text = PLAIN.replace("heat", "wa\u0308rme").replace("worn", "mu\u0308de")
    assert read(tmp_path, text, features=("wärme", "vibration"), classes=("ok", "müde")) == (INPUTS, [0, 0, 1])
