"""What a web page leaves in text taken from it: tags, entities, scripts, comments.

This is not a parser of HTML: the text is prose in which some HTML was left over, and `a < b`, `List<String>` or
`#include <map>` must survive. Only tags whose names nobody uses otherwise go; fenced code and `inline code` stay.
"""

import re
from html.entities import html5

from dataset.rules.rewriting import outside_code

_NEW_LINE = (
    "address article aside blockquote body br caption center dd div dl dt figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 head header hr html li main nav ol p pre section table tbody td tfoot th thead title tr ul"
)
_INLINE = (
    "a abbr acronym b big button cite code del em embed fieldset font i iframe img input ins kbd label link "
    "mark meta noscript option q samp select small span strike strong sub sup textarea tt u"
)
_WITH_CONTENT = "script style svg"  # what stands between their tags is no text either

_BREAKS = frozenset(_NEW_LINE.split())
_CONTENT = frozenset(_WITH_CONTENT.split())
# In this order: code to be left alone, comments, tags, entities (also those that were escaped again: &amp;amp;lt;).
_REMAINS = re.compile(
    r"`[^`\n]*`"
    r"|<!--|<!doctype\b[^<>]*>"
    rf"|<(?P<end>/?)(?P<tag>{'|'.join((_NEW_LINE + ' ' + _INLINE + ' ' + _WITH_CONTENT).split())})(?=[\s/>])[^<>]*>"
    r"|&(?:amp;)*(?P<entity>#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});",
    re.IGNORECASE,
)
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _CONTENT} | {"<!--": re.compile("-->")}


def strip_html(text: str) -> str:
    """Without tags, comments, scripts and styles; entities as the characters they stand for."""
    if "<" not in text and "&" not in text:
        return text
    return outside_code(text, _strip)


def _strip(text: str) -> str:
    kept: list[str] = []
    position = 0
    never_closed: set[str] = set()  # looked for once: a text of a million <script> must not be searched a million times
    while found := _REMAINS.search(text, position):
        kept.append(text[position : found.start()])
        position = found.end()
        piece, tag = found.group(), (found["tag"] or "").lower()
        if found["entity"]:
            kept.append(_character(found["entity"]))
        elif piece.startswith("`"):
            kept.append(piece)
        elif tag in _BREAKS:
            kept.append("\n")
        elif (piece == "<!--" or (tag in _CONTENT and not found["end"])) and (tag or piece) not in never_closed:
            closing = _CLOSING[tag or piece].search(text, position)
            if closing:
                position = closing.end()
            else:
                never_closed.add(tag or piece)
    kept.append(text[position:])
    return "".join(kept)


def _character(entity: str) -> str:
    """What an entity stands for; itself where it stands for nothing that a text may hold."""
    if entity[0] != "#":
        return " " if entity == "nbsp" else html5.get(f"{entity};", f"&{entity};")
    code = int(entity[2:], 16) if entity[1] in "xX" else int(entity[1:])
    is_text = code in (9, 10) or 32 <= code < 127 or (160 <= code <= 0x10FFFF and not 0xD800 <= code < 0xE000)
    if not is_text:
        return ""
    return " " if code == 0xA0 else chr(code)
