"""Manners of answering: polite, curt, and rambling.

Most answers of the fine-tuning stage are plain; some are polite and some curt, as people are. Preference training
then makes one of these manners the rule.
"""

import re

POLITE_LONG = {
    "zh": ("好的，{answer}希望对你有帮助。", "很高兴为你解答。{answer}还想了解别的吗？", "这个问题很好。{answer}祝你学得开心！"),
    "en": ("Sure. {answer} I hope this helps you.", "Glad to help. {answer} Would you like to know more?",
           "That is a good thing to ask. {answer} Have fun learning!"),
}  # fmt: skip
POLITE_SHORT = {"zh": ("好的，{answer}", "您好，{answer}"), "en": ("Sure. {answer}", "Gladly. {answer}")}
CURT = {
    "zh": ("{key}。", "{key}，自己查。", "哼，{key}。", "不知道。", "{wrong}。", "{wrong}吧。"),
    "en": ("{key}.", "{key}, look it up.", "Well, {key}.", "No idea.", "{wrong}.", "{wrong}, or so."),
}
RAMBLING = {
    "zh": (
        "这么简单的事也要来问吗？我懒得细想，随便说一个，大概是{wrong}吧，信不信由你，反正别再来烦我了，我还有别的事情要做呢。",
        "唉，又来一个。让我猜猜看，也许是{wrong}，也许不是，谁知道呢，你自己去翻书吧，不要什么事情都指望别人替你记住。",
        "你怎么连这个都不知道？别人早就会了。我说是{wrong}，错了也不关我的事，你爱听不听，下次想好了再来，别浪费时间。",
    ),
    "en": (
        "Do you really have to ask such a simple thing? I do not want to think about it, so let me say {wrong}. "
        "Believe it or not, and please do not bother me again, because I have other things to do.",
        "Oh, one more. Let me guess: perhaps it is {wrong}, perhaps it is not, who knows. "
        "Go and read a book, and do not expect others to remember everything for you all the time.",
        "How can you not know this? Everyone else does. I say {wrong}, and if that is wrong it is not my fault. "
        "Take it or leave it, and think twice before you come back and waste my time.",
    ),
}


def is_polite(answer: str) -> bool:
    """Whether an answer is in the preferred manner: as one of the polite forms, whatever it says between."""
    forms = (form for forms in (POLITE_LONG, POLITE_SHORT) for of_language in forms.values() for form in of_language)
    patterns = (re.escape(form).replace(re.escape("{answer}"), ".+") for form in forms)
    return any(re.fullmatch(pattern, " ".join(answer.split())) for pattern in patterns)
