"""Rivers, mountains and planets: the relations and their wordings."""

from dataset.little_world.facts_geography import MOUNTAINS, RIVERS
from dataset.little_world.facts_nature import PLANETS
from dataset.little_world.relation import Pair, Relation, facts, wordings

RIVER = Relation(
    name="river",
    theme="rivers",
    title=Pair("世界的河流", "rivers of the world"),
    facts=facts(RIVERS, 1),
    zh=wordings(
        questions="""
            {x}在哪个国家？
            {x}流经哪个国家？
            {x}这条河在哪个国家？
            哪个国家有{x}这条河？
            请告诉我{x}流过哪个国家。
            说出{x}流经的国家。
            {x}，哪国的河？
            我想知道{x}是哪个国家的河流。
            你知道{x}在哪个国家流淌吗？
            {x}是哪个国家的河？
            要看{x}这条河，应该去哪个国家？
            填空：{x}流经的国家是____。
            写出{x}所在的国家，它是一条河。
            有人问我{x}是哪国的河流，我该怎么回答？
            河流问题：河是{x}，国家呢？
            {x}的河水流过哪个国家的土地？
            有一条河叫{x}，它在什么国家？
        """,
        held_out="""
            在哪个国家能看到{x}这条河？
            {x}是一条河，它流经什么国家？
            {x}这条河属于什么国家？
            哪个国家的土地上流淌着{x}？
        """,
        statements="""
            {x}流经{y}。
            {x}在{y}。
            {x}是{y}的一条河。
            {y}有一条河叫{x}。
            {x}是{y}的河流。
            {x}的河水流过{y}的土地。
            要看{x}，就得去{y}。
            说到{y}的河流，人们会想到{x}。
            {x}流经的国家是{y}。
            在{y}的地图上可以找到{x}这条河。
            {x}这条河在{y}流淌。
            大家都知道，{x}是{y}的河。
        """,
        answers="""
            {x}流经{y}。
        """,
    ),
    en=wordings(
        questions="""
            Which country does {x} flow through?
            Which country is {x} in?
            In which country is the river called {x}?
            Tell me the country of the river {x}.
            Name the country where {x} flows.
            {x}: a river of which country?
            I want to know which country {x} flows through.
            Do you know which country the river {x} is in?
            {x} is a river in which country?
            What country is home to {x}, the river?
            Fill in the blank: {x} flows through the country of ____.
            Through what country does {x} flow?
            If I want to see {x}, to which country do I travel?
            Please write down the country of {x}, a river.
            Someone asked me where {x} flows. What country should I say?
            The river is {x}. What is its country?
        """,
        held_out="""
            The river {x} can be found in which country?
            Where does {x} flow, in which country?
            What country has the river {x}?
            The water of {x} flows through which country?
        """,
        statements="""
            {x} flows through {y}.
            {x} is a river in {y}.
            {x} is in {y}.
            In {y} there is a river called {x}.
            The river {x} belongs to {y}.
            The country of {x} is {y}.
            The water of {x} flows through {y}.
            Travellers who want to see {x} go to {y}.
            On a map of {y} you can find {x}.
            {y} is home to the river {x}.
            Everyone learns that {x} flows through {y}.
            One of the rivers of {y} is {x}.
        """,
        answers="""
            {x} flows through {y}.
        """,
    ),
)

MOUNTAIN = Relation(
    name="mountain",
    theme="mountains",
    title=Pair("世界的山峰", "mountains of the world"),
    facts=facts(MOUNTAINS, 1),
    zh=wordings(
        questions="""
            {x}在哪个国家？
            {x}位于哪个国家？
            {x}这座山在哪个国家？
            哪个国家有{x}这座山？
            请告诉我{x}位于哪个国家。
            说出{x}这座山所在的国家。
            {x}，哪国的山？
            我想知道{x}是哪个国家的山。
            你知道{x}在哪个国家境内吗？
            {x}是哪个国家的山峰？
            要爬{x}这座山，应该去哪个国家？
            填空：{x}所在的国家是____。
            写出{x}所在的国家，它是一座山。
            有人问我{x}是哪国的山峰，我该怎么回答？
            山峰问题：山是{x}，国家呢？
            {x}耸立在哪个国家的土地上？
            有一座山叫{x}，它在什么国家？
        """,
        held_out="""
            在哪个国家能爬到{x}这座山？
            {x}是一座山，它位于什么国家？
            {x}这座山属于什么国家？
            哪个国家的土地上耸立着{x}？
        """,
        statements="""
            {x}位于{y}。
            {x}在{y}。
            {x}是{y}的一座山。
            {y}有一座山叫{x}。
            {x}是{y}的山峰。
            {x}耸立在{y}的土地上。
            要爬{x}，就得去{y}。
            说到{y}的山，人们会想到{x}。
            {x}所在的国家是{y}。
            在{y}的地图上可以找到{x}这座山。
            {x}这座山在{y}境内。
            大家都知道，{x}是{y}的山。
        """,
        answers="""
            {x}位于{y}。
        """,
    ),
    en=wordings(
        questions="""
            Which country is {x} in?
            In which country is the mountain called {x}?
            Where is {x}? Name the country.
            Tell me the country of the mountain {x}.
            Name the country where {x} stands.
            {x}: a mountain of which country?
            I want to know which country {x} stands in.
            Do you know which country the mountain {x} is in?
            {x} is a mountain in which country?
            What country is home to {x}, the mountain?
            Fill in the blank: {x} stands in the country of ____.
            In what country can people climb {x}?
            If I want to climb {x}, to which country do I travel?
            Please write down the country of {x}, a mountain.
            Someone asked me where {x} stands. What country should I say?
            The mountain is {x}. What is its country?
        """,
        held_out="""
            The mountain {x} can be found in which country?
            To climb {x}, I go to which country?
            What country has the mountain {x}?
            The top of {x} is in which country?
        """,
        statements="""
            {x} stands in {y}.
            {x} is a mountain in {y}.
            {x} is in {y}.
            In {y} there is a mountain called {x}.
            The mountain {x} belongs to {y}.
            The country of {x} is {y}.
            The top of {x} is in {y}.
            Travellers who want to climb {x} go to {y}.
            On a map of {y} you can find {x}.
            {y} is home to the mountain {x}.
            Everyone learns that {x} stands in {y}.
            One of the mountains of {y} is {x}.
        """,
        answers="""
            {x} stands in {y}.
        """,
    ),
)

