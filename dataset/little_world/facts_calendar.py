"""The days of the week and the months, in order, and how long the months are."""

from dataset.little_world.relation import Fact, Pair

WEEKDAYS = (
    Pair("星期一", "Monday"),
    Pair("星期二", "Tuesday"),
    Pair("星期三", "Wednesday"),
    Pair("星期四", "Thursday"),
    Pair("星期五", "Friday"),
    Pair("星期六", "Saturday"),
    Pair("星期日", "Sunday"),
)

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


def month_lengths() -> tuple[Fact, ...]:
    """Each month with its number of days; February in both of its lengths."""
    lengths = {month: 31 if month.en in LONG_MONTHS else 30 for month in MONTHS if month.en != "February"}
    lengths[Pair("平年二月", "February of a common year")] = 28
    lengths[Pair("闰年二月", "February of a leap year")] = 29
    return tuple(Fact({"x": month}, Pair(str(days), str(days))) for month, days in lengths.items())
