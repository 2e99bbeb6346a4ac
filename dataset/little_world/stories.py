"""Short stories and everyday talk, told from plots: another name, place and turn of phrase each time."""

import random

from dataset.little_world import stories_en, stories_zh

_MATERIAL = {"zh": stories_zh, "en": stories_en}


def cast(language: str, rng: random.Random) -> dict[str, str]:
    """Two characters and the things of one story: what each slot of its plot stands for."""
    separator = "," if language == "en" else " "
    words = {slot: text.split(separator) for slot, text in _MATERIAL[language].SLOTS.items()}
    name, friend = rng.sample(words["name"], 2)
    return {**{slot: rng.choice(choices) for slot, choices in words.items()}, "name": name, "friend": friend}


def story(language: str, rng: random.Random, num_moments: int | None = None) -> str:
    """A story of one paragraph; with `num_moments`, only its beginning and end, for a short one."""
    return ("" if language == "zh" else " ").join(_tell(_MATERIAL[language].PLOTS, language, rng, num_moments))


def talk(language: str, rng: random.Random) -> str:
    """An everyday conversation of two characters, one line each."""
    return "\n".join(_tell(_MATERIAL[language].TALKS, language, rng, in_step=True))


def _tell(
    plots: tuple[str, ...],
    language: str,
    rng: random.Random,
    num_moments: int | None = None,
    in_step: bool = False,
) -> list[str]:
    """Fill a plot. `in_step` takes the same alternative of every line: in a talk each answers the one before."""
    plot = [line.strip().split(" | ") for line in rng.choice(plots).splitlines() if line.strip()]
    if num_moments is not None:
        plot = plot[: num_moments - 1] + plot[-1:]
    slots = cast(language, rng)
    column = rng.randrange(len(plot[0]))
    moments = [(line[column] if in_step else rng.choice(line)).format(**slots) for line in plot]
    return [moment[0].upper() + moment[1:] for moment in moments]
