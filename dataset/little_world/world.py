"""All relations of the little world in one list, and the ways the other files ask for them."""

from dataset.little_world import (
    relations_countries,
    relations_culture,
    relations_elements,
    relations_geography,
    relations_language,
    relations_months,
    relations_nature,
    relations_sums,
    relations_weekdays,
)
from dataset.little_world.relation import Fact, Relation

# Facts that must be learned by heart.
KNOWLEDGE: tuple[Relation, ...] = (
    relations_countries.CAPITAL,
    relations_countries.CONTINENT,
    relations_countries.CURRENCY,
    relations_geography.RIVER,
    relations_geography.MOUNTAIN,
    relations_geography.PLANET,
    relations_elements.SYMBOL,
    relations_elements.ATOMIC_NUMBER,
    relations_nature.ANIMAL_CLASS,
    relations_nature.FOOD,
    relations_nature.COLOUR,
    relations_culture.INVENTOR,
    relations_culture.EVENT,
    relations_culture.FESTIVAL,
    relations_culture.AUTHOR,
    relations_language.OPPOSITE,
    relations_language.MEASURE,
)

# Facts that follow a rule.
ARITHMETIC: tuple[Relation, ...] = (relations_sums.ADDITION, relations_sums.SUBTRACTION)
CALENDAR: tuple[Relation, ...] = (
    relations_weekdays.DAY_AFTER,
    relations_weekdays.DAY_BEFORE,
    relations_months.MONTH_AFTER,
    relations_months.MONTH_LENGTH,
)
# Those of them that go round in order.
CALENDAR_ORDER: tuple[Relation, ...] = (relations_weekdays.DAY_AFTER, relations_months.MONTH_AFTER)

RELATIONS: tuple[Relation, ...] = KNOWLEDGE + ARITHMETIC + CALENDAR


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
