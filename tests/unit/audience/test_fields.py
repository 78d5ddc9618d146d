"""Cells as values.

What is repaired, what is refused, and that nothing is taken for something else.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stdnum.vn import mst

from notifier.audience import fields
from notifier.audience.fields import CellError
from notifier.invented import tax_code as invented_code
from notifier.rendering.catalogue import Field

FIELD = Field("x", "text", {"vi": "x", "en": "x"}, max_length=50)
MONEY, WHOLE, DAY, MOMENT = (
    replace(FIELD, type=each) for each in ("money", "integer", "date", "datetime")
)
OVERPAID = replace(MONEY, minimum=-fields.MAX_MONEY)
DIGITS = st.text("0123456789", min_size=10, max_size=10)


def refused(code: str) -> pytest.RaisesExc[CellError]:
    """Expect an error that a person can act on.

    A stable code, and a sentence in each language that ends.
    """
    return pytest.RaisesExc(
        CellError,
        check=lambda error: error.code == code and error.vi[-1] in ".?)" and error.en[-1] in ".?)",
    )


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("  Công ty\r\n Ban\u00a0 Mai\t", "Công ty Ban Mai"),
        ("Nguye\u0302\u0303n", "Nguyễn"),
        ("Nguy\u200bễn", "Nguyễn"),
        ("\u202eabc\ufeff", "abc"),
        ("a\x00b\x1fc", "a b c"),
        (12.0, "12"),
        (12.5, "12.5"),
        (date(2026, 10, 31), "31/10/2026"),
        (None, ""),
    ],
)
def test_a_cell_becomes_one_line_of_composed_text(cell: object, text: str) -> None:
    assert fields.as_text(cell) == text


@given(st.text())
def test_any_text_becomes_one_clean_line(cell: str) -> None:
    found = fields.as_text(cell)
    assert unicodedata.is_normalized("NFC", found)
    assert found == found.strip()
    assert "  " not in found
    assert not any(unicodedata.category(char) in {"Cc", "Cs"} for char in found)
    assert fields.as_text(found) == found


def test_a_text_that_is_too_long_says_by_how_much() -> None:
    assert fields.text("x" * 50, FIELD) == "x" * 50
    assert fields.text(" ", FIELD) is None
    with refused("too-long") as caught:
        fields.text("x" * 51, FIELD)
    assert "51" in caught.value.en
    assert "50" in caught.value.vi


# --- tax codes ------------------------------------------------------------------------------------


@given(DIGITS)
@example("0100109106")
@example("0100000001")
def test_the_check_digit_is_the_one_of_stdnum(digits: str) -> None:
    assert fields.check_digit_holds(digits) == mst.is_valid(digits)


@given(st.integers(0, 200_000), st.sampled_from(["", "001", "999"]))
def test_a_valid_code_survives_whatever_a_spreadsheet_did_to_it(number: int, unit: str) -> None:
    code = invented_code(number)
    whole = f"{code}-{unit}" if unit else code
    assert mst.is_valid(code)
    spellings: list[object] = [
        whole,
        f" {whole} ",
        f"'{whole}",
        whole[1:],
        f"{whole[:4]}.{whole[4:]}",
        f"{whole[:4]} {whole[4:]}",
    ]
    spellings += [
        whole.translate({ord(str(digit)): chr(0xFF10 + digit) for digit in range(10)}),
        whole.replace("-", "–"),
        code + unit,
    ]
    if not unit:
        spellings += [float(code), int(code), f"{float(code)}", f"{int(code)},0"]
    assert {fields.tax_code(each) for each in spellings} == {whole}


@given(DIGITS)
def test_a_code_with_a_wrong_check_digit_is_refused(digits: str) -> None:
    if mst.is_valid(digits):
        assert fields.tax_code(digits) == digits
    else:
        with refused("tax-code-check"):
            fields.tax_code(digits)


@given(st.text("0123456789", min_size=9, max_size=9))
def test_nine_digits_get_a_zero_only_when_the_check_digit_then_holds(digits: str) -> None:
    if mst.is_valid("0" + digits) and digits[0] != "0":
        assert fields.tax_code(digits) == "0" + digits
    else:
        with refused("tax-code-form"):
            fields.tax_code(digits)


@given(st.text("0123456789", min_size=12, max_size=12))
def test_a_personal_number_is_taken_as_it_is(digits: str) -> None:
    assert fields.tax_code(digits) == digits


def test_twelve_digits_are_never_rewritten_but_a_dash_tells_a_unit_that_lost_its_zero() -> None:
    assert fields.tax_code(100109106001.0) == "100109106001"
    assert fields.tax_code("100109106-001") == "0100109106-001"


@pytest.mark.parametrize(
    "cell",
    [
        "0100109106-000",
        "010010910",
        "01001091066",
        "010010910A",
        "٠١٠٠١٠٩١٠٦",
        "1.00109E+08",
        "-0100109106",
        "0100109106/001",
        True,
    ],
)
def test_what_is_no_tax_code_is_refused(cell: object) -> None:
    with refused("tax-code-form"):
        fields.tax_code(cell)


def test_a_blank_tax_code_is_missing() -> None:
    with refused("tax-code-missing"):
        fields.tax_code(" ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("001099012345", "0010******45"),
        ("001 099 012 345", "0010******45"),
        ("001.099.012.345", "0010******45"),
        ("CCCD 001099012345.", "CCCD 0010******45."),
        ("0100109106", "0100109106"),
        ("0100109106-001", "0100109106-001"),
        ("0010990123456", "0010990123456"),
    ],
)
def test_personal_numbers_are_masked_however_they_are_spaced(value: str, shown: str) -> None:
    assert fields.masked(value) == shown


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("a@example.test", ["a@example.test"]),
        (" Ke.Toan@EXAMPLE.Test ", ["Ke.Toan@example.test"]),
        (
            "a@example.test; b@example.test,c@example.test\nd@example.test/e@example.test",
            [f"{each}@example.test" for each in "abcde"],
        ),
        ("a@example.test A@EXAMPLE.TEST", ["a@example.test"]),
        ("Công ty A <a@example.test>", ["a@example.test"]),
        ("A <a@example.test>; B <b@example.test>", ["a@example.test", "b@example.test"]),
        ("ph\u200bong@example.test", ["phong@example.test"]),
        ("a@bánhmì.test", ["a@" + "bánhmì.test".encode("idna").decode()]),
        ("_a@example.test", ["_a@example.test"]),
        ("o'brien@example.test", ["o'brien@example.test"]),
        ("A <a@example.test>, b@example.test", ["a@example.test", "b@example.test"]),
        ("a@example.test; Ông B, Công ty C <b@example.test", ["a@example.test", "b@example.test"]),
        ("a@example.test <a@example.test>", ["a@example.test"]),
        ("mailto:a@example.test", ["a@example.test"]),
        ("(a@example.test) - 'b@example.test'.", ["a@example.test", "b@example.test"]),
    ],
)
def test_addresses_are_found_in_a_cell(cell: str, found: list[str]) -> None:
    assert fields.addresses(cell) == (found, [])


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("an@gmail.con", "an@gmail.com"),
        ("an@gmial.com", "an@gmail.com"),
        ("an@yaho.com", "an@yahoo.com"),
        ("an@hotmial.com", "an@hotmail.com"),
        ("an@GMAIL.CON", "an@gmail.com"),
        ("an@yahoo.con.vn", "an@yahoo.com.vn"),
        ("an@congty.con", "an@congty.com"),
    ],
)
def test_a_well_known_slip_is_refused_with_what_was_probably_meant(cell: str, meant: str) -> None:
    found, ((part, error),) = fields.addresses(cell)
    assert (found, part, error.code) == ([], cell, "address-typo")
    assert meant in error.vi
    assert meant in error.en


@pytest.mark.parametrize(
    "cell",
    [
        "x",
        "a@",
        "@example.test",
        "a@b",
        "a@@example.test",
        "a@example..test",
        ".a@example.test",
        "a.@example.test",
        "a..b@example.test",
        "a@-example.test",
        "á@example.test",
        "a" * 65 + "@example.test",
        "a@[127.0.0.1]",
    ],
)
def test_what_is_no_address_is_refused(cell: str) -> None:
    found, bad = fields.addresses(cell)
    assert found == []
    assert [part for part, _ in bad] == [cell]


def test_a_bad_address_beside_a_good_one_is_told_and_loses_nothing() -> None:
    found, bad = fields.addresses("a@example.test; nonsense; b@gmail.con")
    assert found == ["a@example.test"]
    assert [(part, error.code) for part, error in bad] == [
        ("nonsense", "address"),
        ("b@gmail.con", "address-typo"),
    ]


@pytest.mark.parametrize(
    ("cell", "code"), [("", "address-missing"), (";;", "address"), ("a " * 20_000, "addresses")]
)
def test_a_cell_without_addresses_is_refused(cell: str, code: str) -> None:
    with refused(code):
        fields.addresses(cell)


def test_a_bad_address_beside_a_bracketed_one_is_told() -> None:
    found, bad = fields.addresses("A <a@example.test>; b@gmail.con; C <c@>")
    assert found == ["a@example.test"]
    assert [part for part, _ in bad] == ["b@gmail.con", "c@"]


@given(
    st.lists(
        st.sampled_from([f"{name}@example.test" for name in "abcdefgh"]), min_size=1, max_size=8
    ),
    st.randoms(),
)
def test_no_good_address_of_a_cell_is_lost_however_they_are_joined(
    wanted: list[str], chance: random.Random
) -> None:
    frames = ["{}", "<{}>", "Công ty <{}>", "'{}'", "mailto:{}", "{}."]
    cell = "".join(
        chance.choice(frames).format(each) + chance.choice([";", ", ", "\n", " / ", "; "])
        for each in wanted
    )
    assert fields.addresses(cell) == (list(dict.fromkeys(wanted)), [])


def test_a_cell_with_too_many_good_addresses_is_refused() -> None:
    with refused("addresses"):
        fields.addresses(";".join(f"a{number}@example.test" for number in range(11)))


@given(st.text(max_size=80))
def test_whatever_the_cell_a_good_address_is_safe_in_a_mail(cell: str) -> None:
    try:
        found, _ = fields.addresses(cell)
    except CellError:
        return
    for address in found:
        assert address.isascii()
        assert address.isprintable()
        assert not set(address) & set(' <>,;:"()[]\\')
        assert address.count("@") == 1
        assert fields.addresses(address) == ([address], [])


# --- money ----------------------------------------------------------------------------------------


@given(st.integers(0, fields.MAX_MONEY))
@example(0)
@example(1_234)
@example(fields.MAX_MONEY)
def test_an_amount_survives_every_usual_spelling(amount: int) -> None:
    grouped = f"{amount:,}"
    dotted, spaced = grouped.replace(",", "."), grouped.replace(",", " ")
    spellings: list[object] = [
        amount,
        str(amount),
        grouped,
        dotted,
        spaced,
        grouped.replace(",", "\u00a0"),
        grouped.replace(",", "\u202f"),
    ]
    spellings += [
        f"{dotted} đồng",
        f"{dotted}đ",
        f"{grouped} VND",
        f"{dotted} VNĐ",
        f"{dotted} ₫",
        f" {dotted} ",
        f"{dotted},00",
        f"{grouped}.00",
    ]
    spellings += [f"{amount}.0", f"{amount},00"]
    if amount < 2**53:
        spellings.append(float(amount))
    assert {fields.money(each, MONEY) for each in spellings} == {amount}


@given(st.integers(1, 10**14))
def test_a_negative_amount_is_never_taken_as_positive(amount: int) -> None:
    dotted = f"{amount:,}".replace(",", ".")
    for cell in (
        -amount,
        -float(amount),
        f"-{dotted}",
        f"- {dotted}",
        f"{dotted}-",
        f"−{dotted}",
        f"({dotted})",
        f"-{dotted} đồng",
        f"(-{dotted})",
    ):
        with refused("money-negative"):
            fields.money(cell, MONEY)
        assert fields.money(cell, OVERPAID) == -amount


@pytest.mark.parametrize(
    "cell",
    [
        0.5,
        1234567.25,
        "1.234,5",
        "1,234.5",
        "1234.5",
        "1.234.567,01",
        "0.500",
        "12,34",
        float("nan"),
        float("inf"),
    ],
)
def test_a_fraction_of_a_dong_is_refused(cell: object) -> None:
    with refused("money-fraction"):
        fields.money(cell, MONEY)


@pytest.mark.parametrize(
    "cell",
    [
        "1.23.456",
        "1.234.00",
        "1,234.567.890",
        "1.234 567",
        "12.3456.789",
        "abc",
        "(500",
        "500)",
        "--5",
        "1e6",
        "-",
        "1.23457E+12",
        "=1+1",
        "5 triệu",
        "1.234.567 USD",
        "$5",
        True,
        date(2026, 1, 1),
        "#REF!",
    ],
)
def test_what_is_no_amount_is_refused(cell: object) -> None:
    with refused("money"):
        fields.money(cell, MONEY)


@pytest.mark.parametrize(
    "cell", [1234566.9999999998, 1234567.0000000002, 0.1 * 3 * 10 * 411_522_333]
)
def test_the_noise_of_formulas_is_no_fraction(cell: float) -> None:
    assert not cell.is_integer()
    assert fields.money(cell, MONEY) == round(cell)
    with refused("money-fraction"):
        fields.money(cell + 0.01, MONEY)


def test_an_amount_beyond_all_sense_is_refused() -> None:
    for cell in (fields.MAX_MONEY + 1, float(10**17), "9" * 18):
        with refused("money-range"):
            fields.money(cell, MONEY)


def test_a_blank_amount_is_none() -> None:
    assert fields.money("", MONEY) is None
    assert fields.money(None, MONEY) is None


# --- numbers, dates, moments, languages -----------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("2026", 2026),
        (2026.0, 2026),
        ("2026.0", 2026),
        ("-5", -5),
        ("", None),
        ("9" * 18, 10**18 - 1),
    ],
)
def test_whole_numbers(cell: object, number: int | None) -> None:
    assert fields.integer(cell, WHOLE) == number


@pytest.mark.parametrize("cell", ["1_000", "9" * 19, "2.5", 2.5, "năm", "٢"])
def test_what_is_no_whole_number_is_refused(cell: object) -> None:
    with refused("integer"):
        fields.integer(cell, WHOLE)


@given(st.dates(date(1900, 1, 1), date(2200, 1, 1)))
def test_a_day_survives_every_usual_spelling(day: date) -> None:
    spellings = [
        day,
        datetime(day.year, day.month, day.day, 8, 30, tzinfo=UTC),
        day.isoformat(),
        f"{day.isoformat()} 00:00:00",
    ]
    spellings += [f"{day.day:02}{sign}{day.month:02}{sign}{day.year}" for sign in "/-."] + [
        f"{day.day}/{day.month}/{day.year}",
        f"{day:%d/%m}/{day.year} 08:30",
    ]
    assert {fields.day(each, DAY) for each in spellings} == {day.isoformat()}


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("31/11/2026", "date-impossible"),
        ("29/02/2026", "date-impossible"),
        ("10/31/2026", "date-impossible"),
        ("0/1/2026", "date-impossible"),
        ("31/10/26", "date"),
        ("2026", "date"),
        (46326.0, "date"),
        ("46326", "date"),
        ("hôm nay", "date"),
        (True, "date"),
        ("31/12/1899", "date-range"),
        (date(2300, 1, 1), "date-range"),
        ("01/01/0001", "date-range"),
    ],
)
def test_what_is_no_day_is_refused(cell: object, code: str) -> None:
    with refused(code):
        fields.day(cell, DAY)


def test_a_moment_is_hanois_when_it_names_no_offset() -> None:
    naive = datetime(2026, 10, 31, 17, 0, tzinfo=UTC).replace(tzinfo=None)
    assert fields.moment(naive, MOMENT) == "2026-10-31T17:00:00+07:00"
    assert fields.moment("2026-10-31T17:00", MOMENT) == "2026-10-31T17:00:00+07:00"
    assert fields.moment("2026-10-31T10:00Z", MOMENT) == "2026-10-31T10:00:00+00:00"
    assert fields.moment("", MOMENT) is None


@pytest.mark.parametrize(
    ("cell", "moment"),
    [
        ("31/10/2026 17:00", "2026-10-31T17:00:00+07:00"),
        ("1/2/2026 8:05", "2026-02-01T08:05:00+07:00"),
        ("31/10/2026", "2026-10-31T00:00:00+07:00"),
        (date(2026, 10, 31), "2026-10-31T00:00:00+07:00"),
        ("2026-10-31 17:00:30", "2026-10-31T17:00:30+07:00"),
        ("2026-10-31T17:00+0900", "2026-10-31T17:00:00+09:00"),
        (datetime(2026, 10, 31, 10, 0, tzinfo=UTC), "2026-10-31T10:00:00+00:00"),
    ],
)
def test_a_moment_may_be_written_as_dates_are(cell: object, moment: str) -> None:
    assert fields.moment(cell, MOMENT) == moment


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("chiều nay", "moment"),
        ("20261031", "moment"),
        ("2026-W01-1", "moment"),
        ("2026-10-31T25:00", "moment"),
        (46326.5, "moment"),
        ("9999-12-31T23:59", "date-range"),
        ("31/02/2026 17:00", "date-impossible"),
        (datetime(9999, 12, 31, tzinfo=UTC), "date-range"),
    ],
)
def test_what_is_no_moment_is_refused(cell: object, code: str) -> None:
    with refused(code):
        fields.moment(cell, MOMENT)


@pytest.mark.parametrize(
    ("cell", "language"),
    [
        ("en", "en"),
        ("English", "en"),
        ("Tiếng Anh", "en"),
        ("EN-US", "en"),
        ("en_GB", "en"),
        ("English (US)", "en"),
        ("anh", "en"),
        ("vi", "vi"),
        ("", "vi"),
        (" VN ", "vi"),
        ("Tiếng Việt", "vi"),
        ("Việt Nam", "vi"),
        ("vi_VN", "vi"),
        (None, "vi"),
    ],
)
def test_languages(cell: object, language: str) -> None:
    assert fields.language(cell) == language


@pytest.mark.parametrize("cell", ["fr", "x", "tiếng Pháp", "entrée", "1"])
def test_a_language_that_is_not_there_is_refused_and_not_taken_for_vietnamese(cell: str) -> None:
    with refused("language"):
        fields.language(cell)
