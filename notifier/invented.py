"""Invented businesses for the demo, benchmarks and tests, always the same ones.

Their tax codes are valid, their domains reserved, and no name is real.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

HEADINGS = (
    "Mã số thuế",
    "Tên người nộp thuế",
    "Thư điện tử",
    "Địa chỉ",
    "Số thông báo",
    "Tổng số tiền thuế nợ",
    "Số tiền còn phải nộp",
    "Tên tiểu mục",
    "Mã tiểu mục",
    "Mã chương",
    "Số tiền của khoản nộp",
    "Hạn nộp",
)
_WEIGHTS = (31, 29, 23, 19, 17, 13, 7, 5, 3)
_KINDS = (
    "Công ty TNHH",
    "Công ty Cổ phần",
    "Doanh nghiệp tư nhân",
    "Hợp tác xã",
    "Công ty TNHH MTV",
)
_TRADES = (
    "Thương mại",
    "Xây dựng",
    "Vận tải",
    "Dệt may",
    "Cơ khí",
    "Nội thất",
    "Thực phẩm",
    "Du lịch",
    "Phần mềm",
    "In ấn",
    "Gốm sứ",
    "Chè",
)
_WORDS = (
    "Sông Hồng Xanh",
    "Hồ Gươm Mới",
    "Ban Mai",
    "Hoàng Hôn",
    "Sao Khuê",
    "Lúa Vàng",
    "Đá Trắng",
    "Thủy Tiên",
    "Mây Núi",
    "Tre Việt",
    "Nắng Sớm",
    "Trúc Bạch",
    "Cầu Vồng",
    "Hạt Dẻ",
    "Bình Yên",
    "Phố Cổ",
    "Chim Én",
    "Hải Đăng",
    "Rừng Thông",
    "Gió Đông",
)
_ITEMS = (
    ("Thuế giá trị gia tăng", "1701"),
    ("Thuế thu nhập doanh nghiệp", "1052"),
    ("Thuế môn bài", "1849"),
    ("Thuế thu nhập cá nhân", "1001"),
    ("Tiền chậm nộp", "4931"),
)


def tax_code(number: int) -> str:
    """Return the `number`-th valid tax code of Hanoi (01…, with check digit).

    The sequence is fixed and without gaps in meaning.
    """
    serial = number * 11 // 10 + 1_000_001
    while True:
        digits = f"01{serial:07d}"
        check = (
            10
            - sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, digits, strict=True)) % 11
        )
        if check != 10:  # noqa: PLR2004 - no code ends so
            return f"{digits}{check}"
        # Serials of the sequence are at least one apart only nine times of ten; the tenth is free
        # for this one.
        serial += 5_000_000


def invented_rows(
    businesses: int, *, lines: int | None = None, domain: str = "example.test"
) -> Iterator[list[str]]:
    """Yield the cells of a debt-notice list under HEADINGS.

    There are `lines` rows a business, or one to three when it is None.
    """
    chance = random.Random(2026)
    for number in range(businesses):
        code = tax_code(number)
        name = (
            f"{chance.choice(_KINDS)} {chance.choice(_TRADES)} {chance.choice(_WORDS)} {number + 1}"
        )
        items = chance.sample(_ITEMS, lines if lines is not None else chance.randint(1, 3))
        amounts = [chance.randrange(200_000, 90_000_000) for _ in items]
        total = sum(amounts)
        payable = total + total * 27 // 1000
        address = f"Số {chance.randrange(1, 300)} phố Ví Dụ, phường Mẫu, Hà Nội"
        for (item, item_code), amount in zip(items, amounts, strict=True):
            yield [
                code,
                name,
                f"ketoan{number + 1}@{domain}",
                address,
                f"{number + 1}/TB-HAN",
                f"{total:,}".replace(",", "."),
                f"{payable:,}".replace(",", "."),
                item,
                item_code,
                "754",
                f"{amount:,}".replace(",", "."),
                "20/10/2026",
            ]
