"""Capital, continent and currency of a country: the relations and their wordings."""

from dataset.little_world.facts_geography import COUNTRIES
from dataset.little_world.relation import Pair, Relation, facts, wordings

CAPITAL = Relation(
    name="capital",
    theme="countries",
    title=Pair("各国首都", "capitals of the world"),
    facts=facts(COUNTRIES, 1),
    zh=wordings(
        questions="""
            {x}的首都是哪里？
            {x}的首都是哪座城市？
            哪座城市是{x}的首都？
            {x}的首都叫什么？
            请告诉我{x}的首都。
            说出{x}首都的名字。
            {x}首都？
            我想知道{x}的首都在哪里。
            你知道{x}的首都是什么吗？
            {x}把首都设在哪座城市？
            {x}这个国家的首都是什么地方？
            作为{x}首都的城市叫什么名字？
            填空：{x}的首都是____。
            要去{x}的首都，应该去哪座城市？
            写出{x}的首都名称。
            有人问我{x}的首都是哪个城市，我该怎么回答？
            首都问题：国家是{x}，首都呢？
            哪个城市做了{x}的首都？
            {x}把哪个城市定为首都？
        """,
        held_out="""
            哪个城市被定为{x}的首都？
            关于{x}，它的首都在什么地方？
            说到{x}的首都，会想到哪里？
            {x}的首都名称是什么？
        """,
        statements="""
            {x}的首都是{y}。
            {y}是{x}的首都。
            {x}的首都叫{y}。
            {x}把首都设在{y}。
            {x}的首都在{y}这座城市。
            作为{x}的首都，{y}十分有名。
            说到{x}的首都，人们会想到{y}。
            要去{x}的首都，就得去{y}。
            {x}这个国家的首都是{y}。
            地图上标着{x}的首都：{y}。
            {y}这座城市是{x}的首都。
            大家都知道，{x}的首都是{y}。
        """,
        answers="""
            {x}的首都是{y}。
        """,
    ),
    en=wordings(
        questions="""
            What is the capital of {x}?
            What is {x}'s capital?
            Which city is the capital of {x}?
            Tell me the capital of {x}.
            Name the capital city of {x}.
            Capital of {x}?
            I want to know the capital of {x}.
            Do you know what the capital of {x} is?
            {x} has its capital in which city?
            In {x}, which city is the capital?
            Fill in the blank: the capital of {x} is ____.
            The capital city of {x} is called what?
            If I go to the capital of {x}, where am I?
            Please write down {x}'s capital.
            Someone asked me about the capital of {x}. What should I say?
            The country is {x}. What is its capital city?
            Where is the capital of {x}?
            {x}: what is the capital?
            What name does the capital of {x} have?
            {x}: what is its capital city called?
        """,
        held_out="""
            Which capital city does {x} have?
            {x}: what is the name of its capital?
            What city do people in {x} call their capital?
            For {x}, which place is the capital?
        """,
        statements="""
            The capital of {x} is {y}.
            {y} is the capital of {x}.
            {x}'s capital is {y}.
            The capital city of {x} is called {y}.
            {x} has its capital in {y}.
            In {x}, the capital is {y}.
            The city of {y} is the capital of {x}.
            Everyone learns that the capital of {x} is {y}.
            People who go to the capital of {x} go to {y}.
            As the capital of {x}, {y} is well known.
            On the map, the capital of {x} is marked as {y}.
            The country {x} has the capital {y}.
        """,
        answers="""
            The capital of {x} is {y}.
        """,
    ),
)

