"""Sums and differences within 20: facts that follow a rule, and their wordings."""

from dataset.little_world.relation import Fact, Pair, Relation, wordings


def _number(value: int) -> Pair:
    return Pair(str(value), str(value))


# What a first-grader learns by heart: the sums of two numbers up to 10, the larger first, and the differences that
# undo them.
PAIRS = [(a, b) for a in range(1, 11) for b in range(1, a + 1)]
SUMS = tuple(Fact({"a": _number(a), "b": _number(b)}, _number(a + b)) for a, b in PAIRS)
DIFFERENCES = tuple(Fact({"a": _number(a + b), "b": _number(b)}, _number(a)) for a, b in PAIRS)

# The answers name no operand: an answer that holds 7, 8 and 15 would not say which of them it means.
ADDITION = Relation(
    name="addition",
    theme="sums",
    title=Pair("加法", "addition"),
    facts=SUMS,
    zh=wordings(
        questions="""
            {a} 加 {b} 等于几？
            {a} 加上 {b} 是多少？
            {a} 与 {b} 的和是几？
            算式 {a} + {b} = ? 得几？
            请算一算 {a} 加 {b}。
            说出 {a} 与 {b} 的和。
            {a} 加 {b}？
            我想知道 {a} 加 {b} 的得数。
            你知道 {a} + {b} 等于多少吗？
            把 {a} 和 {b} 加起来，得多少？
            有 {a} 个苹果，又来了 {b} 个，加起来几个？
            填空：{a} + {b} = ____。
            加法题：{a} 加 {b} 得几？
            写出 {a} + {b} 的得数。
            有人问我 {a} 加 {b} 是几，我该怎么回答？
            先有 {a}，再加 {b}，一共是多少？
            {a} 和 {b} 合起来是多少？
            算算 {a} + {b} 是几。
            {a} 与 {b} 合在一起，得数是多少？
        """,
        held_out="""
            {a} 和 {b} 相加是多少？
            算一下 {a} + {b} 得多少？
            先有 {a}，又来了 {b}，得数是几？
            {a} 与 {b} 加起来的得数是几？
        """,
        statements="""
            {a} 加 {b} 等于 {y}。
            {a} + {b} = {y}。
            {a} 加上 {b} 是 {y}。
            {a} 与 {b} 的和是 {y}。
            把 {a} 和 {b} 加起来，得 {y}。
            先有 {a}，再加 {b}，一共是 {y}。
            {y} 等于 {a} 加 {b}。
            有 {a} 个苹果，又来了 {b} 个，加起来是 {y} 个。
            {a} 加 {b} 的得数是 {y}。
            算一算，{a} + {b} 得 {y}。
            {y} 可以分成 {a} 和 {b}。
            黑板上写着 {a} + {b} = {y}。
        """,
        answers="""
            得数是 {y}。
        """,
    ),
    en=wordings(
        questions="""
            What is {a} plus {b}?
            How much is {a} plus {b}?
            What is the sum of {a} and {b}?
            {a} + {b} = what?
            Tell me the sum of {a} and {b}.
            Add {a} and {b}.
            {a} plus {b}?
            I want to know how much {a} + {b} is.
            Do you know the sum of {a} and {b}?
            {a} plus {b} makes what?
            I have {a} apples and get {b} more. How many apples in the sum?
            Fill in the blank: {a} + {b} = ____.
            If I add {b} to {a}, what do I get?
            Please write down {a} plus {b}.
            Someone asked me to add {a} and {b}. What should I say?
            First {a}, then plus {b}: how many?
            What number do {a} and {b} make?
            Find the sum: {a} + {b}.
            {a} and {b} more make how many?
        """,
        held_out="""
            How much do I get if I add {a} and {b}?
            {a} and {b} more: how much is the sum?
            {a} + {b} makes how many?
            Which number is the sum if I add {a} and {b}?
        """,
        statements="""
            {a} plus {b} is {y}.
            {a} + {b} = {y}.
            {a} plus {b} makes {y}.
            The sum of {a} and {b} is {y}.
            If you add {a} and {b}, you get {y}.
            Add {b} to {a} and you get {y}.
            {y} is the sum of {a} and {b}.
            First {a}, then plus {b}: that is {y}.
            With {a} apples and {b} more, there are {y} apples.
            The teacher wrote {a} + {b} = {y}.
            {y} can be made of {a} and {b}.
            How much {a} plus {b} is, we know: {y}.
        """,
        answers="""
            The sum is {y}.
        """,
    ),
)

