"""The months and their lengths: the relations and their wordings."""

from dataset.little_world.relation import Fact, Pair, Relation, in_order, wordings

MONTHS = (
    Pair("一月", "January"),
    Pair("二月", "February"),
    Pair("三月", "March"),
    Pair("四月", "April"),
    Pair("五月", "May"),
    Pair("六月", "June"),
    Pair("七月", "July"),
    Pair("八月", "August"),
    Pair("九月", "September"),
    Pair("十月", "October"),
    Pair("十一月", "November"),
    Pair("十二月", "December"),
)

LONG_MONTHS = ("January", "March", "May", "July", "August", "October", "December")


def _month_lengths() -> tuple[Fact, ...]:
    lengths = {month: 31 if month.en in LONG_MONTHS else 30 for month in MONTHS if month.en != "February"}
    lengths[Pair("平年二月", "February of a common year")] = 28
    lengths[Pair("闰年二月", "February of a leap year")] = 29
    return tuple(Fact({"x": month}, Pair(str(days), str(days))) for month, days in lengths.items())


MONTH_AFTER = Relation(
    name="month_after",
    theme="calendar",
    title=Pair("下一个月", "the month after"),
    facts=in_order(MONTHS, 1),
    zh=wordings(
        questions="""
            {x}的下一个月是几月？
            {x}之后是几月？
            {x}后面是哪个月？
            哪个月在{x}后面？
            请告诉我{x}的下一个月。
            说出{x}之后的那个月。
            {x}的下个月？
            我想知道{x}过后是几月。
            你知道{x}后面是几月吗？
            过了{x}，就是几月？
            这个月是{x}，下个月是几月？
            填空：{x}的下一个月是____。
            如果现在是{x}，那么下个月呢？
            写出{x}的下一个月。
            有人问我{x}之后是哪个月，我该怎么回答？
            月份问题：{x}的下个月是几月？
            {x}结束以后是几月？
            {x}接下来是哪个月？
            紧接着{x}的是哪个月？
            从{x}往后数一个月是几月？
            {x}过去了，几月会来？
            日历上{x}后面写着几月？
            {x}一结束，哪个月就来了？
        """,
        held_out="""
            紧跟在{x}后面的是几月？
            {x}过后的那个月是几月？
            在日历上，{x}接下来是几月？
            等{x}结束，几月就开始了？
        """,
        statements="""
            {x}的下一个月是{y}。
            {x}之后是{y}。
            {x}后面是{y}。
            {y}在{x}的后面。
            过了{x}，就是{y}。
            这个月是{x}，下个月就是{y}。
            如果现在是{x}，那么下个月是{y}。
            {x}的下个月是{y}。
            {x}过完了，{y}就来了。
            先是{x}，然后是{y}。
            日历从{x}翻到{y}。
            等{x}结束，{y}就开始了。
        """,
        answers="""
            下一个月是{y}。
        """,
    ),
    en=wordings(
        questions="""
            What month comes after {x}?
            Which month is after {x}?
            What is the month after {x}?
            Tell me the month after {x}.
            Name the month that follows {x}.
            Month after {x}?
            I want to know which month follows {x}.
            Do you know what month comes after {x}?
            {x} comes before which month?
            After {x}, which month comes?
            This month is {x}. What is next month?
            Fill in the blank: the month after {x} is ____.
            If it is {x} now, what is next month?
            Please write down the month after {x}.
            Someone asked me about the month after {x}. What should I say?
            When {x} is over, what month is next?
            {x} ends. Which month begins?
            What month follows {x}?
            Which month is right after {x}?
            What is the month {x} followed by?
            {x} is over. Which month follows?
            By what month is {x} followed?
        """,
        held_out="""
            After {x} is over, which month is it?
            {x} is followed by which month?
            Which month do we have after {x}?
            What month is it next if it is {x} now?
        """,
        statements="""
            The month after {x} is {y}.
            {y} comes after {x}.
            After {x} comes {y}.
            {y} follows {x}.
            {x} comes before {y}.
            If this month is {x}, next month is {y}.
            It is {x} now, so next month is {y}.
            When {x} is over, {y} comes next.
            First comes {x}, then {y}.
            The next month after {x} is {y}.
            The calendar turns from {x} to {y}.
            {y} begins when {x} ends.
        """,
        answers="""
            The month after is {y}.
        """,
    ),
)

MONTH_LENGTH = Relation(
    name="month_length",
    theme="calendar",
    title=Pair("月份的天数", "the length of the months"),
    facts=_month_lengths(),
    zh=wordings(
        questions="""
            {x}有多少天？
            {x}有几天？
            {x}一共有多少天？
            {x}的天数是多少？
            请告诉我{x}有多少天。
            说出{x}的天数。
            {x}的天数？
            我想知道{x}有几天。
            你知道{x}有多少天吗？
            日历上，{x}有几天？
            {x}这个月有多少天？
            填空：{x}有____天。
            从头到尾，{x}有几天？
            写出{x}的天数。
            有人问我{x}有几天，我该怎么回答？
            天数问题：月份是{x}，天数呢？
            {x}要多少天才过完？
            从{x}开始到结束有多少天？
            日历上{x}写着多少天？
            {x}过几天就结束？
        """,
        held_out="""
            日历给{x}的天数写着几天？
            关于{x}，它的天数是几天？
            {x}过了多少天才结束？
            过完{x}要多少天？
        """,
        statements="""
            {x}有 {y} 天。
            {x}一共有 {y} 天。
            {x}的天数是 {y} 天。
            {x}这个月有 {y} 天。
            日历上，{x}有 {y} 天。
            从头到尾，{x}有 {y} 天。
            过完{x}要 {y} 天。
            数一数，{x}有 {y} 天。
            有 {y} 天的月份里有{x}。
            {x}过了 {y} 天才结束。
            在{x}里，最后一天是 {y} 号。
            大家都知道，{x}有 {y} 天。
        """,
        answers="""
            {x}有 {y} 天。
        """,
    ),
    en=wordings(
        questions="""
            How many days does {x} have?
            How many days are in {x}?
            What is the number of days in {x}?
            Tell me the number of days in {x}.
            Name the number of days of {x}.
            Days in {x}?
            I want to know how many days {x} has.
            Do you know how many days there are in {x}?
            {x} has how many days?
            In {x}, how many days are there?
            Fill in the blank: {x} has ____ days.
            How long is {x} in days?
            If I count the days of {x}, how many do I get?
            Please write down the number of days in {x}.
            Someone asked me how many days {x} has. What should I say?
            The month is {x}. How many days does it have?
        """,
        held_out="""
            How many days are over when {x} ends?
            On the calendar, {x} is how many days long?
            How many days can I count in {x}?
            It takes how many days until {x} is over?
        """,
        statements="""
            {x} has {y} days.
            There are {y} days in {x}.
            The number of days in {x} is {y}.
            {x} is {y} days long.
            If you count the days of {x}, you get {y}.
            In {x} there are {y} days.
            On the calendar, {x} has {y} days.
            The length of {x} is {y} days.
            Everyone learns that {x} has {y} days.
            It takes {y} days until {x} is over.
            The last day of {x} has the number {y}.
            A month of {y} days is {x}.
        """,
        answers="""
            {x} has {y} days.
        """,
    ),
)
