import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.rules import rewriting
from dataset.rules.html_remains import strip_html

CODE = "def f(x):\n    if x < 1 and y > 2:\n        return 'a  b'\n\treturn x\n"
CHINESE = "他说：“好，……走吧！”《书》（一）、二；三？——【完】「引」…～·"


# ---- what must survive ----


@pytest.mark.parametrize(
    "rewrite",
    [
        rewriting.remove_invisible,
        rewriting.half_width,
        rewriting.drop_boilerplate,
        rewriting.tidy_space,
        strip_html,
        lambda text: rewriting.normalise_unicode(text, "nfc"),
        lambda text: rewriting.limit_line_repeats(text, 1),
    ],
)
def test_code_and_chinese_punctuation_survive(rewrite) -> None:
    assert rewrite(CODE) == CODE
    assert rewrite(CHINESE) == CHINESE
    assert rewrite(f"说明：\n```python\n{CODE}```\n") == f"说明：\n```python\n{CODE}```\n"


def test_strip_keeps_the_indentation_of_a_block() -> None:
    take_off = rewriting.strip
    assert take_off("\n\n    def f():\n        pass\n\n") == "    def f():\n        pass"
    assert take_off("  one\ntwo ") == "one\ntwo"
    assert take_off("\u3000\u3000段落\n第二段\n") == "段落\n第二段"
    assert take_off(" \n\t\n") == ""


# ---- invisible characters ----


def test_invisible_characters_go() -> None:
    dirty = "\ufeffa\u200bb\x00c\x1b\u00add\u202ee\u2060\x85f\r\ng\rh\u2028i\x0bj\tk"
    assert rewriting.remove_invisible(dirty) == "abcde\nf\ng\nh\ni\nj\tk"


def test_joiners_stay_where_they_spell_something() -> None:
    persian, hindi, family, keycap = "می\u200cخواهم", "क्\u200dष", "👩\u200d👩\u200d👧", "❤\ufe0f"
    for text in (persian, hindi, family, keycap):
        assert rewriting.remove_invisible(text) == text
    assert rewriting.remove_invisible("束\u200d手\u200c\u200d a\u200d👩\u200d") == "束手 a👩"


@given(st.text())
def test_nothing_that_shows_is_lost(text: str) -> None:
    kept = rewriting.remove_invisible(text)
    shown = [c for c in text if unicodedata.category(c)[0] not in "CZ"]
    # Fillers are letters by name that show nothing.
    shown = [c for c in shown if c not in "\u115f\u1160\u3164\uffa0"]
    assert [c for c in kept if unicodedata.category(c)[0] not in "CZ"] == shown


# ---- Unicode ----


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_unicode_forms_are_those_of_the_standard(text: str) -> None:
    assert rewriting.normalise_unicode(text, "nfc") == unicodedata.normalize("NFC", text)
    assert rewriting.normalise_unicode(text, "nfkc") == unicodedata.normalize("NFKC", text)


def test_nfc_and_nfkc() -> None:
    assert rewriting.normalise_unicode("e\u0301ﬁ，x²①", "nfc") == "éﬁ，x²①"
    assert rewriting.normalise_unicode("e\u0301ﬁ，x²①", "nfkc") == "éfi,x21"


def test_towers_of_marks_are_cut_and_stay_normal() -> None:
    for marks in ("\u0301", "\u0323\u0301", "ﾞ\u0334", "\U0001d165\u0323", "\u0344"):
        for form in ("nfc", "nfkc"):
            once = rewriting.normalise_unicode(f"a{marks * 60}b", form)
            assert len(once) <= 65
            assert once == rewriting.normalise_unicode(once, form)
            assert unicodedata.is_normalized("NFC" if form == "nfc" else "NFKC", once)


def test_half_width() -> None:
    assert rewriting.half_width("２０２４年，ＡＩ（Ｇｐｔ）！＃") == "2024年，AI（Gpt）！＃"


# ---- lines ----

