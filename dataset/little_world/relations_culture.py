"""Inventors, years, festivals and authors: the relations and their wordings."""

from dataset.little_world.facts_culture import EVENTS, FESTIVALS, INVENTIONS, WORKS
from dataset.little_world.relation import Pair, Relation, facts, wordings

INVENTOR = Relation(
    name="inventor",
    theme="inventions",
    title=Pair("发明与发明人", "inventions and inventors"),
    facts=facts(INVENTIONS, 1),
    zh=wordings(
        questions="""
            谁发明了{x}？
            {x}是谁发明的？
            {x}的发明人是谁？
            哪位发明家发明了{x}？
            请告诉我{x}是谁的发明。
            说出{x}发明人的名字。
            {x}的发明人？
            我想知道谁是{x}的发明人。
            你知道{x}由谁发明吗？
            发明{x}的人叫什么？
            {x}是哪个人的发明？
            填空：{x}的发明人是____。
            我们有了{x}，要感谢哪位发明家？
            写出发明{x}的人。
            有人问我{x}的发明人是谁，我该怎么回答？
            发明问题：发明是{x}，发明人呢？
        """,
        held_out="""
            {x}的发明家叫什么名字？
            关于{x}，谁把它发明了出来？
            {x}出自哪位发明家之手？
            最早发明{x}的是谁？
        """,
        statements="""
            {y}发明了{x}。
            {x}是{y}发明的。
            {x}的发明人是{y}。
            {x}由{y}发明。
            发明{x}的人是{y}。
            {x}是{y}的发明。
            {y}因为发明{x}而出名。
            我们有了{x}，要感谢{y}。
            最早把{x}发明出来的人是{y}。
            说到{x}，人们会想到发明家{y}。
            发明家{y}给世界带来了{x}。
            大家都知道，{x}的发明人是{y}。
        """,
        answers="""
            {x}的发明人是{y}。
        """,
    ),
    en=wordings(
        questions="""
            Who invented {x}?
            Who is the inventor of {x}?
            Which inventor gave us {x}?
            Tell me the inventor of {x}.
            Name the inventor of {x}.
            Inventor of {x}?
            I want to know who invented {x}.
            Do you know who the inventor of {x} is?
            {x} was invented by whom?
            By whom was {x} invented?
            Fill in the blank: {x} was invented by ____.
            The inventor of {x} is called what?
            For {x}, which inventor do we thank?
            Please write down the inventor of {x}.
            Someone asked me about the inventor of {x}. What should I say?
            The invention is {x}. Who is its inventor?
            Which person made the invention of {x}?
            {x} is an invention. Who is the inventor?
        """,
        held_out="""
            Which inventor is behind {x}?
            Who was the person behind the invention of {x}?
            {x} is the invention of which inventor?
            Whose invention is {x}?
        """,
        statements="""
            {y} invented {x}.
            {x} was invented by {y}.
            The inventor of {x} is {y}.
            The person behind the invention of {x} is {y}.
            {x} is an invention of {y}.
            The world has {x} thanks to {y}.
            For {x}, we thank {y}.
            Everyone learns that {y} invented {x}.
            The name {y} belongs to {x}.
            The invention of {x} is the work of {y}.
            The inventor {y} gave us {x}.
            When people think of {x}, they think of the inventor {y}.
        """,
        answers="""
            The inventor of {x} is {y}.
        """,
    ),
)

