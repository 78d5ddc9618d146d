"""Money, words, dates and codes.

The words are checked by a reader that was written apart from the writer.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.errors import RenderError
from notifier.rendering import formats

CASES = {
    0: "không",
    5: "năm",
    10: "mười",
    14: "mười bốn",
    15: "mười lăm",
    21: "hai mươi mốt",
    24: "hai mươi tư",
    25: "hai mươi lăm",
    101: "một trăm linh một",
    104: "một trăm linh bốn",
    111: "một trăm mười một",
    115: "một trăm mười lăm",
    1_001: "một nghìn không trăm linh một",
    1_010: "một nghìn không trăm mười",
    1_000_005: "một triệu không trăm linh năm",
    1_234_567: "một triệu hai trăm ba mươi tư nghìn năm trăm sáu mươi bảy",
    1_000_000_000: "một tỷ",
    80_004_216_501: "tám mươi tỷ không trăm linh bốn triệu hai trăm mười sáu nghìn "
    "năm trăm linh một",
    10**15: "một triệu tỷ",
    10**18: "một tỷ tỷ",
}

amounts = st.one_of(
    st.integers(-(10**18), 10**18),
    st.integers(0, 10_000),
    # Numbers made of a few non-zero groups are where readers go wrong.
    st.lists(
        st.sampled_from([0, 0, 1, 4, 5, 10, 15, 21, 24, 101, 115, 999]), min_size=1, max_size=6
    ).map(lambda groups: sum(group * 1000**place for place, group in enumerate(groups))),
)


def read_vietnamese(words: str) -> int:
    """Read an amount in words: a total that each scale word multiplies, as a person adds it up."""
    digits = {
        "không": 0,
        "một": 1,
        "mốt": 1,
        "hai": 2,
        "ba": 3,
        "bốn": 4,
        "tư": 4,
        "năm": 5,
        "lăm": 5,
        "sáu": 6,
        "bảy": 7,
        "tám": 8,
        "chín": 9,
    }
    sign, billions, below, group, digit = 1, 0, 0, 0, 0
    for word in words.lower().split():
        if word == "âm":
            sign = -1
        elif word in digits:
            digit = digits[word]
        elif word == "trăm":
            group, digit = group + digit * 100, 0
        elif word == "mươi":
            group, digit = group + digit * 10, 0
        elif word == "mười":
            group, digit = group + 10, 0
        elif word in {"nghìn", "triệu"}:
            below, group, digit = (
                below + (group + digit) * {"nghìn": 10**3, "triệu": 10**6}[word],
                0,
                0,
            )
        elif word == "tỷ":
            billions, below, group, digit = (billions + below + group + digit) * 10**9, 0, 0, 0
        else:
            assert word in {"linh", "đồng"}, word
    return sign * (billions + below + group + digit)


@pytest.mark.parametrize(("amount", "words"), CASES.items())
def test_amounts_are_read_as_vietnamese_officials_read_them(amount: int, words: str) -> None:
    assert formats.money_words(amount) == words[0].upper() + words[1:] + " đồng"


def test_a_negative_amount_says_minus_first() -> None:
    assert formats.money_words(-15) == "Âm mười lăm đồng"
    assert formats.money_words(-15, "en") == "Minus fifteen dong"


@given(amounts)
def test_words_say_the_amount_they_were_made_from(amount: int) -> None:
    words = formats.money_words(amount)
    assert read_vietnamese(words) == amount
    assert words.endswith(" đồng")
    assert "  " not in words


@given(st.integers(1, 999), st.integers(0, 999), st.integers(0, 999))
def test_only_the_first_group_may_leave_out_its_hundreds(
    first: int, second: int, third: int
) -> None:
    words = formats.money_words((first * 1000 + second) * 1000 + third)
    assert words.lower().count("trăm") == (first >= 100) + (second > 0) + (third > 0)


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "Zero dong"),
        (21, "Twenty-one dong"),
        (115, "One hundred fifteen dong"),
        (1_000_005, "One million five dong"),
        (
            80_004_216_501,
            "Eighty billion four million two hundred sixteen thousand five hundred one dong",
        ),
    ],
)
def test_english_words(amount: int, words: str) -> None:
    assert formats.money_words(amount, "en") == words


def test_money_keeps_its_unit_on_the_same_line() -> None:
    assert formats.money(1_234_567) == "1.234.567\u00a0đồng"
    assert formats.money(-1_000) == "-1.000\u00a0đồng"
    assert formats.money(1_234_567, "en") == "VND\u00a01,234,567"
    assert formats.number(1_234_567) == "1.234.567"
    assert formats.number(1_234_567, "en") == "1,234,567"


@pytest.mark.parametrize(
    "value", ["2026-02-05", date(2026, 2, 5), datetime(2026, 2, 4, 18, tzinfo=UTC)]
)
def test_dates_in_vietnam_time(value: object) -> None:
    assert formats.date_short(value) == "05/02/2026"
    assert formats.date_long(value) == "ngày 05 tháng 02 năm 2026"
    assert formats.month(value) == "tháng 02 năm 2026"
    assert formats.date_short(value, "en") == "5 Feb 2026"
    assert formats.date_long(value, "en") == "5 February 2026"
    assert formats.month(value, "en") == "February 2026"


def test_only_months_one_and_two_have_a_zero() -> None:
    assert formats.date_long("2026-03-09") == "ngày 09 tháng 3 năm 2026"
    assert formats.date_long("2026-10-31") == "ngày 31 tháng 10 năm 2026"


def test_an_instant_is_shown_in_vietnam_time() -> None:
    assert formats.date_time("2026-11-22T18:05:00+00:00") == "01:05 ngày 23/11/2026"
    assert (
        formats.date_time(datetime(2026, 11, 22, 18, 5, tzinfo=UTC), "en")
        == "01:05 on 23 November 2026"
    )


def test_personal_numbers_are_masked_and_business_codes_are_not() -> None:
    assert formats.masked("001012345645") == "0010******45"
    assert formats.masked("0100023459") == "0100023459"
    assert formats.masked("0100023459-001") == "0100023459-001"


@pytest.mark.parametrize(
    "name", ["money", "words", "number", "date", "date_long", "date_time", "month", "masked"]
)
@pytest.mark.parametrize(
    "value", [None, True, 1.5, "Nguyễn Văn Bí Mật", 10**19, datetime(2026, 1, 1)]
)
def test_a_wrong_value_is_named_by_its_filter_and_never_shown(name: str, value: object) -> None:
    # These two are right for their filter: a naive date has a day, and any text may be a code.
    if (name in {"date", "date_long", "month"} and isinstance(value, datetime)) or (
        name == "masked" and isinstance(value, str)
    ):
        return
    with pytest.raises(RenderError) as caught:
        formats.filters("vi")[name](value)
    assert name in str(caught.value)
    assert "Bí Mật" not in str(caught.value)
