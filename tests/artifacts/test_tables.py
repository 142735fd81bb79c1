"""What a table marks, how it is written in four formats, and that nothing in it breaks them."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from stylecli.artifacts.tables import (
    FIELDS,
    Cell,
    Column,
    Row,
    Table,
    csv_text,
    json_rows,
    latex,
    markdown,
)

# All of ASCII that prints, and what our own tables use beyond it.
TEXT = st.text([*map(chr, range(32, 127)), *"±†—∞²λé"], min_size=1, max_size=12).filter(str.strip)
SCORES = st.lists(
    st.one_of(
        st.none(),
        st.sampled_from([math.nan, math.inf, -math.inf, -0.04, 0.04, 1.06, 1.14, 1.16]),
        st.floats(-2, 2),
    ),
    min_size=1,
    max_size=7,
)

SHOWN = Table(
    "Scores",
    (Column("artfid", "down", 2, "AlexNet"), Column("ssim", "up"), Column("seconds", "", 1)),
    (
        Row(
            "ours",
            "method",
            (Cell(22.061, 0.5, 800, True), Cell(0.25, 0.01, 800), Cell(2.0, None, 800)),
        ),
        Row("theirs", "method", (Cell(22.059, None, 800), Cell(0.75, None, 780), Cell())),
        Row("third", "method", (Cell(23.5), Cell(0.5), Cell(-0.02))),
        Row("content_copy", "anchor", (Cell(1.0), Cell(1.0, n=800), Cell(text="at once"))),
        Row("StyTr²", "published", (Cell(9.0), Cell(math.nan), Cell())),
    ),
    ("800 items",),
)


def one_column(arrow: str, values: list[float | None], kind: str = "method") -> Table:
    rows = [Row(f"r{i}", kind, (Cell(v),)) for i, v in enumerate(values)]  # type: ignore[arg-type]
    return Table("", (Column("m", arrow, 1),), tuple(rows))  # type: ignore[arg-type]


def read(text: str) -> list[list[str]]:
    """The cells of the only table, as a Markdown reader shows them; marks as <b>, <u>, <i>."""
    tags = {"strong_open": "<b>", "strong_close": "</b>", "em_open": "<i>", "em_close": "</i>"}
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and token.level == 4 and rows:
            parts = [tags.get(child.type, child.content) for child in token.children or []]
            rows[-1].append("".join(parts))
    return rows


MARKDOWN = """\
### Scores

| method            |          artfid ↓ |        ssim ↑ |   seconds |       n |
| ----------------- | ----------------: | ------------: | --------: | ------: |
| ours              | **22.06** ± 0.50† | 0.250 ± 0.010 |       2.0 |     800 |
| theirs            |         **22.06** |     **0.750** |         — | 780-800 |
| third             |      <u>23.50</u> |  <u>0.500</u> |       0.0 |       — |
| *content_copy*    |            *1.00* |       *1.000* | *at once* |   *800* |
| StyTr² (reported) |              9.00 |             — |         — |       — |

- ± half-width of the 95 % interval
- † differs significantly from the baseline (Holm)
- italics: not a method, but what copying or blending reaches
- reported: printed by its paper, on other inputs
- artfid: AlexNet
- 800 items
"""


def test_markdown_is_aligned_marked_and_explained() -> None:
    assert markdown(SHOWN) == MARKDOWN


LATEX = r"""% needs booktabs and xcolor
\begin{table}
  \centering
  \caption{Scores}
  \begin{tabular}{lrrrr}
    \toprule
    method & artfid $\downarrow$ & ssim $\uparrow$ & seconds & n \\
    \midrule
    ours & \textbf{22.06} $\pm$ 0.50$^\dagger$ & 0.250 $\pm$ 0.010 & 2.0 & 800 \\
    theirs & \textbf{22.06} & \textbf{0.750} & --- & 780-800 \\
    third & \underline{23.50} & \underline{0.500} & 0.0 & --- \\
    \midrule
    \textit{content\_copy} & \textit{1.00} & \textit{1.000} & \textit{at once} & \textit{800} \\
    \midrule
    \textcolor{gray}{StyTr$^2$ (reported)} & \textcolor{gray}{9.00} & \textcolor{gray}{---} & \textcolor{gray}{---} & \textcolor{gray}{---} \\
    \bottomrule
  \end{tabular}
  \par\footnotesize $\pm$ half-width of the 95 \% interval
  \par\footnotesize $^\dagger$ differs significantly from the baseline (Holm)
  \par\footnotesize italics: not a method, but what copying or blending reaches
  \par\footnotesize reported: printed by its paper, on other inputs
  \par\footnotesize artfid: AlexNet
  \par\footnotesize 800 items
