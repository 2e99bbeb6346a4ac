"""The pretraining text: encyclopedic articles, scenes in which facts come up, lists, stories and talk.

Every fact is stated once in each of its statement wordings. One *round* states every fact of a theme in one
wording; the rounds differ in wording, order and grouping, so that a fact meets other neighbours each time and
the model learns the fact and not its place in a document.
"""

import random
from collections.abc import Iterator

from dataset.little_world.relation import LANGUAGES, Fact, Relation
from dataset.little_world.stories import cast, story, talk
from dataset.little_world.voices import voices
from dataset.little_world.world import ARITHMETIC, CALENDAR_ORDER, RELATIONS, entities_of, themes

# What opens, joins and closes an article; {title} is the relation's title.
OPENINGS = {
    "zh": (
        "这篇短文讲的是{title}。",
        "下面介绍{title}。",
        "今天的课讲{title}。",
        "关于{title}，有这样一些知识。",
        "书里有一页专门写{title}。",
        "世界很大，我们先看看{title}。",
    ),
    "en": (
        "This short text is about {title}.",
        "Here is what a small book says about {title}.",
        "Today's lesson is about {title}.",
        "Some things about {title} are good to know.",
        "One page of the book is about {title}.",
        "The world is large, so let us begin with {title}.",
    ),
}
JOINS = {
    "zh": ("", "", "", "接着往下看。", "再说一个。", "还有更多。", "下面是另一个。", "这一点值得记住。"),
    "en": (
        "",
        "",
        "",
        "There is more.",
        "Here is another one.",
        "Let us go on.",
        "This is worth knowing.",
        "Next.",
    ),
}
CLOSINGS = {
    "zh": (
        "这些就是今天的内容。",
        "记住这些，很有用处。",
        "多读几遍，就记住了。",
        "知识就是这样一点一点学来的。",
    ),
    "en": (
        "That is all for today.",
        "These things are useful to remember.",
        "Read it again and you will remember it.",
        "This is how we learn, a little every day.",
    ),
}

# Scenes that lead to facts and away from them again.
SCENES = {
    "zh": (
        (
            "{time}，{name}和{friend}在{place}看书。书上写着：",
            "{name}合上书，说：“今天又学到了新东西。”两个人都很{glad}。",
        ),
        (
            "天气{weather}，{elder}和{name}坐在{place}聊天。{elder}慢慢地说：",
            "{name}听得很认真，把这些话都记在了本子上。",
        ),
        ("{name}要参加知识比赛，{friend}来帮忙复习。他们一句一句地念：", "念完以后，他们一起吃了{food}。"),
        ("{name}在{place}捡到一张旧报纸，上面印着：", "{name}把报纸带回家，送给了{elder}。"),
        ("上课了，大家安静下来，听见有人读道：", "下课以后，{name}和{friend}还在谈论这些事。"),
    ),
    "en": (
        (
            "One {time} {name} and {friend} were reading at {place}. The book said:",
            'They closed the book. "We have learned something new," said {name}, and both were {glad}.',
        ),
        (
            "It was {weather}, and {elder} sat with {name} near {place}. This is what {elder} said:",
            "{name} listened well and wrote it all down.",
        ),
        (
            "{name} had to get ready for a test, and {friend} came to help. Line by line they read:",
            "When they had finished, they ate some {food} together.",
        ),
        (
            "Near {place} {name} found a page of an old newspaper. It said:",
            "{name} took the page home and gave it to {elder}.",
        ),
        (
            "The lesson began, everyone was quiet, and a voice read:",
            "After the lesson {name} and {friend} went on talking about it.",
        ),
    ),
}
REPLIES = {
    "zh": ("原来是这样。", "我记住了。", "真有意思。", "这个我也听说过。", "对，没错。", "说得好。"),
    "en": (
        "I see.",
        "I will remember that.",
        "How interesting.",
        "I have heard that too.",
        "That is right.",
        "Good.",
    ),
}

# A small theme (eight planets) is told several times over, or a large one (all countries) would drown it; a rule
# (7 + 8 = 15) has to be seen more often than a fact, as its answer depends on two things at once.
STATEMENTS_PER_THEME = 500
STATEMENTS_PER_RULE_THEME = {"sums": 1000, "calendar": 1400}
SHEETS_PER_SUM = 180  # times that a sum stands on a sheet of sums, over both languages and both ways to write it
ROWS_PER_SHEET = 20
CALENDAR_PAGES = 120  # runs of weekdays and of months, in their order
SHEET_TITLES = {"zh": ("算术练习", "口算题", "算一算"), "en": ("Sums to learn", "Number work", "A page of sums")}

# How many entities share a document: mostly a few, now and then a long article.
CHUNK_SIZES = (1, 1, 2, 3, 4, 6, 10)

Entity = list[tuple[Relation, Fact]]


def documents(seed: int, num_stories: dict[str, int], num_talks: dict[str, int]) -> list[str]:
    """All pretraining documents in a shuffled order; `num_stories` and `num_talks` are by language."""
    found: list[str] = []
    for language in LANGUAGES:
        rng = random.Random(f"{seed}/prose/{language}")
        for theme in themes():
            found += _theme_documents(theme, language, rng)
        found += [_list_document(relation, language, rng) for relation in RELATIONS]
        found += [*_sheets(language, rng), *_calendar_pages(language, rng)]
        found += [story(language, rng) for _ in range(num_stories[language])]
        found += [talk(language, rng) for _ in range(num_talks[language])]
        found += voices(language, random.Random(f"{seed}/voices/{language}"))
    random.Random(f"{seed}/prose/order").shuffle(found)
    return found


