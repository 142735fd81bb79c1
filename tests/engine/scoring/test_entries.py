"""Columns: the rows that went in come out, and texts are kept once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stylecli.engine.scoring.entries import (
    ABSENT,
    Entries,
    Entry,
    Shared,
    Words,
    in_columns,
    in_order,
    shared_of,
)

WORDS = st.sampled_from(["a", "b", "é", "zz"])
# Not yet entries: type checks draw at random, which strategies must not.
FIELDS = st.fixed_dictionaries(
    {
        "id": WORDS,
        "content": WORDS,
        "style": WORDS,
        "values": st.dictionaries(WORDS, st.floats(allow_nan=False)),
        "features": st.dictionaries(
            WORDS, st.tuples(WORDS) | st.tuples(WORDS, WORDS) | st.tuples(WORDS, WORDS, WORDS)
        ),
        "reasons": st.dictionaries(WORDS, WORDS),
    }
)
LISTS = st.lists(FIELDS, max_size=8)


def made(fields: list[dict[str, Any]]) -> list[Entry]:
    return [Entry(method="m", **of_row) for of_row in fields]


@given(fields=LISTS)
def test_rows_come_out_as_they_went_in(fields: list[dict[str, Any]]) -> None:
    rows = made(fields)
    columns = in_columns(rows)
    assert list(columns) == rows
    assert columns[1:3] == rows[1:3]
    for name in ("a", "b", "none"):
        expected = [row.values.get(name, math.nan) for row in rows]
        np.testing.assert_array_equal(columns.column(name), expected)
        assert [code != ABSENT for code in columns.outputs(name)] == [
            name in row.features for row in rows
        ]
        why = columns.why_not(name)
        assert sum(why.values()) == len(rows)
        assert why["not scored"] == sum(name not in row.reasons for row in rows)
    assert sorted(columns.content_names()) == sorted({row.content for row in rows})


@given(fields=LISTS, data=st.data())
def test_some_rows_are_those_rows(fields: list[dict[str, Any]], data: st.DataObject) -> None:
    rows = made(fields)
    kept = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    some = in_columns(rows).where(np.array(kept, dtype=np.bool_))
    assert list(some) == [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]


def test_methods_that_share_have_the_same_codes() -> None:
    shared = Shared()
    one, other = Entries("one", shared), Entries("other", shared)
    assert shared_of(one, other) is shared
    assert in_columns(one, shared) is one
    apart = in_columns([], Shared())
    assert shared_of(one, apart) not in (shared, apart.shared)


@given(st.lists(WORDS))
def test_codes_follow_the_order_of_words(texts: list[str]) -> None:
    words: Words[str] = Words()
    codes = np.array([words.code(text) for text in texts], dtype=np.int64)
    words.code("never used")
    expected = np.unique(np.array(texts, dtype=str), return_inverse=True)[1]
    assert in_order(codes, words).tolist() == expected.tolist()
