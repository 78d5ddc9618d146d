"""How long one fill of the debt notice takes, beside Python's EmailMessage doing the same work.

Run: .venv/bin/python bench/fill.py [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

from notifier.rendering.blueprint import Blueprint, Letter, Sender, compile_blueprint
from notifier.rendering.catalogue import TopicInfo, load_template

ROOT = Path(__file__).resolve().parent.parent
FILLS = 20_000
NAIVE_FILLS = 300


def main() -> None:
    """Print microseconds per mail and its size."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--profile", action="store_true", help="print where the time of the fills goes"
    )
    blueprint, letters = prepare()
    if arguments.parse_args().profile:
        profile = cProfile.Profile()
        profile.runcall(each, blueprint.fill, letters)
        profile.print_stats("tottime")
        return
    size = sum(len(blueprint.fill(letter)) for letter in letters[:100]) // 100
    print(f"size of a mail      {size:10,} bytes")
    print(f"Blueprint.fill      {each(blueprint.fill, letters):10.1f} µs")
    by_hand = each(lambda letter: naive(blueprint, letter), letters[:NAIVE_FILLS])
    print(f"EmailMessage        {by_hand:10.1f} µs")


def each(work: Callable[[Letter], bytes], letters: list[Letter]) -> float:
    """Return CPU microseconds per letter, the best of three rounds."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for letter in letters:
            work(letter)
        best = min(best, time.process_time() - started)
    return best / len(letters) * 1e6


def naive(blueprint: Blueprint, letter: Letter) -> bytes:
    """Build the same mail the way the documentation of Python's email package shows."""
    subject, text, html = blueprint.texts(letter)
    message = EmailMessage(policy=policy.SMTP)
    message["From"] = "Thuế thành phố Hà Nội <thongbao@notices.example.test>"
    message["To"] = f"{letter.to_name} <{letter.to_address}>"
    message["Subject"] = subject
    message["Message-ID"] = f"<{letter.message_id}@notices.example.test>"
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message.as_bytes()


def prepare() -> tuple[Blueprint, list[Letter]]:
    """Compile the debt notice and invent recipients that differ in every personal value."""
    template = load_template(ROOT / "templates", "debt-notice")
    blueprint = compile_blueprint(
        template,
        language="vi",
        sender=Sender(
            name_vi="Thuế thành phố Hà Nội",
            name_en="Hanoi City Tax Office",
            address="thongbao@notices.example.test",
            reply_to="hotro@notices.example.test",
            phone="024 0000 0000",
            postal_address_vi="Số 1 phố Mẫu, thành phố Hà Nội",
            postal_address_en="1 Mau Street, Hanoi",
            website="https://tax.example.test",
            public_url="https://thongbao.example.test",
        ),
        topic=TopicInfo(
            code="debt-notice",
            name={"vi": "Tình hình nghĩa vụ thuế"},
            statutory=True,
            legal_ground={"vi": "Luật Quản lý thuế số 108/2025/QH15"},
            description={"vi": "Thông báo hằng tháng"},
        ),
        bulk=True,
        feedback_id="2026-11:debt-notice:campaign:hanoi",
        mail_domain="notices.example.test",
    )
    now = datetime.now(UTC)
    return blueprint, [letter_of(template.example, number, now) for number in range(FILLS)]


def letter_of(example: object, number: int, now: datetime) -> Letter:
    """Return the letter of one invented business."""
    assert isinstance(example, dict)
    lines = [{**line, "amount": line["amount"] + number * 7919} for line in example["lines"]]
    total = sum(line["amount"] for line in lines)
    return Letter(
        message_id=UUID(int=number),
        to_address=f"ketoan{number}@doanhnghiep{number % 500}.example",
        to_name=f"Công ty TNHH Thương mại và Dịch vụ Số {number}",
        tax_code=f"01{number:08}",
        data={
            **{
                key: value
                for key, value in example.items()
                if key not in {"name", "tax_code", "email", "language"}
            },
            "address": f"Số {number} phố Mẫu, phường Thí Dụ, thành phố Hà Nội",
            "notice_number": f"{number}/TB-HAN",
            "total_debt": total,
            "amount_payable": total + 4_500_000,
            "lines": lines,
        },
        unsubscribe_token=f"AbCdEf0123456789AbCdEf0123456789{number:011}",
        date=now,
    )


if __name__ == "__main__":
    main()
