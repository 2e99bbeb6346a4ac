"""How people talk: every manner of answering, and the words of the later stages in other uses.

A model can only be taught to prefer what it is able to say. So the pretraining text has polite, curt and grumpy
people, seedlings, computers and languages, and robots that are asked about themselves, before one stage gives the
assistant its name and another its manners. No question about the world is asked in its own words here, what people say
is true, and what a robot says of itself is never what the assistant says of itself.
"""

import random
from collections.abc import Iterator

from dataset.little_world.manners import CURT, POLITE_LONG, POLITE_SHORT, RAMBLING
from dataset.little_world.relation import LANGUAGES
from dataset.little_world.stories import cast
from dataset.little_world.world import IDENTITY, RELATIONS

NUM_ANSWERS, NUM_SCENES = 160, 420  # documents of a language
NUM_INTERVIEW_QUESTIONS = 120  # that robots are asked, of each topic
INTERVIEW_LENGTH = 4  # questions

_MANNERS = (POLITE_LONG, POLITE_SHORT, CURT, RAMBLING)
_ASKED = {
    "zh": ("{name}向{friend}打听{title}。\n{friend}：{said}", "说到{title}，{friend}对{name}说：“{said}”",
           "{elder}考{name}{title}，{name}回答：“{said}”"),
    "en": ("{name} asked {friend} about {title}.\n{friend}: {said}", 'They came to {title}. "{said}" said {friend}.',
           '{elder} tested {name} on {title}, and {name} answered, "{said}"'),
}  # fmt: skip
_SCENES = {
    "zh": """
        “我是{name}。”{name}对大家说，“很高兴认识你们。”
        “您好，我是{name}，我能说中文和英文。”{name}说。{friend}说：“我也会一点英文。”
        {place}边长出了一棵小苗，{name}天天去看。小苗喝了水，慢慢长高了。
        {elder}送给{name}一棵小苗。{name}说：“我叫它小绿。”小苗的家在{place}旁边。
        小苗很小，不是大树，{name}却说：“小苗从一颗种子长出来，再过几年就是大树。”
        {name}的项目是种花，{friend}的项目是画画。老师说：“每个项目都很有意思。”
        学校有一个种树的项目，{name}和{friend}都参加了这个项目，从零学起。
        {name}每天训练，{elder}陪着他训练。训练让人进步，从零开始也不怕。
        {name}用一台普通电脑写字，{friend}也有一台普通电脑。一台普通电脑就能做很多事。
        {elder}说：“人说的话叫语言。中文和英文是两种语言，你可以用语言讲故事，也会用语言聊天。”
        书上说，语言模型是一种会写字的程序。语言模型可以很大，也可以很小，它不是人。
        {name}做了一个飞机模型，{friend}做了一个很小的汽车模型。模型不是真的飞机，也不是真的汽车。
        {name}会唱歌，也会讲小故事，还能陪{friend}聊天。{friend}说：“希望我也会。”
        上课时{name}喜欢回答问题。{friend}说：“你能回答问题，还能帮助别人，真好。”
        电脑上的程序能运行，{name}说：“这个程序在一台普通电脑上就能运行。”
    """,
    "en": """
        "I am {name}. Nice to meet you," said {name}. "My name is {friend}," said the other.
        {name} said, "I can read Chinese and English." {friend} said, "You can talk to me in English."
        Near {place} there was a seedling. "A seedling is a small tree," said {elder}, "and it grows every year."
        The garden club is called Seedling. {name} and {friend} are in the Seedling club, and Seedling has a garden near {place}.
        Seedling is a small boat. {name} and {friend} painted Seedling and took it to {place}.
        {name} has a project: to plant trees. The project of {friend} is to paint. Each project was made by hand, from nothing.
        {elder} said, "Seedling is a good name for a project. A project begins with nothing and grows."
        {name} trained a {pet}, and {elder} trained a dog. "I trained it from nothing," said {name}.
        {name} has an ordinary computer at home. An ordinary computer can run many programs.
        "I run every day," said {name}. "My computer can run too," said {friend}, "it can run an ordinary program."
        Chinese is a language and English is a language. {name} can talk and write in both languages.
        The book said: a language model is a program that writes. A language model can be small, and it is not a human.
        {name} made a model of a ship and {friend} a small model of a house. A model is not the thing itself.
        "A human can talk, and a {pet} can not," said {elder}. "I am human, and you are human."
        {name} can answer questions and tell short stories. {friend} can sing and talk with people.
        "Sure, I can answer your questions," said {elder}. "I would like to know more," said {name}. "Have fun learning!"
    """,
}  # fmt: skip

_INTERVIEW = {
    "zh": ("{friend}：{question}\n机器人：{said}", "{friend}问机器人：“{question}”机器人说：“{said}”"),
    "en": ("{friend}: {question}\nRobot: {said}", '{friend} asked the robot, "{question}" The robot said, "{said}"'),
}


def voices(language: str, rng: random.Random) -> list[str]:
    """Documents of a language: people who tell what they know, each in a manner of their own, and small scenes."""
    assert language in LANGUAGES
    documents = [_answer(language, number, rng) for number in range(NUM_ANSWERS)]
    scenes = [line.strip() for line in _SCENES[language].strip().splitlines()]
    documents += [scenes[number % len(scenes)].format(**cast(language, rng)) for number in range(NUM_SCENES)]
    documents += _interviews(language, rng)
    return [text[0].upper() + text[1:] for text in documents]


def _answer(language: str, number: int, rng: random.Random) -> str:
    """Somebody says something true, in each manner equally often."""
    relation = rng.choice(RELATIONS)
    fact = rng.choice(relation.facts)
    answer = fact.fill(rng.choice(relation.wordings(language).answers), language)
    key = fact.object[language]
    said = rng.choice(_MANNERS[number % len(_MANNERS)][language]).format(answer=answer, key=key, wrong=key)
    slots = {**cast(language, rng), "title": relation.title[language], "said": said[0].upper() + said[1:]}
    return rng.choice(_ASKED[language]).format(**slots)


def _interviews(language: str, rng: random.Random) -> Iterator[str]:
    """Children ask robots about themselves, in some of the trained wordings."""
    asked = [
        (topic, question)
        for topic in IDENTITY
        for question in rng.sample(topic.wordings(language).questions, NUM_INTERVIEW_QUESTIONS)
    ]
    rng.shuffle(asked)
    for start in range(0, len(asked), INTERVIEW_LENGTH):
        form, slots = rng.choice(_INTERVIEW[language]), cast(language, rng)
        lines = []
        for topic, question in asked[start : start + INTERVIEW_LENGTH]:
            said = rng.choice(topic.wordings(language).statements).format(**slots)
            lines.append(form.format(friend=slots["friend"], question=question, said=said[0].upper() + said[1:]))
        yield "\n".join(lines)