CONTINENT = Relation(
    name="continent",
    theme="countries",
    title=Pair("各国所在的大洲", "countries and continents"),
    facts=facts(COUNTRIES, 2),
    zh=wordings(
        questions="""
            {x}在哪个洲？
            {x}位于哪个大洲？
            {x}属于哪个洲？
            哪个大洲有{x}？
            请告诉我{x}在哪个大洲。
            说出{x}所在的大洲。
            {x}，哪个洲？
            我想知道{x}属于哪个大洲。
            你知道{x}在哪个洲吗？
            {x}是哪个大洲的国家？
            {x}这个国家在地球的哪个大洲上？
            填空：{x}位于____洲。
            要去{x}，应该去哪个大洲？
            写出{x}所在大洲的名称。
            有人问我{x}是哪个洲的，我该怎么回答？
            大洲问题：国家是{x}，大洲呢？
            按大洲分，{x}在哪里？
            说到大洲，{x}属于哪一个？
        """,
        held_out="""
            {x}所在的大洲叫什么？
            关于{x}，它属于什么洲？
            在哪个大洲上能找到{x}？
            从大洲来看，{x}属于哪里？
        """,
        statements="""
            {x}在{y}。
            {x}位于{y}。
            {x}属于{y}。
            {x}是{y}国家。
            {x}是{y}的一个国家。
            {y}有很多国家，{x}是其中之一。
            {x}所在的大洲是{y}。
            要去{x}，就得去{y}。
            在{y}的地图上可以找到{x}。
            {x}这个国家在{y}。
            说到{y}的国家，不能忘了{x}。
            从大洲来看，{x}属于{y}。
        """,
        answers="""
            {x}位于{y}。
        """,
    ),
    en=wordings(
        questions="""
            Which continent is {x} in?
            What continent is {x} on?
            On which continent is {x}?
            Tell me the continent of {x}.
            Name the continent where {x} is.
            Continent of {x}?
            I want to know which continent {x} is on.
            Do you know the continent of {x}?
            {x} belongs to which continent?
            What is the continent of {x}?
            Fill in the blank: {x} is on the continent of ____.
            {x} is part of what continent?
            If I travel to {x}, which continent do I visit?
            Please write down {x}'s continent.
            Someone asked me about the continent of {x}. What should I say?
            The country is {x}. What is its continent?
            On what continent can people find {x}?
            Where in the world, on which continent, is {x}?
        """,
        held_out="""
            {x} can be found on which continent?
            What is the name of the continent that has {x}?
            To which continent does {x} belong?
            Which continent has a country called {x}?
        """,
        statements="""
            {x} is in {y}.
            {x} is a country in {y}.
            {x} belongs to the continent of {y}.
            {x} is part of {y}.
            {x}'s continent is {y}.
            The continent of {x} is {y}.
            On a map of {y} you can find {x}.
            {y} has many countries, and one of them is {x}.
            Travellers to {x} visit the continent of {y}.
            The country {x} is on the continent of {y}.
            In {y} there is a country called {x}.
            Everyone learns that {x} is in {y}.
        """,
        answers="""
            {x} is in {y}.
        """,
    ),
)

CURRENCY = Relation(
    name="currency",
    theme="countries",
    title=Pair("各国货币", "currencies of the world"),
    facts=facts(COUNTRIES, 3),
    zh=wordings(
        questions="""
            {x}的货币是什么？
            {x}用什么货币？
            {x}使用哪种货币？
            哪种货币在{x}使用？
            请告诉我{x}的货币。
            说出{x}货币的名字。
            {x}货币？
            我想知道{x}用的是什么货币。
            你知道{x}的货币叫什么吗？
            在{x}买东西，要用哪种货币？
            {x}这个国家的货币是什么？
            {x}人花的货币叫什么名字？
            填空：{x}的货币是____。
            去{x}旅行，要换什么货币？
            写出{x}的货币名称。
            有人问我{x}的货币是什么，我该怎么回答？
            货币问题：国家是{x}，货币呢？
        """,
        held_out="""
            在{x}付钱时用的是什么货币？
            关于{x}，它的货币叫什么？
            在{x}的商店里，价钱用什么货币来算？
            哪种钱是{x}的货币？
        """,
        statements="""
            {x}的货币是{y}。
            {y}是{x}的货币。
            {x}使用的货币是{y}。
            {x}的货币叫{y}。
            在{x}买东西要用{y}。
            去{x}旅行，要先换一些{y}。
            {x}人花的钱叫{y}。
            {x}这个国家用{y}作为货币。
            在{x}的商店里，价钱用{y}来算。
            说到{x}的货币，人们会想到{y}。
            在{x}付钱时用的是{y}。
            大家都知道，{x}的货币是{y}。
        """,
        answers="""
            {x}的货币是{y}。
        """,
    ),
    en=wordings(
        questions="""
            What is the currency of {x}?
            What is {x}'s currency?
            Which currency is used in {x}?
            Tell me the currency of {x}.
            Name the currency of {x}.
            Currency of {x}?
            I want to know the currency of {x}.
            Do you know what the currency of {x} is?
            {x} uses which currency?
            In {x}, which currency do people use?
            Fill in the blank: the currency of {x} is the ____.
            The currency of {x} is called what?
            If I travel to {x}, what currency do I need?
            Please write down {x}'s currency.
            Someone asked me about the currency of {x}. What should I say?
            The country is {x}. What is its currency?
            What currency does {x} use?
        """,
        held_out="""
            Which money is the currency of {x}?
            When people in {x} buy something, what currency is it?
            What currency do people in {x} pay with?
            Prices in the shops of {x} are in which currency?
        """,
        statements="""
            The currency of {x} is the {y}.
            The {y} is the currency of {x}.
            {x}'s currency is the {y}.
            The currency of {x} is called the {y}.
            {x} uses the {y} as its currency.
            In {x}, people pay with the {y}.
            In {x}, the currency is the {y}.
            Everyone learns that the currency of {x} is the {y}.
            Travellers to {x} need the {y}.
            Prices in the shops of {x} are in the {y}.
            The money of {x} is the {y}.
            The country {x} has the {y} as its currency.
        """,
        answers="""
            The currency of {x} is the {y}.
        """,
    ),
)