BOILERPLATE = """首页 > 新闻中心 > 正文
分享到： 微信 | 微博 | QQ空间
【返回顶部】
上一篇：春天的故事
责任编辑：小李
版权所有 © 2020 某某公司
京ICP备12345678号-1
京公网安备 11010102000001号
扫一扫二维码关注我们
点击阅读全文
未经本站许可，不得转载
本网站使用 Cookie 改善体验
Home | About Us | Contact
We use cookies to improve your experience. Learn more
By continuing to browse this site you agree to our use of cookies.
Copyright © 2007-2016 Some Firm LLC. All rights reserved.
Share this article on Facebook
Subscribe to our newsletter
Read more »
Skip to main content
window.dataLayer = window.dataLayer || [];
var _hmt = _hmt || [];"""

PROSE = """他回到首页，看了一会儿新闻。
分享是一种美德，微信让分享更容易。
首页设计得很好
The home page about which we spoke is new.
Cookies are small files that a site stores.
He bought the copyright in 1920.
版权是作者的权利。
上一篇文章说到，春天来了。
- 更多的人
Home is where the heart is.
新闻
1. 关注细节
我们使用筷子。
关注公众利益是重要的"""


def test_boilerplate_goes_and_prose_stays() -> None:
    assert rewriting.drop_boilerplate(f"正文如下。\n{BOILERPLATE}\n{PROSE}\n结束。") == f"正文如下。\n{PROSE}\n结束。"


def test_boilerplate_that_is_all_there_is_may_be_an_answer() -> None:
    assert rewriting.drop_boilerplate("微信") == "微信"
    assert rewriting.drop_boilerplate("如果为空：\n    返回列表\n") == "如果为空：\n    返回列表\n"


def test_line_repeats() -> None:
    text = (
        "a line to repeat\n}\na line to repeat\n}\n    return result\n    return result\n"
        "------------\n------------\na line to repeat\n}"
    )
    assert rewriting.limit_line_repeats(text, 2) == text.rpartition("a line to repeat\n")[0] + "}"
    assert rewriting.limit_line_repeats(f"```\n{text}\n```", 1) == f"```\n{text}\n```"


def test_tidy_space() -> None:
    assert rewriting.tidy_space("a  \n\t\n \n\n\n  b\u3000\nc") == "a\n\n\n  b\nc"
    code = "```\na  \n\n\n\n\nb\n```"
    assert rewriting.tidy_space(f"{code}\n\n\n\n\nx ") == f"{code}\n\n\nx"


# ---- HTML ----


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("这是<b>重要</b>的<br/>第二行", "这是重要的\n第二行"),
        (
            '<a href="x.html" target=_blank>link</a> &amp; &lt;more&gt; &quot;q&quot; &#39;s&#x4e2d;',
            'link & <more> "q" \'s中',
        ),
        ("a&nbsp;b&amp;nbsp;c&amp;amp;d", "a b c&d"),
        ("x<script type='t'>if (a < b) { alert('</p>') }</script>y<style>p{}</style>z<!-- no\nshow -->!", "xyz!"),
        ("<SCRIPT>never closed", "never closed"),
        ("<!DOCTYPE html><html><body>hi", "\n\nhi"),
        ("AT&T; R&D &unknown; &#0; &#xd800; &#99999999;", "AT&T; R&D &unknown;   &#99999999;"),
    ],
)
def test_html_goes(dirty: str, clean: str) -> None:
    assert strip_html(dirty) == clean


@pytest.mark.parametrize(
    "text",
    [
        "if a < b and c > d: x <= y",
        "List<String> v = new ArrayList<>();",
        "#include <stdio.h>\n#include <map>",
        "use `<b>` and `&lt;` for that",
        "```html\n<p>kept &amp; whole</p>\n```",
        "~~~\n<p>an open fence goes to the end</p>",
        "a <- b; <3 <unk> <nooutput> <|im_end|> <think>",
        "http://x.org/?a=1&b=2&copy=3",
    ],
)
def test_what_only_looks_like_html_stays(text: str) -> None:
    assert strip_html(text) == text


def test_html_agrees_with_a_parser_on_a_page() -> None:
    """On well-formed HTML the words are those that Python's own parser finds."""
    from html.parser import HTMLParser

    page = (
        "<html><head><style>x{}</style></head><body><h1>T&eacute;st</h1>"
        "<p>one <i>two</i> &gt; three<br>four</p></body></html>"
    )
    found: list[str] = []

    class Words(HTMLParser):
        inside = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.inside = tag

        def handle_data(self, data: str) -> None:
            found.extend(data.split() if self.inside != "style" else [])

    Words().feed(page)
    assert re.findall(r"\S+", strip_html(page)) == found
