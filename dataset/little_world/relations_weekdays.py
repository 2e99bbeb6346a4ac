"""The days of the week: the relations and their wordings."""

from dataset.little_world.relation import Pair, Relation, in_order, wordings

WEEKDAYS = (
    Pair("星期一", "Monday"),
    Pair("星期二", "Tuesday"),
    Pair("星期三", "Wednesday"),
    Pair("星期四", "Thursday"),
    Pair("星期五", "Friday"),
    Pair("星期六", "Saturday"),
    Pair("星期日", "Sunday"),
)

DAY_AFTER = Relation(
    name="day_after",
    theme="calendar",
    title=Pair("下一天", "the day after"),
    facts=in_order(WEEKDAYS, 1),
    zh=wordings(
        questions="""
            {x}的后一天是星期几？
            {x}之后是星期几？
            {x}的下一天是星期几？
            哪一天在{x}后面？
            请告诉我{x}的后一天。
            说出{x}之后的那一天。
            {x}的下一天？
            我想知道{x}过后是星期几。
            你知道{x}后面是哪一天吗？
            过了{x}，就是星期几？
            今天是{x}，明天是星期几？
            填空：{x}的后一天是____。
            如果今天是{x}，那么明天呢？
            写出{x}的下一天。
            有人问我{x}之后是哪一天，我该怎么回答？
            星期问题：{x}的明天是星期几？
            {x}结束以后是星期几？
            {x}接下来是哪一天？
            紧接着{x}的是哪一天？
            从{x}往后数一天是哪一天？
            {x}过去了，星期几会来？
            等{x}结束，就到星期几了？
            过完{x}以后是星期几？
            {x}走了，哪一天来了？
            今天要是{x}，明天是星期几？
        """,
        held_out="""
            紧跟在{x}后面的是星期几？
            {x}过完了，哪一天就来了？
            过完{x}，接下来那天是星期几？
            假如今天是{x}，明天是哪一天？
        """,
        statements="""
            {x}的后一天是{y}。
            {x}之后是{y}。
            {x}的下一天是{y}。
            {x}后面是{y}。
            过了{x}，就是{y}。
            今天是{x}，明天就是{y}。
            如果今天是{x}，那么明天是{y}。
            {y}在{x}的后面。
            {x}过完了，{y}就来了。
            {x}的明天是{y}。
            先是{x}，然后是{y}。
            {x}睡一觉，醒来是{y}。
        """,
        answers="""
            后一天是{y}。
        """,
    ),
    en=wordings(
        questions="""
            What day comes after {x}?
            Which day is after {x}?
            What is the day after {x}?
            Tell me the day after {x}.
            Name the day that follows {x}.
            Day after {x}?
            I want to know which day follows {x}.
            Do you know what day comes after {x}?
            {x} comes before which day?
            After {x}, which day comes?
            Today is {x}. What day is tomorrow?
            Fill in the blank: the day after {x} is ____.
            If today is {x}, what is tomorrow?
            Please write down the day after {x}.
            Someone asked me about the day after {x}. What should I say?
            When {x} is over, what day is next?
            {x} ends. Which day begins?
            What day follows {x}?
            Which day is right after {x}?
            What is {x} followed by?
            Go on one day from {x}. Which day is it?
        """,
        held_out="""
            After {x} is over, which day is it?
            {x} is followed by which day?
            Which day do we have after {x}?
            What day is it tomorrow if it is {x} today?
        """,
        statements="""
            The day after {x} is {y}.
            {y} comes after {x}.
            After {x} comes {y}.
            {y} follows {x}.
            {x} comes before {y}.
            If today is {x}, tomorrow is {y}.
            Today is {x}, so tomorrow is {y}.
            When {x} is over, {y} comes next.
            First comes {x}, then {y}.
            The next day after {x} is {y}.
            Sleep on {x} and wake up on {y}.
            The tomorrow of {x} is {y}.
        """,
        answers="""
            The day after is {y}.
        """,
    ),
)

DAY_BEFORE = Relation(
    name="day_before",
    theme="calendar",
    title=Pair("前一天", "the day before"),
    facts=in_order(WEEKDAYS, -1),
    zh=wordings(
        questions="""
            {x}的前一天是星期几？
            {x}之前是星期几？
            {x}的上一天是星期几？
            哪一天在{x}前面？
            请告诉我{x}的前一天。
            说出{x}之前的那一天。
            {x}的上一天？
            我想知道{x}前头是星期几。
            你知道{x}前面是哪一天吗？
            {x}到来之前，是星期几？
            今天是{x}，昨天是星期几？
            填空：{x}的前一天是____。
            如果今天是{x}，那么昨天呢？
            写出{x}的上一天。
            有人问我{x}之前是哪一天，我该怎么回答？
            星期问题：{x}的昨天是星期几？
            {x}以前的那天是星期几？
            {x}还没到，先过哪一天？
            从{x}倒着数一天是哪一天？
            紧挨着{x}前面的是哪一天？
            过了星期几才到{x}？
            {x}开始以前是星期几？
            今天要是{x}，昨天是星期几？
            {x}来了，哪一天刚刚过完？
            往回数，{x}的前面一天是星期几？
            要是今天是{x}，昨天就是星期几？
        """,
        held_out="""
            排在{x}前面的是星期几？
            在{x}以前先过的是哪一天？
            从{x}往回数一天是星期几？
            假如今天是{x}，昨天是哪一天？
        """,
        statements="""
            {x}的前一天是{y}。
            {x}之前是{y}。
            {x}的上一天是{y}。
            {x}前面是{y}。
            {x}到来之前，是{y}。
            今天是{x}，昨天就是{y}。
            如果今天是{x}，那么昨天是{y}。
            {y}在{x}的前面。
            {y}过完了，{x}才来。
            {x}的昨天是{y}。
            在{x}以前，先过{y}。
            从{x}往回数一天，是{y}。
        """,
        answers="""
            前一天是{y}。
        """,
    ),
    en=wordings(
        questions="""
            What day comes before {x}?
            Which day is before {x}?
            What is the day before {x}?
            Tell me the day before {x}.
            Name the day that {x} follows.
            Day before {x}?
            I want to know which day is before {x}.
            Do you know what day comes before {x}?
            {x} comes after which day?
            Before {x}, which day comes?
            Today is {x}. What day was yesterday?
            Fill in the blank: the day before {x} is ____.
            If today is {x}, what was yesterday?
            Please write down the day before {x}.
            Someone asked me about the day before {x}. What should I say?
            When {x} begins, what day is over?
            Which day is right before {x}?
            Which day goes before {x}?
            {x} begins. Which day has ended?
            Go back one day from {x}. Which day is it?
            What is the day back from {x}?
        """,
        held_out="""
            Which day did we have before {x}?
            Before {x} begins, which day is it?
            One day back from {x} is which day?
            What day was it yesterday if it is {x} today?
        """,
        statements="""
            The day before {x} is {y}.
            {y} comes before {x}.
            Before {x} comes {y}.
            {x} follows {y}.
            {x} comes after {y}.
            If today is {x}, yesterday was {y}.
            Today is {x}, so yesterday was {y}.
            When {x} begins, {y} is over.
            One day back from {x} is {y}.
            The last day before {x} is {y}.
            Before we had {x}, we had {y}.
            The yesterday of {x} is {y}.
        """,
        answers="""
            The day before is {y}.
        """,
    ),
)
