import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.rules.personal_data import MASKS, PLACEHOLDERS, is_identity_number, passes_luhn
from tests.tiny_model import byte_tokenizer


def masked(kind: str, text: str) -> str:
    return MASKS[kind](text)


# Invented numbers; the identity number is the example that the standard itself gives.
FOUND = {
    "mail": ["a.b+c@mail.example.org", "邮箱:li_4@example.com。", "(x@y.co)"],
    "identity": ["11010519491231002X", "号码11010519491231002x，", "(440524188001010014)"],
    "card": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "卡号5500-0000-0000-0004。",
        "378282246310005",
        "3782 822463 10005",
    ],
    "phone": [
        "13812345678",
        "138 1234 5678",
        "手机：+86 138-1234-5678。",
        "86-13812345678",
        "010-12345678",
        "(0755) 1234567",
        "（021）12345678",
        "(555) 123-4567",
        "555-123-4567",
        "+1 (555) 123 4567",
        "+44 20 7946 0958",
        "+49.30.1234567",
        "+8613812345678",
    ],
    "ip": ["8.8.4.114", "访问203.0.114.9。", "2400:cb00:2048:1::6814:155", "[2606:4700::6810:85e5]"],
}

LEFT_ALONE = {
    "mail": ["@property", "git@github.com:a/b.git", "a @ b.com", "user@localhost", "3@5", "微博@某人.你好"],
    "identity": [
        "110105194912310021",
        "11010519491331002X",
        "211010519491231002X",
        "a11010519491231002X",
        "123456789012345678",
    ],
    "card": [
        "4111111111111112",
        "1234567890123456",
        "1111111111111111",
        "0000000000000000",
        "20240101123059",
        "3.14159265358979323846",
    ],
    "phone": [
        "12345678901",
        "1381234567",
        "138123456789",
        "1700000000000",
        "3.13812345678",
        "x13812345678",
        "2024-01-02",
        "123-45-6789",
        "a+12345678",
        "100-2000",
        "12:30-13:45",
        "1+23456",
        "010-1234",
    ],
    "ip": [
        "1.2.3.4",
        "127.0.0.1",
        "192.168.1.10",
        "10.11.12.13",
        "256.1.1.1",
        "1.22.333",
        "8.8.8.8.8",
        "std::vector",
        "abc::def",
        "12:34:56",
        "::1",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_personal_data_is_masked(kind: str, text: str) -> None:
    result = masked(kind, f"我是 {text} ok")
    assert result.count(PLACEHOLDERS[kind]) == 1
    # Nothing of it is left: at most the marks and words around it.
    rest = result.replace(PLACEHOLDERS[kind], "")
    assert not any(character.isdigit() or character == "@" for character in rest)


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in LEFT_ALONE.items() for text in texts])
def test_what_only_looks_like_it_stays(kind: str, text: str) -> None:
    assert masked(kind, f"see {text} ok") == f"see {text} ok"


def test_several_in_a_row() -> None:
    phones = "13812345678,13912345678、 010-12345678 13712345678"
    assert masked("phone", phones) == "{0},{0}、 {0} {0}".format(PLACEHOLDERS["phone"])


@given(st.integers(0, 10**17 - 1))
def test_check_digits(number: int) -> None:
    """Independent forms of both checks: the sum to 1 modulo 11, and Luhn's table of doubled digits."""
    digits = f"{number:017d}"
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    check = "10X98765432"[sum(w * int(d) for w, d in zip(weights, digits, strict=True)) % 11]
    dated = digits[:6] + "19800229" + digits[14:]
    total = sum(w * int(d) for w, d in zip(weights, dated, strict=True))
    assert is_identity_number(dated + "10X98765432"[total % 11])
    assert not is_identity_number(dated + "10X98765432"[(total + 1) % 11])
    assert check in "0123456789X"
    doubled = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    luhn = sum(doubled[int(d)] if i % 2 else int(d) for i, d in enumerate(reversed(digits)))
    assert passes_luhn(digits) == (luhn % 10 == 0)


def test_most_random_numbers_are_nobodys() -> None:
    generator = random.Random(0)
    numbers = [str(generator.randrange(10**17, 10**18)) for _ in range(5000)]
    assert sum(masked("identity", number) != number for number in numbers) < 5
    assert sum(masked("card", number) != number for number in numbers) < 0.1 * len(numbers)


def test_placeholders_are_plain_text_for_a_tokenizer() -> None:
    tokenizer = byte_tokenizer(256)
    for placeholder in PLACEHOLDERS.values():
        assert placeholder.isascii()
        assert tokenizer.decode(tokenizer.encode(f"好{placeholder}。")) == f"好{placeholder}。"
