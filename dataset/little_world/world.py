"""All relations of the little world in one list, and the ways the other files ask for them."""

from dataset.little_world.facts_calendar import MONTHS, WEEKDAYS, month_lengths
from dataset.little_world.facts_culture import EVENTS, FESTIVALS, INVENTIONS, WORKS
from dataset.little_world.facts_geography import COUNTRIES, MOUNTAINS, RIVERS
from dataset.little_world.facts_language import MEASURES, OPPOSITES
from dataset.little_world.facts_nature import ANIMALS, COLOURS, ELEMENTS, PLANETS
from dataset.little_world.facts_sums import DIFFERENCES, SUMS
from dataset.little_world.relation import Fact, Pair, Relation, facts, in_order, read_relation

# Facts that must be learned by heart.
KNOWLEDGE: tuple[Relation, ...] = (
    read_relation("capital", "countries", Pair("各国首都", "capitals of the world"), facts(COUNTRIES, 1)),
    read_relation("continent", "countries", Pair("各国所在的大洲", "countries and continents"), facts(COUNTRIES, 2)),
    read_relation("currency", "countries", Pair("各国货币", "currencies of the world"), facts(COUNTRIES, 3)),
    read_relation("river", "rivers", Pair("世界的河流", "rivers of the world"), facts(RIVERS, 1)),
    read_relation("mountain", "mountains", Pair("世界的山峰", "mountains of the world"), facts(MOUNTAINS, 1)),
    read_relation("planet", "planets", Pair("行星的顺序", "the order of the planets"), facts(PLANETS, 1)),
    read_relation("symbol", "elements", Pair("元素符号", "symbols of the elements"), facts(ELEMENTS, 1)),
    read_relation("atomic_number", "elements", Pair("原子序数", "atomic numbers"), facts(ELEMENTS, 2)),
    read_relation("animal_class", "animals", Pair("动物的分类", "classes of animals"), facts(ANIMALS, 1)),
    read_relation("food", "animals", Pair("动物的食物", "what animals eat"), facts(ANIMALS, 2)),
    read_relation("colour", "colours", Pair("事物的颜色", "colours of things"), facts(COLOURS, 1)),
    read_relation("inventor", "inventions", Pair("发明与发明人", "inventions and inventors"), facts(INVENTIONS, 1)),
    read_relation("event", "events", Pair("历史年份", "years of history"), facts(EVENTS, 1)),
    read_relation("festival", "festivals", Pair("节日的月份", "festivals of the year"), facts(FESTIVALS, 1)),
    read_relation("author", "books", Pair("作品与作者", "books and authors"), facts(WORKS, 1)),
    read_relation("opposite", "words", Pair("反义词", "opposites"), facts(OPPOSITES, 1)),
    read_relation("measure_word", "words", Pair("量词", "measure words"), facts(MEASURES, 1)),
)

# Facts that follow a rule.
ARITHMETIC: tuple[Relation, ...] = (
    read_relation("addition", "sums", Pair("加法", "addition"), SUMS),
    read_relation("subtraction", "sums", Pair("减法", "subtraction"), DIFFERENCES),
)
DAY_AFTER = read_relation("day_after", "calendar", Pair("下一天", "the day after"), in_order(WEEKDAYS, 1))
MONTH_AFTER = read_relation("month_after", "calendar", Pair("下一个月", "the month after"), in_order(MONTHS, 1))
CALENDAR: tuple[Relation, ...] = (
    DAY_AFTER,
    read_relation("day_before", "calendar", Pair("前一天", "the day before"), in_order(WEEKDAYS, -1)),
    MONTH_AFTER,
    read_relation("month_length", "calendar", Pair("月份的天数", "the length of the months"), month_lengths()),
)
# Those of them that go round in order.
CALENDAR_ORDER: tuple[Relation, ...] = (DAY_AFTER, MONTH_AFTER)

RELATIONS: tuple[Relation, ...] = KNOWLEDGE + ARITHMETIC + CALENDAR


def _identity(name: str, key: Pair) -> Relation:
    return read_relation(f"identity_{name}", "identity", Pair("自己", "oneself"), (Fact({}, key),))


# What the assistant knows of itself: one fact each, whose object is what a right answer names. The statements are what
# robots of the pretraining text say of themselves.
IDENTITY: tuple[Relation, ...] = (
    _identity("name", Pair("小苗", "Seedling")),
    _identity("maker", Pair("小苗项目", "Seedling project")),
    _identity("kind", Pair("语言模型", "language model")),
    _identity("ability", Pair("回答问题", "answer questions")),
    _identity("languages", Pair("中文和英文", "Chinese and English")),
    _identity("home", Pair("普通电脑", "ordinary computer")),
)


def relation_named(name: str) -> Relation:
    """The relation of that name."""
    return next(relation for relation in RELATIONS if relation.name == name)


def themes() -> list[str]:
    """The themes, in the order of the relations."""
    return list(dict.fromkeys(relation.theme for relation in RELATIONS))


def entities_of(theme: str, language: str) -> list[list[tuple[Relation, Fact]]]:
    """The facts of a theme grouped by subject: all that is known of France, all that is known of iron."""
    groups: dict[str, list[tuple[Relation, Fact]]] = {}
    for relation in RELATIONS:
        if relation.theme == theme:
            for fact in relation.facts:
                # 7 + 8 and 15 - 8 are no entities: each sum stands alone.
                key = fact.subject(language) if "x" in fact.slots else f"{relation.name} {fact.subject(language)}"
                groups.setdefault(key, []).append((relation, fact))
    return list(groups.values())