SUBTRACTION = Relation(
    name="subtraction",
    theme="sums",
    title=Pair("减法", "subtraction"),
    facts=DIFFERENCES,
    zh=wordings(
        questions="""
            {a} 减 {b} 等于几？
            {a} 减去 {b} 是多少？
            {a} 与 {b} 的差是几？
            算式 {a} - {b} = ? 得几？
            请算一算 {a} 减 {b}。
            说出 {a} 与 {b} 的差。
            {a} 减 {b}？
            我想知道 {a} 减 {b} 的得数。
            你知道 {a} - {b} 等于多少吗？
            从 {a} 里减掉 {b}，得多少？
            有 {a} 个苹果，吃了 {b} 个，还剩几个？
            填空：{a} - {b} = ____。
            减法题：{a} 减 {b} 得几？
            写出 {a} - {b} 的得数。
            有人问我 {a} 减 {b} 是几，我该怎么回答？
            先有 {a}，减掉 {b}，还剩多少？
            {a} 拿走 {b}，得几？
            算算 {a} - {b} 是几。
            {a} 里去掉 {b}，剩几？
            从 {a} 里减 {b}，得多少？
            {a} 少掉 {b} 是几？
            把 {b} 从 {a} 里去掉，得几？
        """,
        held_out="""
            {a} 减掉 {b} 等于多少？
            算一下 {a} - {b} 得多少？
            {a} 去掉 {b}，得数是多少？
            从 {a} 里减去 {b} 的得数是几？
        """,
        statements="""
            {a} 减 {b} 等于 {y}。
            {a} - {b} = {y}。
            {a} 减去 {b} 是 {y}。
            {a} 与 {b} 的差是 {y}。
            从 {a} 里减掉 {b}，得 {y}。
            先有 {a}，减掉 {b}，还剩 {y}。
            {y} 等于 {a} 减 {b}。
            有 {a} 个苹果，吃了 {b} 个，还剩 {y} 个。
            {a} 减 {b} 的得数是 {y}。
            算一算，{a} - {b} 得 {y}。
            {a} 去掉 {b}，剩下 {y}。
            黑板上写着 {a} - {b} = {y}。
        """,
        answers="""
            得数是 {y}。
        """,
    ),
    en=wordings(
        questions="""
            What is {a} minus {b}?
            How much is {a} minus {b}?
            What is the difference between {a} and {b}?
            {a} - {b} = what?
            Tell me the difference between {a} and {b}.
            Take {b} from {a}.
            {a} minus {b}?
            I want to know how much {a} - {b} is.
            Do you know the difference between {a} and {b}?
            {a} minus {b} leaves what?
            I have {a} apples and eat {b} of them. How many are left?
            Fill in the blank: {a} - {b} = ____.
            If I take {b} from {a}, what is left?
            Please write down {a} minus {b}.
            Someone asked me to take {b} from {a}. What should I say?
            First {a}, then minus {b}: how many?
            Find the difference: {a} - {b}.
            What is left of {a} without {b}?
            Take {b} from {a}. What is left?
            If {b} is taken from {a}, how much stays?
            {a} take away {b} is what?
            What is left over if {b} goes away from {a}?
        """,
        held_out="""
            How much is left if I take {b} from {a}?
            {a} take away {b}: how much is the difference?
            {a} - {b} leaves how many?
            Which number is the difference if I take {b} from {a}?
        """,
        statements="""
            {a} minus {b} is {y}.
            {a} - {b} = {y}.
            {a} minus {b} leaves {y}.
            The difference between {a} and {b} is {y}.
            If you take {b} from {a}, you get {y}.
            Take {b} from {a} and {y} is left.
            {y} is the difference between {a} and {b}.
            First {a}, then minus {b}: that is {y}.
            With {a} apples and {b} eaten, {y} apples are left.
            The teacher wrote {a} - {b} = {y}.
            From {a} take away {b}, and {y} is left.
            How much {a} minus {b} is, we know: {y}.
        """,
        answers="""
            The difference is {y}.
        """,
    ),
)
