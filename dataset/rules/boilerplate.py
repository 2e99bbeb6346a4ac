"""Lines of web pages that are not text: navigation, share buttons, cookie notices, leftover scripts.

Two short lists to read and to add to. A line goes only as a whole: when it is made of nothing but PHRASES and
separators ("Home | About us", "首页 > 新闻 > 正文"), or when a NOTICE stands at its beginning.
"""

import re
from collections.abc import Callable
from functools import cache

MAX_NOTICE_CHARS = 300  # a longer line is a paragraph, whatever it begins with

_PHRASES_ZH = """
首页 主页 返回首页 网站首页 返回顶部 回到顶部 返回列表 返回 上一页 下一页 上一篇 下一篇 末页 尾页 正文 导航 网站地图
站内搜索 搜索 登录 登陆 注册 立即登录 立即注册 免费注册 退出登录 忘记密码 我的账户 个人中心 购物车 加入购物车
客户端下载 下载app 关于我们 联系我们 加入我们 联系方式 招聘信息 友情链接 免责声明 隐私政策 隐私声明 用户协议
服务条款 版权声明 意见反馈 帮助中心 广告服务 设为首页 加入收藏 收藏本站 收藏 点赞 转发 评论 举报 打印 打印本页
关闭窗口 关闭 复制链接 字号 字体 编辑 广告 分享 分享到 一键分享 微信 微信好友 朋友圈 微博 新浪微博 腾讯微博 qq
qq好友 qq空间 豆瓣 人人网 知乎 抖音 快手 小红书 更多 更多内容 查看更多 点击查看更多 加载更多 展开 收起 展开全文
阅读全文 查看全文 阅读原文 查看原文 全部评论 发表评论 我要评论 暂无评论 相关阅读 相关文章 相关推荐 相关新闻 相关链接
推荐阅读 延伸阅读 热门推荐 热门文章 热门标签 猜你喜欢 为你推荐 最新文章 最新评论 今日头条 新闻 资讯 新闻中心
新闻资讯 产品中心 公司简介
"""
_PHRASES_EN = """
home, home page, homepage, menu, navigation, sitemap, site map, search, back to top, top, back, next, previous,
next page, previous page, next post, previous post, newer posts, older posts, skip to content, skip to main content,
close, print, print this page, email this, log in, login, log out, logout, sign in, sign up, register, my account,
forgot password, forgot your password, cart, shopping cart, add to cart, view cart, checkout, wishlist, about,
about us, contact, contact us, faq, help, careers, advertise, advertisement, sponsored, privacy, privacy policy,
cookie policy, terms, terms of use, terms of service, terms and conditions, disclaimer, share, share this, share on,
share to, tweet, pin it, like, likes, follow, follow us, subscribe, comment, comments, leave a comment,
leave a reply, post a comment, add a comment, no comments, reply, report, report abuse, facebook, twitter, x,
instagram, linkedin, pinterest, youtube, whatsapp, telegram, reddit, tumblr, google+, email, rss, weibo, wechat,
more, read more, learn more, see more, show more, view more, load more, continue reading, click here, related posts,
related articles, recent posts, popular posts, you may also like, tags, categories, archives, blog, news, shop,
download
"""
# What may be a sentence of its own in a talk, or a heading, goes only beside other phrases.
_NOT_ALONE = """
x qq top back next like likes help more news close about search reply print 返回 新闻 编辑 收藏 关闭
"""

