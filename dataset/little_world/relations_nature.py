"""Animals and colours: the relations and their wordings."""

from dataset.little_world.facts_nature import ANIMALS, COLOURS
from dataset.little_world.relation import Pair, Relation, facts, wordings

ANIMAL_CLASS = Relation(
    name="animal_class",
    theme="animals",
    title=Pair("动物的分类", "classes of animals"),
    facts=facts(ANIMALS, 1),
    zh=wordings(
        questions="""
            {x}是哪一类动物？
            {x}属于什么类别？
            {x}属于哪类动物？
            {x}在动物分类里是什么？
            请告诉我{x}属于哪一类。
            说出{x}的动物类别。
            {x}，哪类动物？
            我想知道{x}是什么类别的动物。
            你知道{x}属于哪一类动物吗？
            科学家把{x}归为哪一类？
            {x}这种动物属于哪个类别？
            填空：{x}属于____这一类。
            动物分成几类，{x}在哪一类？
            写出{x}的分类。
            有人问我{x}算哪类动物，我该怎么回答？
            分类问题：动物是{x}，类别呢？
            {x}的类别叫什么名字？
            {x}归在什么类别里？
        """,
        held_out="""
            {x}的类别是什么？
            关于{x}，它是什么类动物？
            {x}算是哪一类，属于什么类别？
            在动物的分类里，{x}算什么？
        """,
        statements="""
            {x}是一种{y}。
            {x}属于{y}。
            {x}是{y}的一种。
            科学家把{x}归为{y}。
            {x}的类别是{y}。
            在动物分类里，{x}属于{y}。
            {y}有很多种，{x}是其中之一。
            {x}这种动物属于{y}。
            从分类来看，{x}是{y}。
            {x}算是{y}。
            说到{y}，不能忘了{x}。
            大家都知道，{x}是{y}。
        """,
        answers="""
            {x}属于{y}。
        """,
    ),
    en=wordings(
        questions="""
            What class of animal is {x}?
            What kind of animal is {x}?
            Which class does {x} belong to?
            Tell me the animal class of {x}.
            Name the class of {x}.
            Class of {x}?
            I want to know the class of {x}.
            Do you know what class of animal {x} is?
            {x} belongs to which class of animals?
            Among animals, what is the class of {x}?
            Fill in the blank: {x} is a kind of ____.
            {x} is which kind of animal?
            How do scientists class {x}?
            Please write down the class of {x}.
            Someone asked me about the class of {x}. What should I say?
            The animal is {x}. What is its class?
        """,
        held_out="""
            To which class of animals does {x} belong?
            Into which animal class do scientists put {x}?
            The animal class of {x} is what?
            Which kind of animal do scientists call {x}?
        """,
        statements="""
            {x} is a kind of {y}.
            {x} belongs to the {y} class.
            The class of {x} is {y}.
            Scientists class {x} as a kind of {y}.
            Among animals, {x} is a kind of {y}.
            The animal class of {x} is {y}.
            One kind of {y} is {x}.
            {x} has the class {y}.
            Everyone learns that {x} is a kind of {y}.
            In the class called {y} we find {x}.
            A well known {y} is {x}.
            The word {y} is right for {x}.
        """,
        answers="""
            {x} is a kind of {y}.
        """,
    ),
)