\end{table}
"""  # noqa: E501


def test_latex_has_booktabs_rules_between_kinds_of_rows() -> None:
    assert latex(SHOWN) == LATEX


@given(SCORES, st.sampled_from(["up", "down"]))
def test_best_and_second_are_the_two_best_printed_numbers(
    values: list[float | None], arrow: str
) -> None:
    cells = [row[1] for row in read(markdown(one_column(arrow, values)))[1:]]
    # Adding 0 takes the sign off what rounds to zero.
    printed = [
        None if value is None or math.isnan(value) else round(value, 1) + 0.0 for value in values
    ]
    known = [number for number in printed if number is not None]
    order = sorted(set(known), reverse=arrow == "up")
    for number, cell in zip(printed, cells, strict=True):
        text = "—" if number is None else f"{number:.1f}".replace("inf", "∞")
        if number is not None and len(known) > 1 and number == order[0]:
            text = f"<b>{text}</b>"
        elif number is not None and len(known) > 1 and number == order[1]:
            text = f"<u>{text}</u>"
        assert cell == text


def test_nothing_is_ranked_without_an_arrow_or_a_second_method() -> None:
    plain = [*one_column("", [1.0, 2.0]).rows]
    tables = [
        one_column("", [1.0, 2.0, 3.0]),
        one_column("up", [1.0]),
        one_column("up", [1.0, None]),
        one_column("up", [1.0, 2.0], "anchor"),
        one_column("up", [1.0, 2.0], "published"),
        Table("", (Column("m", "up"),), (plain[0], Row("x", "anchor", (Cell(9.0),)))),
        Table("", (Column("m", "up"),), (plain[0], Row("x", "method", (Cell(9.0, text="9?"),)))),
    ]
    for table in tables:
        assert "**" not in markdown(table)
        assert "<u>" not in markdown(table)
        assert "textbf" not in latex(table)
        assert "underline" not in latex(table)


def test_anchors_and_papers_do_not_take_a_place_from_methods() -> None:
    methods = one_column("up", [1.0, 2.0]).rows
    others = [Row("a", "anchor", (Cell(9.0),)), Row("p", "published", (Cell(8.0),))]
    table = Table("", (Column("m", "up", 1),), (others[0], *methods, others[1]))  # type: ignore[arg-type]
    cells = [row[1] for row in read(markdown(table))[1:]]
    assert cells == ["<i>9.0</i>", "<u>1.0</u>", "<b>2.0</b>", "8.0"]


@given(TEXT, TEXT, TEXT)
@example("a|b", "__init__", "&amp; & &#35;")
@example("_a_ a_b", "<b>", "![x](y)")
def test_markdown_shows_any_name_as_it_is(label: str, column: str, text: str) -> None:
    """Read back by another program: no name breaks out of its cell or becomes markup."""
    row = Row(label, "method", (Cell(text=text), Cell(1.0)))
    table = Table("", (Column(column), Column("m")), (row,))
    shown = read(markdown(table))
    assert shown == [
        ["method", " ".join(column.split()), "m"],
        [" ".join(label.split()), " ".join(text.split()), "1.000"],
    ]


@given(TEXT, TEXT)
@example("50 % of {a_b} & $c #1", r"\textbf ~ ^ < > |")
def test_latex_escapes_any_name(label: str, column: str) -> None:
    """What is left after taking known commands away is plain: no sign of TeX's own."""
    row = Row(label, "anchor", (Cell(-1.0, 0.5, 3),))
    lines = latex(Table(label, (Column(column, "up"),), (row,), (column,))).splitlines()
    (alignment,) = (line for line in lines if "begin{tabular}" in line)
    cells = [line for line in lines if line.endswith(r" \\")]
    assert alignment.strip() == r"\begin{tabular}{lrr}"
    assert len(cells) == 2
    for line in cells:
        assert len(re.findall(r"(?<!\\)&", line)) == 2
    for line in [*cells, *(line for line in lines if "caption" in line or "footnotesize" in line)]:
        plain = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}|\\[&%$#_{}]|\\\\$", "", line)
        plain = re.sub(r"\$(\^2|\^\\dagger|[-<>|]|\\[a-z]+)\$", "", plain)
        for _ in range(3):
            plain = re.sub(r"\\(text[a-z]+|caption)\{([^{}\\]*)\}", r"\2", plain)
        plain = re.sub(r"\\par\\footnotesize ", "", plain)
        assert not set(plain) & set("\\{}$%#_^~<>|±†∞↑λ²—"), (line, plain)


def test_a_minus_is_typeset_as_one_and_a_hyphen_is_not() -> None:
    text = latex(one_column("", [-0.5, -math.inf]))
    assert r"$-$0.5" in text
    assert r"$-$$\infty$" in text
    row = Row("lpips-vgg", "method", (Cell(text="a-1"),))
    assert "lpips-vgg & a-1" in latex(Table("", (Column("m"),), (row,)))


def test_csv_and_json_hold_every_digit_in_one_record_per_cell() -> None:
    value = 0.1 + 0.2
    table = Table(
        "",
        (Column("lpips", "down", 2), Column("fid")),
        (
            Row('a,"b"\nc', "method", (Cell(value, 0.05, 9, True, None, 0.25, 0.35), Cell())),
            Row("copy", "anchor", (Cell(math.nan, math.nan), Cell(2.0, text="invalid"))),
        ),
    )
    lines = list(csv.DictReader(io.StringIO(csv_text(table), newline="")))
    records = json_rows(table)
    assert [tuple(record) for record in records] == [FIELDS] * 4 == [tuple(l_) for l_ in lines]
    assert lines[0] == {
        "label": 'a,"b"\nc',
        "kind": "method",
        "metric": "lpips",
        "direction": "down",
        "value": "0.30000000000000004",
        "half_width": "0.05",
        "low": "0.25",
        "high": "0.35",
        "n": "9",
        "is_significant": "true",
        "text": "",
    }
    assert [line["value"] for line in lines] == ["0.30000000000000004", "", "", "2.0"]
    assert [line["half_width"] for line in lines] == ["0.05", "", "", ""]
    assert (lines[3]["text"], lines[3]["is_significant"]) == ("invalid", "false")
    assert [record["value"] for record in records] == [value, None, None, 2.0]
    assert records[2]["half_width"] is None
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_a_half_width_that_is_not_known_is_not_printed() -> None:
    table = Table("", (Column("m"),), (Row("a", "method", (Cell(1.0, math.nan),)),))
    assert "±" not in markdown(table)
    assert "nan" not in markdown(table) + latex(table) + csv_text(table)


def test_explanations_say_what_the_table_was_told() -> None:
    row = Row("a", "method", (Cell(1.0, 0.5, None, True),))
    table = Table("", (Column("m"),), (row,), (), "standard deviation", "p < 0.05")
    assert "- ± standard deviation\n- † p \\< 0.05\n" in markdown(table)
    # Of a cell that prints a text neither sign is shown, so neither is explained.
    hidden = Row("a", "method", (Cell(1.0, 0.5, None, True, "invalid"),))
    text = markdown(Table("", (Column("m"),), (hidden,)))
    assert "±" not in text
    assert "†" not in text


def test_a_row_that_does_not_fit_the_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="a: 2 cells in 1 columns"):
        Table("", (Column("m"),), (Row("a", "method", (Cell(), Cell())),))


def test_a_table_without_rows_is_a_head() -> None:
    table = Table("", (Column("m", "up"),), ())
    assert markdown(table) == "| method | m ↑ |\n| ------ | --: |\n"
    assert csv_text(table) == ",".join(FIELDS) + "\n"
    assert json_rows(table) == []
    assert latex(table).count(r"\\") == 1