EVENT = Relation(
    name="event",
    theme="events",
    title=Pair("历史年份", "years of history"),
    facts=facts(EVENTS, 1),
    zh=wordings(
        questions="""
            {x}是在哪一年？
            {x}发生在哪一年？
            {x}是哪年的事？
            哪一年发生了{x}？
            请告诉我{x}的年份。
            说出{x}是哪一年。
            {x}的年份？
            我想知道{x}在哪一年。
            你知道{x}是哪一年的事吗？
            历史上，{x}是在什么年份？
            {x}这件事发生在什么时候？说年份。
            填空：{x}的年份是____年。
            历史书上，{x}写在哪一年？
            写出{x}发生的年份。
            有人问我{x}是哪年，我该怎么回答？
            年份问题：事件是{x}，年份呢？
        """,
        held_out="""
            {x}的年份是什么？
            关于{x}，它是哪一年的历史？
            哪一年的大事是{x}？
            哪个年份有{x}这件事？
        """,
        statements="""
            {x}是在 {y} 年。
            {x}发生在 {y} 年。
            {x}是 {y} 年的事。
            {y} 年发生了{x}。
            {x}的年份是 {y} 年。
            历史上，{x}是在 {y} 年。
            历史书上写着：{y} 年，{x}。
            {x}这件事发生在 {y} 年。
            说到 {y} 年，人们会想到{x}。
            {y} 年的大事是{x}。
            时间来到 {y} 年，世界记住了{x}。
            大家都知道，{x}是在 {y} 年。
        """,
        answers="""
            {x}是在 {y} 年。
        """,
    ),
    en=wordings(
        questions="""
            In which year was {x}?
            What is the year of {x}?
            When was {x}?
            Tell me the year of {x}.
            Name the year of {x}.
            Year of {x}?
            I want to know the year of {x}.
            Do you know what the year of {x} is?
            {x} was in which year?
            In history, which year had {x}?
            Fill in the blank: {x} was in the year ____.
            {x} happened in what year?
            Which year do people remember for {x}?
            Please write down the year of {x}.
            Someone asked me about the year of {x}. What should I say?
            The event is {x}. What is its year?
        """,
        held_out="""
            What year do history books write for {x}?
            {x} belongs to what year?
            Which year saw {x}?
            For {x}, which year is right?
        """,
        statements="""
            {x} was in {y}.
            {x} happened in {y}.
            The year of {x} is {y}.
            In {y} came {x}.
            The year {y} saw {x}.
            In history, {x} was in {y}.
            People remember {y} for {x}.
            The great event of {y} was {x}.
            Everyone learns that {x} was in {y}.
            History books write {y} beside {x}.
            It was the year {y} that had {x}.
            {y} is the year of {x}.
        """,
        answers="""
            {x} was in {y}.
        """,
    ),
)

FESTIVAL = Relation(
    name="festival",
    theme="festivals",
    title=Pair("节日的月份", "festivals of the year"),
    facts=facts(FESTIVALS, 1),
    zh=wordings(
        questions="""
            {x}在几月？
            {x}在哪个月？
            {x}是几月的节日？
            哪个月有{x}？
            请告诉我{x}在几月份。
            说出{x}的月份。
            {x}，几月？
            我想知道{x}在哪个月份。
            你知道{x}是哪个月的节日吗？
            人们在几月过{x}？
            {x}这个节日在哪个月？
            填空：{x}的月份是____。
            要过{x}，得等到几月？
            写出{x}所在的月份。
            有人问我{x}是几月，我该怎么回答？
            节日问题：节日是{x}，月份呢？
        """,
        held_out="""
            {x}的月份是哪个？
            关于{x}，人们哪个月过这个节日？
            每年几月人们迎来{x}？
            到了几月就能过{x}？
        """,
        statements="""
            {x}在{y}。
            {x}是{y}的节日。
            {y}有{x}。
            人们在{y}过{x}。
            {x}的月份是{y}。
            到了{y}，就能过{x}。
            要过{x}，得等到{y}。
            {x}这个节日在{y}。
            每年{y}，人们迎来{x}。
            {y}的节日里有{x}。
            说到{y}，人们会想到{x}。
            大家都知道，{x}在{y}。
        """,
        answers="""
            {x}在{y}。
        """,
    ),
    en=wordings(
        questions="""
            In which month is {x}?
            What is the month of {x}?
            Which month has {x}?
            Tell me the month of {x}.
            Name the month of {x}.
            Month of {x}?
            I want to know the month of {x}.
            Do you know what month {x} is in?
            {x} is in which month?
            During which month do people celebrate {x}?
            Fill in the blank: the month of {x} is ____.
            {x} comes in what month?
            If I want to celebrate {x}, for which month do I wait?
            Please write down the month of {x}.
            Someone asked me about the month of {x}. What should I say?
            The festival is {x}. What is its month?
        """,
        held_out="""
            What month is {x} in?
            {x} belongs to which month?
            People wait for what month to celebrate {x}?
            For {x}, which month is right?
        """,
        statements="""
            {x} is in {y}.
            The month of {x} is {y}.
            People celebrate {x} in {y}.
            {y} is the month of {x}.
            {x} comes in {y}.
            The festival {x} belongs to {y}.
            In {y} there is {x}.
            When {y} comes, people think of {x}.
            Everyone learns that {x} is in {y}.
            Those who want to celebrate {x} wait for {y}.
            Each {y} has {x}.
            Every year in {y} comes {x}.
        """,
        answers="""
            {x} is in {y}.
        """,
    ),
)