FOOD = Relation(
    name="food",
    theme="animals",
    title=Pair("动物的食物", "what animals eat"),
    facts=facts(ANIMALS, 2),
    zh=wordings(
        questions="""
            {x}吃什么？
            {x}主要吃什么？
            {x}的食物是什么？
            {x}最常吃的食物是什么？
            请告诉我{x}吃什么。
            说出{x}的主要食物。
            {x}的食物？
            我想知道{x}平时吃什么。
            你知道{x}爱吃什么吗？
            {x}饿了会找什么吃？
            {x}这种动物以什么为食？
            填空：{x}主要吃____。
            什么东西是{x}的食物？
            写出{x}吃的东西。
            有人问我{x}吃什么食物，我该怎么回答？
            食物问题：动物是{x}，食物呢？
        """,
        held_out="""
            {x}以什么东西为食？
            关于{x}，它的主要食物是什么？
            {x}靠吃什么东西生活？
            什么食物是{x}爱吃的？
        """,
        statements="""
            {x}吃{y}。
            {x}主要吃{y}。
            {x}的食物是{y}。
            {x}以{y}为食。
            {y}是{x}的主要食物。
            {x}平时吃{y}。
            {x}爱吃{y}。
            {x}饿了会找{y}吃。
            {x}最常吃的食物是{y}。
            {x}这种动物靠吃{y}生活。
            对{x}来说，{y}是最好的食物。
            大家都知道，{x}吃{y}。
        """,
        answers="""
            {x}主要吃{y}。
        """,
    ),
    en=wordings(
        questions="""
            What does {x} eat?
            What does {x} mainly eat?
            What is the main food of {x}?
            Tell me what {x} eats.
            Name the food of {x}.
            Food of {x}?
            I want to know what {x} eats.
            Do you know what the food of {x} is?
            {x} eats which food?
            When {x} is hungry, what does it look for?
            Fill in the blank: {x} mainly eats ____.
            {x} lives on what food?
            Which food does {x} like?
            Please write down the main food of {x}.
            Someone asked me what {x} likes to eat. What should I say?
            The animal is {x}. What is its food?
        """,
        held_out="""
            Which main food is right for {x}?
            When {x} eats, what food is it?
            On what food does {x} live?
            What does {x} like to eat when it is hungry?
        """,
        statements="""
            {x} eats {y}.
            {x} mainly eats {y}.
            The main food of {x} is {y}.
            {x} lives on {y}.
            {x} likes to eat {y}.
            The food of {x} is {y}.
            When {x} is hungry, it looks for {y}.
            For {x}, the best food is {y}.
            Everyone learns that {x} eats {y}.
            Day after day {x} eats {y}.
            What {x} likes most is {y}.
            The animal we call {x} eats {y}.
        """,
        answers="""
            {x} mainly eats {y}.
        """,
    ),
)

COLOUR = Relation(
    name="colour",
    theme="colours",
    title=Pair("事物的颜色", "colours of things"),
    facts=facts(COLOURS, 1),
    zh=wordings(
        questions="""
            {x}是什么颜色？
            {x}是什么颜色的？
            {x}的颜色是什么？
            {x}看起来是什么颜色？
            请告诉我{x}的颜色。
            说出{x}是哪种颜色。
            {x}的颜色？
            我想知道{x}是什么颜色。
            你知道{x}的颜色吗？
            画{x}的时候，该用什么颜色？
            {x}一般是哪种颜色？
            填空：{x}的颜色是____。
            用什么颜色的笔来画{x}？
            写出{x}的颜色。
            有人问我{x}是什么颜色，我该怎么回答？
            颜色问题：东西是{x}，颜色呢？
        """,
        held_out="""
            {x}有着哪种颜色？
            关于{x}，它的颜色是哪种？
            说到{x}，想到的是什么颜色？
            看到{x}的时候，看到的是什么颜色？
        """,
        statements="""
            {x}是{y}的。
            {x}的颜色是{y}。
            {x}看起来是{y}的。
            画{x}的时候，要用{y}。
            {x}一般是{y}的。
            小朋友用{y}的笔画{x}。
            {y}是{x}的颜色。
            {x}有着{y}的外表。
            说到{y}，人们会想到{x}。
            看到{x}，就看到了{y}。
            {x}是{y}的，很好认。
            大家都知道，{x}是{y}的。
        """,
        answers="""
            {x}是{y}的。
        """,
    ),
    en=wordings(
        questions="""
            What colour is {x}?
            What is the colour of {x}?
            Which colour does {x} have?
            Tell me the colour of {x}.
            Name the colour of {x}.
            Colour of {x}?
            I want to know the colour of {x}.
            Do you know what colour {x} is?
            {x} has which colour?
            When I paint {x}, which colour do I need?
            Fill in the blank: the colour of {x} is ____.
            What colour do people see when they look at {x}?
            If I draw {x}, what colour do I use?
            Please write down the colour of {x}.
            Someone asked me about the colour of {x}. What should I say?
            The thing is {x}. What is its colour?
        """,
        held_out="""
            {x} is usually what colour?
            People who look at {x} see which colour?
            In what colour do people paint {x}?
            For {x}, which colour is right?
        """,
        statements="""
            The colour of {x} is {y}.
            {x} has the colour {y}.
            {y} is the colour of {x}.
            {x} looks {y}.
            When people look at {x}, they see {y}.
            When you paint {x}, you need {y}.
            If you draw {x}, use {y}.
            Usually the colour of {x} is {y}.
            Everyone learns that the colour of {x} is {y}.
            For {x}, the right colour is {y}.
            Children draw {x} with a {y} pencil.
            You can see the colour {y} when you see {x}.
        """,
        answers="""
            The colour of {x} is {y}.
        """,
    ),
)