# A word that must occur somewhere in the text (this makes the search quick), and the beginning of the line.
_NOTICES = r"""
cookie      (we|this (web)?site|our (web)?site) uses? .{0,30}cookies?\b
cookie      (by (continuing|using|browsing|clicking)|if you continue)\b.{0,80}\bcookies\b
cookie      (please )?(accept|allow|enable|manage|reject) (all )?cookies\b
cookie      (本|我们的?)(网站|站|平台)?.{0,10}使用.{0,10}cookies?
cookie      (继续|若您继续)(浏览|使用|访问).{0,40}cookies?
javascript  (please )?(enable|allow|activate) javascript\b
javascript  javascript (is (disabled|required|not)|must be)\b
copyright   copyright\s*(©|\(c\)|[:：]|(19|20)\d\d).{0,80}
©           ©.{0,80}(all rights reserved|(19|20)\d\d)
reserved    all rights reserved
powered by  powered by (wordpress|shopify|drupal|blogger|discuz)
subscribe   subscribe( now)? (for|to) (our|the) .{0,40}(newsletter|updates|mailing list)
sign        sign up( now)? (for|to) (our|the) .{0,40}(newsletter|updates|mailing list)
share       share( this)?( article| page| post)? (on|to|via|with) (facebook|twitter|linkedin|pinterest|whatsapp)\b
follow us   follow us on (facebook|twitter|instagram|linkedin|youtube)\b
click       click (here )?to (share|print|email|enlarge|subscribe|tweet)\b
log in      log in (to|or) (comment|reply|post|register|create)\b
sign in     sign in (to|or) (comment|reply|post|register|create)\b
email       your email address will not be published
required    required fields are marked
comment     (posted|filed) (in|under)[: ].{0,60}(leave a comment|no comments|\d+ comments)
page        page \d+ of \d+$
版权所有    版权所有
icp         .{0,40}icp\s?(备|证)\s*(案号)?[:：]?\s*\d
公网安备    .{0,40}公网安备\s*\d
许可证      (增值电信|网络文化|信息网络|互联网新闻).{0,20}许可证
转载        (未经|非经).{0,30}(不得|禁止|请勿|严禁).{0,10}转载
转载        转载.{0,6}(注明|标明|保留).{0,6}(出处|来源|链接|作者)
二维码      (长按|扫一扫|扫描|扫码|微信扫).{0,20}二维码
关注        (欢迎|请|长按|点击|扫码).{0,6}关注.{0,20}(公众号|微信号|官方微博)
点击        (请)?点击.{0,8}(阅读|查看|进入|下载|此处).{0,6}(全文|原文|更多|链接|详情)
一篇        (上一篇|下一篇)\s*[:：]
一章        (上一章|下一章)\s*[:：]
责            (责任编辑|责编)\s*[:：]
分享        分享(到|至)\s*[:：]
次数        (浏览|阅读|点击)次数\s*[:：]\s*\d+
位置        (您|你)?(所在|当前|的当前)的?位置\s*[:：].{0,60}[>»›]
||          (var|let|const) _?\w{1,20} ?= ?_?\w{1,20} ?\|\| ?(\[\]|\{\})
window.     window\.(dataLayer|_hmt|_bd_share_config|adsbygoogle|_gaq)\b
adsbygoogle  \(?adsbygoogle\b
document.   document\.(write|getElementsByTagName)\(
document    \$\(document\)\.ready\(
push(       (_hmt|_gaq|dataLayer)\.push\(
gtag(       gtag\(
"""

_SEPARATORS = " \t\u3000\xa0|｜>»›/\\·•●、,，:：_-–—[]【】()（）<<«"


def boilerplate_lines(text: str) -> Callable[[str], bool]:
    """Whether a line of this text is boilerplate; what the whole text lacks is not looked for in its lines."""
    lowered = text.lower()
    notices = [notice for word, notice in _notices() if word in lowered]
    phrases, beginnings = _phrases()

    def is_boilerplate(line: str) -> bool:
        line = line.strip(_SEPARATORS)
        if not line or len(line) > MAX_NOTICE_CHARS:
            return False
        if line[:2].lower() in beginnings and phrases.fullmatch(line):
            return True
        return any(notice.match(line) for notice in notices)

    return is_boilerplate


@cache
def _phrases() -> tuple[re.Pattern[str], frozenset[str]]:
    """A line of phrases with separators between, and the two characters that one may begin with.

    Possessive repeats (`++`, `}+`) never go back: no line, however odd, is tried in many ways.
    """
    phrases = [*_PHRASES_ZH.split(), *(" ".join(phrase.split()) for phrase in _PHRASES_EN.split(","))]
    phrases.sort(key=len, reverse=True)  # the longest that fits
    separator = f"[{re.escape(_SEPARATORS)}]"
    one = "|".join(rf"{re.escape(phrase)}(?![a-z])" for phrase in phrases)
    alone = "|".join(re.escape(phrase) for phrase in phrases if phrase not in _NOT_ALONE.split())
    pattern = rf"(?:{alone})|(?:{one})(?:{separator}++(?:{one})){{1,40}}+"
    return re.compile(pattern, re.IGNORECASE), frozenset(phrase[:2] for phrase in phrases)


@cache
def _notices() -> list[tuple[str, re.Pattern[str]]]:
    rows = (re.split(r"\s{2,}", line, maxsplit=1) for line in _NOTICES.strip().split("\n"))
    return [(word, re.compile(notice, re.IGNORECASE)) for word, notice in rows]