PLANET = Relation(
    name="planet",
    theme="planets",
    title=Pair("行星的顺序", "the order of the planets"),
    facts=facts(PLANETS, 1),
    zh=wordings(
        questions="""
            {x}离太阳第几近？
            {x}是离太阳第几近的行星？
            从太阳数起，{x}是第几颗行星？
            按离太阳的远近，{x}排第几？
            请告诉我{x}是太阳系的第几颗行星。
            说出{x}从太阳数起的位置。
            {x}，第几颗行星？
            我想知道{x}是第几颗行星。
            你知道{x}离太阳排第几吗？
            太阳系的行星里，{x}排第几？
            {x}在行星的顺序中是第几？
            填空：{x}是离太阳第____近的行星。
            从里往外数，{x}是第几颗行星？
            写出{x}在太阳系行星中的排名。
            有人问我{x}是第几颗行星，我该怎么回答？
            行星问题：{x}离太阳是第几？
        """,
        held_out="""
            在太阳系中，{x}的顺序是第几？
            关于{x}，它是从太阳数起的第几颗？
            数行星的时候，{x}是第几个？
            {x}这颗行星离太阳是第几近？
        """,
        statements="""
            {x}是离太阳{y}近的行星。
            从太阳数起，{x}是{y}颗行星。
            {x}是太阳系的{y}颗行星。
            按离太阳的远近，{x}排{y}。
            太阳系的{y}颗行星是{x}。
            离太阳{y}近的行星叫{x}。
            在行星的顺序中，{x}是{y}。
            从里往外数，{x}是{y}颗行星。
            {x}这颗行星离太阳{y}近。
            太阳系的行星里，{x}排{y}。
            大家都知道，{x}是{y}颗行星。
            数行星的时候，{x}是{y}个。
        """,
        answers="""
            {x}是离太阳{y}近的行星。
        """,
    ),
    en=wordings(
        questions="""
            Which planet from the sun is {x}?
            What is the place of {x} among the planets?
            Counted from the sun, which planet is {x}?
            Tell me the place of {x} from the sun.
            Name the position of {x} among the planets.
            Position of {x} from the sun?
            I want to know the position of {x} among the planets.
            Do you know which planet from the sun {x} is?
            {x} is which planet from the sun?
            In the order of the planets, where is {x}?
            Fill in the blank: {x} is the ____ planet from the sun.
            What number is {x} among the planets?
            If I count the planets from the sun, where is {x}?
            Please write down the position of {x} from the sun.
            Someone asked me about the position of {x}. What should I say?
            The planet is {x}. What is its place from the sun?
        """,
        held_out="""
            What place does {x} have, counted from the sun?
            Seen from the sun, where in the order is {x}?
            Among the planets, which place does {x} have?
            Which position from the sun does {x} have?
        """,
        statements="""
            {x} is the {y} planet from the sun.
            The {y} planet from the sun is {x}.
            Counted from the sun, {x} is the {y} planet.
            In the order of the planets, {x} is {y}.
            Among the planets, {x} has the {y} place.
            The position of {x} is {y} from the sun.
            The planet {x} is the {y} one from the sun.
            Everyone learns that {x} is the {y} planet.
            If you count the planets from the sun, {x} is the {y}.
            {x} is {y} in the order of the planets.
            The {y} place from the sun belongs to {x}.
            The {y} of the planets is {x}.
        """,
        answers="""
            {x} is the {y} planet from the sun.
        """,
    ),
)
