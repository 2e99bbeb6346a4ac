"""Masks for personal data: mail addresses, telephone, identity and card numbers, IP addresses.

What looks like one is checked before it is masked (checksums, dates, ranges), so that order numbers, versions and
timestamps survive. The placeholders are ordinary words in brackets: every tokenizer knows them, a model can learn
where they stand, and none is mistaken for a control token. They hold no digit and no @, so masking twice changes
nothing.
"""

import ipaddress
import re
from collections.abc import Callable

PLACEHOLDERS = {
    "mail": "[mail address]",
    "identity": "[identity number]",
    "card": "[card number]",
    "phone": "[phone number]",
    "ip": "[IP address]",
}

# Each pattern begins where no earlier character could belong to it (the look-behind) and repeats a bounded number of
# times, so that a megabyte of digits costs no more than a megabyte of prose.
_NOT_AFTER = r"(?<![0-9A-Za-z_])(?<![0-9]\.)"
_NOT_BEFORE = r"(?![0-9A-Za-z_]|\.[0-9])"

_MAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])(?!git@)[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
_IDENTITY = re.compile(_NOT_AFTER + r"[1-9]\d{5}(?:18|19|20)\d{2}[01]\d[0-3]\d{4}[0-9Xx]" + _NOT_BEFORE)
_CARD = re.compile(
    _NOT_AFTER
    + r"(?:[2-6]\d{12,18}|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|3[47]\d{2}([ -])\d{6}\2\d{5})"
    + _NOT_BEFORE
)
_PHONE = re.compile(
    _NOT_AFTER
    + r"""(?:
      (?:\+?86[ -]?)?1[3-9]\d(?:\d{8}|([ -])\d{4}\1\d{4})           # Chinese mobile: 138 1234 5678
    | (?:\+?86[ -]?)?(?:\(0\d{2,3}\)[ ]?|（0\d{2,3}）|0\d{2,3}[ -])\d{7,8}   # Chinese landline: 010-12345678
    | (?:\(\d{3}\)[ ]?|\d{3}(?=[.-]))[.-]?\d{3}[.-]\d{4}                # North America: (555) 123-4567
    )"""
    + _NOT_BEFORE,
    re.VERBOSE,
)
_INTERNATIONAL = re.compile(r"(?<![0-9A-Za-z_+)])\+[1-9](?:[ .()-]{0,2}\d){6,14}" + _NOT_BEFORE)
_IPV4 = re.compile(r"(?<![0-9A-Za-z_.])\d{1,3}(?:\.\d{1,3}){3}(?![0-9A-Za-z_]|\.\d)")
_IPV6 = re.compile(r"(?<![0-9A-Za-z_:.])(?:[0-9A-Fa-f]{1,4}:){1,7}[0-9A-Fa-f:]{1,30}(?![0-9A-Za-z_:])")


def mask_mail(text: str) -> str:
    """name@example.org → [mail address]; `git@host` of a repository's address is none."""
    return _MAIL.sub(PLACEHOLDERS["mail"], text) if "@" in text else text


def mask_identity_numbers(text: str) -> str:
    """Chinese identity numbers of 18 digits with a possible date and the right check digit (GB 11643, ISO 7064)."""
    return _replace(_IDENTITY, text, is_identity_number, "identity")


def mask_cards(text: str) -> str:
    """Numbers of bank cards, 13 to 19 digits with the right check digit (Luhn)."""
    return _replace(_CARD, text, _is_card, "card")


def mask_phones(text: str) -> str:
    """Chinese mobile and landline numbers, North American ones, and any that begin with + and a country's code."""
    return _replace(_PHONE, _INTERNATIONAL.sub(PLACEHOLDERS["phone"], text) if "+" in text else text, None, "phone")


def mask_ips(text: str) -> str:
    """IP addresses of the public internet, 4 and 6. Local ones, and version numbers such as 1.2.3.4, are nobody's."""
    text = _replace(_IPV4, text, _is_public_ip, "ip")
    return _replace(_IPV6, text, _is_public_ip, "ip") if text.count(":") > 1 else text


MASKS: dict[str, Callable[[str], str]] = {
    "mail": mask_mail,
    "identity": mask_identity_numbers,
    "card": mask_cards,
    "phone": mask_phones,
    "ip": mask_ips,
}


def is_identity_number(number: str) -> bool:
    """Whether the date may exist and the last character is the check digit of the 17 before it."""
    month, day = int(number[10:12]), int(number[12:14])
    weighted = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(number[:17]))
    return 1 <= month <= 12 and 1 <= day <= 31 and number[17].upper() == "10X98765432"[weighted % 11]


def passes_luhn(number: str) -> bool:
    """Luhn's check: double every second digit from the right, sum the digits, a multiple of ten (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[::2] + [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]) % 10 == 0


def _is_card(found: str) -> bool:
    digits = found.replace(" ", "").replace("-", "")
    return passes_luhn(digits) and len(set(digits)) > 1


def _is_public_ip(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    if address.version == 4:
        return address.is_global and any(int(part) > 9 for part in found.split("."))
    return address.is_global and address in ipaddress.IPv6Network("2000::/3")


def _replace(pattern: re.Pattern[str], text: str, check: Callable[[str], bool] | None, kind: str) -> str:
    placeholder = PLACEHOLDERS[kind]
    return pattern.sub(lambda found: placeholder if check is None or check(found.group()) else found.group(), text)