def _theme_documents(theme: str, language: str, rng: random.Random) -> Iterator[str]:
    """One round for each statement wording; a small theme has several."""
    entities = entities_of(theme, language)
    num_rounds = max(len(relation.wordings(language).statements) for entity in entities for relation, _ in entity)
    # A fact starts at a wording of its own: a document mixes wordings instead of repeating one.
    starts = {id(fact): rng.randrange(num_rounds) for entity in entities for _, fact in entity}
    num_facts = sum(len(entity) for entity in entities)
    wanted = STATEMENTS_PER_RULE_THEME.get(theme, STATEMENTS_PER_THEME)
    repeats = max(1, round(wanted / (num_facts * num_rounds)))
    for round_number in range(num_rounds * repeats):
        rng.shuffle(entities)
        left = list(entities)
        while left:
            size = rng.choice(CHUNK_SIZES)
            chunk, left = left[:size], left[size:]
            paragraphs = []
            for entity in chunk:
                sentences = []
                for relation, fact in entity:
                    statements = relation.wordings(language).statements
                    wording = statements[(starts[id(fact)] + round_number) % len(statements)]
                    sentences.append(fact.fill(wording, language))
                rng.shuffle(sentences)
                paragraphs.append(sentences)
            yield _frame(paragraphs, rng.choice(chunk[0])[0], language, rng)


def _frame(paragraphs: list[list[str]], relation: Relation, language: str, rng: random.Random) -> str:
    """Make a document of the paragraphs: bare, an article, a scene, or two characters talking."""
    space = "" if language == "zh" else " "
    kind = rng.choice(("bare", "article", "article", "scene", "dialogue"))
    if kind == "dialogue":
        return _dialogue(paragraphs, language, rng)
    parts = [space.join(sentences) for sentences in paragraphs]
    if kind == "bare":
        return space.join(parts)
    body = parts[0]
    for part in parts[1:]:
        body = space.join(piece for piece in (body, rng.choice(JOINS[language]), part) if piece)
    if kind == "scene":
        opening, closing = rng.choice(SCENES[language])
        slots = cast(language, rng)
        return space.join((_sentence(opening.format(**slots)), body, _sentence(closing.format(**slots))))
    title = relation.title[language]
    opening = rng.choice(OPENINGS[language]).format(title=title)
    last_words = [rng.choice(CLOSINGS[language])] if len(parts) > 2 else []
    if len(parts) > 5:  # a long article has a heading and its opening in a line of its own
        return "\n".join((_sentence(title), opening, body, *last_words))
    return space.join((opening, body, *last_words))


def _dialogue(paragraphs: list[list[str]], language: str, rng: random.Random) -> str:
    """Two characters tell each other the sentences in turn."""
    colon, space = ("：", "") if language == "zh" else (": ", " ")
    slots = cast(language, rng)
    speakers = (slots["name"], slots["friend"])
    lines = []
    for turn, sentence in enumerate(sentence for sentences in paragraphs for sentence in sentences):
        reply = rng.choice(REPLIES[language]) + space if turn else ""
        lines.append(speakers[turn % 2] + colon + reply + sentence)
    lines.append(speakers[len(lines) % 2] + colon + rng.choice(REPLIES[language]))
    return "\n".join(lines)


def _sentence(text: str) -> str:
    """The text with a capital first letter: a slot at its beginning may hold "the teacher"."""
    return text[0].upper() + text[1:]


def _sheets(language: str, rng: random.Random) -> Iterator[str]:
    """Pages of sums as a pupil fills them in, in signs and in the words of the answers: 7 + 8 = 15, seven plus eight."""
    rows = []
    for relation, sign in zip(ARITHMETIC, ("+", "-"), strict=True):
        answer = relation.wordings(language).answers[0]
        for fact in relation.facts:
            in_signs = fact.fill(f"{{a}} {sign} {{b}} = {{y}}", language)
            rows += [in_signs, fact.fill(answer, language)] * (SHEETS_PER_SUM // 4)
    rng.shuffle(rows)
    for start in range(0, len(rows), ROWS_PER_SHEET):
        yield "\n".join([rng.choice(SHEET_TITLES[language]), *rows[start : start + ROWS_PER_SHEET]])


def _calendar_pages(language: str, rng: random.Random) -> Iterator[str]:
    """Weekdays or months in their order, from anywhere and round again: Sunday, Monday, Tuesday, …"""
    comma = "、" if language == "zh" else ", "
    for page in range(CALENDAR_PAGES):
        relation = CALENDAR_ORDER[page % 2]
        following = {fact.subject(language): fact.object[language] for fact in relation.facts}
        names = [rng.choice(list(following))]
        for _ in range(rng.randrange(3, 12)):
            names.append(following[names[-1]])
        yield comma.join(names)


def _list_document(relation: Relation, language: str, rng: random.Random) -> str:
    """A plain list, as it stands at the end of a schoolbook; long relations give a sample."""
    colon = "：" if language == "zh" else ": "
    rows = rng.sample(relation.facts, min(40, len(relation.facts)))
    sign = {"addition": " + ", "subtraction": " - "}.get(relation.name, "")
    lines = [sign.join(pair[language] for pair in fact.slots.values()) + colon + fact.object[language] for fact in rows]
    return "\n".join([relation.title[language], *lines])
