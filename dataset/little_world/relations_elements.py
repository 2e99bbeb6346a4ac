"""Symbol and atomic number of an element: the relations and their wordings."""

from dataset.little_world.facts_nature import ELEMENTS
from dataset.little_world.relation import Pair, Relation, facts, wordings

SYMBOL = Relation(
    name="symbol",
    theme="elements",
    title=Pair("元素符号", "symbols of the elements"),
    facts=facts(ELEMENTS, 1),
    zh=wordings(
        questions="""
            {x}的元素符号是什么？
            {x}用什么符号表示？
            {x}元素的符号是哪个？
            哪个符号表示{x}？
            请告诉我{x}的元素符号。
            说出{x}元素的符号。
            {x}元素符号？
            我想知道{x}的符号是什么。
            你知道{x}的化学符号吗？
            化学里{x}写成什么符号？
            {x}这种元素的符号是什么？
            填空：{x}的元素符号是____。
            在元素表里，{x}的符号是什么？
            写出{x}的化学符号。
            有人问我{x}的符号怎么写，我该怎么回答？
            符号问题：元素是{x}，符号呢？
            化学里怎么写{x}？
            用什么化学符号来表示{x}？
        """,
        held_out="""
            {x}的化学符号是什么？
            关于{x}这种元素，它的符号怎么写？
            看到什么符号，就知道是{x}？
            {x}在化学里用哪个符号表示？
        """,
        statements="""
            {x}的元素符号是 {y}。
            {x}的化学符号是 {y}。
            {x}用符号 {y} 表示。
            符号 {y} 表示{x}。
            化学里{x}写成 {y}。
            {x}这种元素的符号是 {y}。
            元素符号 {y} 就是{x}。
            在元素表里，{x}的符号是 {y}。
            {x}元素的符号写成 {y}。
            看到符号 {y}，就知道是{x}。
            老师用 {y} 来表示{x}。
            大家都知道，{x}的符号是 {y}。
        """,
        answers="""
            {x}的元素符号是 {y}。
        """,
    ),
    en=wordings(
        questions="""
            What is the symbol of {x}?
            What is the chemical symbol for {x}?
            Which symbol stands for {x}?
            Tell me the symbol of {x}.
            Name the chemical symbol of {x}.
            Symbol of {x}?
            I want to know the symbol of {x}.
            Do you know what the symbol of {x} is?
            {x} has which symbol?
            In chemistry, which symbol do people use for {x}?
            Fill in the blank: the symbol of {x} is ____.
            The symbol of {x} is written how?
            How do you write {x} as a symbol?
            Please write down the symbol for {x}.
            Someone asked me about the symbol of {x}. What should I say?
            The element is {x}. What is its symbol?
        """,
        held_out="""
            Which symbol does {x} have?
            Which letters are the symbol for {x}?
            What symbol do people write for {x}?
            For {x}, which chemical symbol is used?
        """,
        statements="""
            The symbol of {x} is {y}.
            The chemical symbol for {x} is {y}.
            {y} is the symbol of {x}.
            The symbol {y} stands for {x}.
            {x} has the symbol {y}.
            In chemistry, {x} is written {y}.
            The element {x} has the symbol {y}.
            People write {x} as {y}.
            Everyone learns that the symbol of {x} is {y}.
            In the table of elements, {x} is {y}.
            For {x}, chemists use the symbol {y}.
            The letters for {x} are written {y}.
        """,
        answers="""
            The symbol of {x} is {y}.
        """,
    ),
)

ATOMIC_NUMBER = Relation(
    name="atomic_number",
    theme="elements",
    title=Pair("原子序数", "atomic numbers"),
    facts=facts(ELEMENTS, 2),
    zh=wordings(
        questions="""
            {x}的原子序数是多少？
            {x}是第几号元素？
            {x}元素的原子序数是几？
            原子序数是多少的元素叫{x}？
            请告诉我{x}的原子序数。
            说出{x}元素的原子序数。
            {x}原子序数？
            我想知道{x}的原子序数是多少。
            你知道{x}的原子序数吗？
            在元素表里，{x}排在第几号？
            {x}这种元素的原子序数是什么？
            填空：{x}的原子序数是____。
            {x}的原子里有多少个质子？
            写出{x}的原子序数。
            有人问我{x}是几号元素，我该怎么回答？
            原子序数问题：元素是{x}，序数呢？
        """,
        held_out="""
            元素{x}排几号，原子序数多少？
            关于{x}这种元素，原子序数是哪个数？
            查元素表，{x}的原子序数写着几？
            从质子看，{x}的原子序数有多少？
        """,
        statements="""
            {x}的原子序数是 {y}。
            {x}是 {y} 号元素。
            {x}元素的原子序数是 {y}。
            原子序数是 {y} 的元素叫{x}。
            {y} 号元素是{x}。
            在元素表里，{x}排在 {y} 号。
            {x}的原子里有 {y} 个质子。
            {x}这种元素的原子序数是 {y}。
            有 {y} 个质子的元素是{x}。
            数到 {y} 号，就是{x}。
            元素表的 {y} 号是{x}。
            大家都知道，{x}的原子序数是 {y}。
        """,
        answers="""
            {x}的原子序数是 {y}。
        """,
    ),
    en=wordings(
        questions="""
            What is the atomic number of {x}?
            What is {x}'s atomic number?
            Which atomic number does {x} have?
            Tell me the atomic number of {x}.
            Name the atomic number of {x}.
            Atomic number of {x}?
            I want to know the atomic number of {x}.
            Do you know what the atomic number of {x} is?
            {x} has which atomic number?
            In the table of elements, what number is {x}?
            Fill in the blank: the atomic number of {x} is ____.
            How many protons does {x} have?
            How many protons are in one atom of {x}?
            Please write down the atomic number of {x}.
            Someone asked me about the atomic number of {x}. What should I say?
            The element is {x}. What is its atomic number?
            {x} is an element. Which number does it have?
            The element {x} stands at which atomic number?
            {x} is the element that has which number?
        """,
        held_out="""
            What atomic number belongs to {x}?
            {x} is the element with which atomic number?
            At which atomic number do we find {x}?
            If I look for {x}, which atomic number do I find?
        """,
        statements="""
            The atomic number of {x} is {y}.
            {x}'s atomic number is {y}.
            {x} has the atomic number {y}.
            {x} is element number {y}.
            Element number {y} is {x}.
            One atom of {x} has {y} protons.
            The element with {y} protons is {x}.
            In the table of elements, {x} is number {y}.
            The element {x} has the number {y}.
            Everyone learns that the atomic number of {x} is {y}.
            The number {y} belongs to {x}.
            In chemistry, {x} has the atomic number {y}.
        """,
        answers="""
            The atomic number of {x} is {y}.
        """,
    ),
)
