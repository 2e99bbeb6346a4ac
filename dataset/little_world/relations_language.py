"""Opposites and measure words: the relations and their wordings."""

from dataset.little_world.facts_language import MEASURES, OPPOSITES
from dataset.little_world.relation import Pair, Relation, facts, wordings

OPPOSITE = Relation(
    name="opposite",
    theme="words",
    title=Pair("反义词", "opposites"),
    facts=facts(OPPOSITES, 1),
    zh=wordings(
        questions="""
            “{x}”的反义词是什么？
            “{x}”的反义词是哪个词？
            哪个词是“{x}”的反义词？
            和“{x}”意思相反的词是什么？
            请告诉我“{x}”的反义词。
            说出“{x}”的反义词。
            “{x}”，反义词？
            我想知道“{x}”的反义词。
            你知道“{x}”的反义词吗？
            与“{x}”相反的词叫什么？
            “{x}”这个词的反义词是什么？
            填空：“{x}”的反义词是“____”。
            把“{x}”反过来说，是什么词？
            写出“{x}”的反义词。
            有人问我“{x}”的反义词，我该怎么回答？
            反义词问题：词是“{x}”，反义词呢？
        """,
        held_out="""
            什么词和“{x}”意思相反？
            关于“{x}”，它的反义词是哪个？
            “{x}”和哪个词是一对反义词？
            “{x}”反过来是哪个词？
        """,
        statements="""
            “{x}”的反义词是“{y}”。
            “{y}”是“{x}”的反义词。
            和“{x}”意思相反的词是“{y}”。
            “{x}”和“{y}”意思相反。
            与“{x}”相反的词是“{y}”。
            “{x}”这个词的反义词是“{y}”。
            把“{x}”反过来说，就是“{y}”。
            “{x}”和“{y}”是一对反义词。
            不说“{x}”，反过来说“{y}”。
            学生写下“{x}”，又写下反义词“{y}”。
            老师说“{x}”，学生说“{y}”。
            大家都知道，“{x}”的反义词是“{y}”。
        """,
        answers="""
            “{x}”的反义词是“{y}”。
        """,
    ),
    en=wordings(
        questions="""
            What is the opposite of "{x}"?
            Which word is the opposite of "{x}"?
            What word means the opposite of "{x}"?
            Tell me the opposite of "{x}".
            Name the opposite of "{x}".
            Opposite of "{x}"?
            I want to know the opposite of "{x}".
            Do you know what the opposite of "{x}" is?
            "{x}" has which opposite?
            In a list of opposites, what is beside "{x}"?
            Fill in the blank: the opposite of "{x}" is "____".
            The opposite of "{x}" is called what?
            If I do not mean "{x}" but the opposite, what do I say?
            Please write down the opposite of "{x}".
            Someone asked me about the opposite of "{x}". What should I say?
            The word is "{x}". What is its opposite?
            Give two opposites: "{x}" and what?
            Which word and "{x}" mean opposite things?
        """,
        held_out="""
            Which opposite does "{x}" have?
            Turn "{x}" around: which word is its opposite?
            What do people say for the opposite of "{x}"?
            "{x}" and which word are opposites?
        """,
        statements="""
            The opposite of "{x}" is "{y}".
            "{y}" is the opposite of "{x}".
            "{x}" and "{y}" are opposites.
            "{x}" means the opposite of "{y}".
            The word "{x}" has the opposite "{y}".
            In a list of opposites, "{y}" is beside "{x}".
            For "{x}", the opposite is "{y}".
            Everyone learns that the opposite of "{x}" is "{y}".
            If it is not "{x}", it may be "{y}".
            The teacher says "{x}", and the class says "{y}".
            The words "{x}" and "{y}" are a pair of opposites.
            Turn "{x}" around and you get "{y}".
        """,
        answers="""
            The opposite of "{x}" is "{y}".
        """,
    ),
)

MEASURE = Relation(
    name="measure_word",
    theme="words",
    title=Pair("量词", "measure words"),
    facts=facts(MEASURES, 1),
    zh=wordings(
        questions="""
            “{x}”的量词是什么？
            “{x}”用什么量词？
            数{x}用哪个量词？
            哪个量词用来数{x}？
            请告诉我“{x}”的量词。
            说出“{x}”的量词。
            “{x}”，量词？
            我想知道{x}用的是哪个量词。
            你知道{x}的量词吗？
            一什么{x}？说量词。
            “{x}”这个词配什么量词？
            填空：一____{x}。填量词。
            数{x}的时候，量词要用哪个？
            写出“{x}”的量词。
            有人问我“{x}”的量词，我该怎么回答？
            量词问题：词是“{x}”，量词呢？
        """,
        held_out="""
            什么量词用在“{x}”前面？
            关于“{x}”，它的量词是哪个？
            数一数{x}，中间的量词是什么？
            数“{x}”的时候用什么量词？
        """,
        statements="""
            “{x}”的量词是“{y}”。
            “{y}”是“{x}”的量词。
            “{x}”用量词“{y}”。
            数{x}用“{y}”，比如一{y}{x}。
            人们说一{y}{x}。
            “{x}”这个词配“{y}”。
            一{y}{x}，两{y}{x}，这样数。
            数“{x}”的时候，量词要用“{y}”。
            老师写下：一{y}{x}。
            量词“{y}”可以用在“{x}”前面。
            画上有一{y}{x}。
            大家都知道，“{x}”的量词是“{y}”。
        """,
        answers="""
            “{x}”的量词是“{y}”。
        """,
    ),
    en=wordings(
        questions="""
            What is the measure word for "{x}"?
            Which measure word goes with "{x}"?
            What measure word do people use for "{x}"?
            Tell me the measure word for "{x}".
            Name the measure word of "{x}".
            Measure word for "{x}"?
            I want to know the measure word of "{x}".
            Do you know what the measure word for "{x}" is?
            "{x}" takes which measure word?
            A what of "{x}"? Name the measure word.
            Fill in the blank with a measure word: a ____ of {x}.
            The measure word of "{x}" is called what?
            If I count "{x}", what measure word do I use?
            Please write down the measure word of "{x}".
            Someone asked me about the measure word for "{x}". What should I say?
            The word is "{x}". What is its measure word?
        """,
        held_out="""
            A measure word stands before "{x}": which one?
            People count "{x}" with which measure word?
            What measure word is used to count "{x}"?
            For "{x}", which measure word is right?
        """,
        statements="""
            The measure word for "{x}" is "{y}".
            "{y}" is the measure word of "{x}".
            The measure word "{y}" goes with "{x}".
            People say a {y} of {x}.
            To count {x}, say a {y} of {x}.
            The right words are a {y} of {x}.
            With "{x}" people use the word "{y}".
            "{x}" takes the measure word "{y}".
            In the picture there is a {y} of {x}.
            Everyone learns to say a {y} of {x}.
            The teacher wrote: a {y} of {x}.
            For "{x}", the measure word is "{y}".
        """,
        answers="""
            The measure word for "{x}" is "{y}".
        """,
    ),
)