AUTHOR = Relation(
    name="author",
    theme="books",
    title=Pair("作品与作者", "books and authors"),
    facts=facts(WORKS, 1),
    zh=wordings(
        questions="""
            {x}的作者是谁？
            {x}是谁写的？
            谁写了{x}？
            哪位作者写了{x}？
            请告诉我{x}的作者。
            说出{x}作者的名字。
            {x}作者？
            我想知道谁是{x}的作者。
            你知道{x}由谁所写吗？
            写{x}的人叫什么？
            {x}是哪位作家的作品？
            填空：{x}的作者是____。
            读{x}的时候，读的是谁的作品？
            写出{x}的作者。
            有人问我{x}的作者是谁，我该怎么回答？
            作者问题：作品是{x}，作者呢？
        """,
        held_out="""
            {x}的作者叫什么名字？
            关于{x}，它是谁的作品？
            哪位作家留下了{x}？
            {x}出自哪位作家？
        """,
        statements="""
            {x}的作者是{y}。
            {x}是{y}写的。
            {y}写了{x}。
            {y}是{x}的作者。
            {x}是{y}的作品。
            写{x}的人是{y}。
            {x}出自{y}的笔下。
            读{x}的时候，读的是{y}的作品。
            作家{y}为我们留下了{x}。
            {y}因为写了{x}而出名。
            说到{x}，人们会想到{y}。
            大家都知道，{x}的作者是{y}。
        """,
        answers="""
            {x}的作者是{y}。
        """,
    ),
    en=wordings(
        questions="""
            Who wrote {x}?
            Who is the author of {x}?
            Which author wrote {x}?
            Tell me the author of {x}.
            Name the author of {x}.
            Author of {x}?
            I want to know who wrote {x}.
            Do you know who the author of {x} is?
            {x} was written by whom?
            By whom was {x} written?
            Fill in the blank: {x} was written by ____.
            The author of {x} is called what?
            When I read {x}, which author do I read?
            Please write down the author of {x}.
            Someone asked me about the author of {x}. What should I say?
            The work is {x}. Who is its author?
        """,
        held_out="""
            {x} is the work of which author?
            Whose work is {x}?
            Which name stands on the work {x} as its author?
            Which author do we thank for {x}?
        """,
        statements="""
            {y} wrote {x}.
            {x} was written by {y}.
            The author of {x} is {y}.
            {y} is the author of {x}.
            {x} is a work of {y}.
            The person who wrote {x} is {y}.
            Those who read {x} read {y}.
            Everyone learns that {y} wrote {x}.
            For {x}, readers thank {y}.
            The author {y} gave us {x}.
            The name {y} stands on the book {x}.
            When people think of {x}, they think of {y}.
        """,
        answers="""
            The author of {x} is {y}.
        """,
    ),
)
