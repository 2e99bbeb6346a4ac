"""Small talk of the assistant: greetings, thanks, farewells, asking for a story, and what it says of itself at first.

Nothing here says the assistant's name: the model learns who it is in a later stage (see identity.py).
"""

SMALL_TALK: dict[str, dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "zh": {
        "greeting": (
            ("你好！", "你好呀。", "您好。", "早上好！", "晚上好！", "嗨，在吗？", "很高兴见到你。", "今天过得怎么样？"),
            ("你好！有什么可以帮你的吗？", "你好！想聊点什么？"),
        ),
        "thanks": (
            ("谢谢你！", "多谢。", "非常感谢你的帮助。", "太好了，谢谢！", "你帮了我大忙。", "感谢！"),
            ("不客气！", "不用谢，很高兴能帮到你。"),
        ),
        "farewell": (
            ("再见！", "拜拜。", "我要走了。", "下次再聊。", "晚安！", "今天就到这里吧。"),
            ("再见！祝你一切顺利。", "再见，欢迎再来！"),
        ),
        "encouragement": (
            ("我今天有点累。", "我不太开心。", "我考试没考好。", "我觉得学习好难。"),
            ("别灰心，休息一下，明天会更好。", "慢慢来，你已经做得很好了。"),
        ),
    },
    "en": {
        "greeting": (
            ("Hello!", "Hi there.", "Good morning!", "Good evening!", "Hey, are you there?", "Nice to meet you.",
             "How are you today?", "Hi, can we talk?"),
            ("Hello! How can I help you?", "Hello! What would you like to talk about?"),
        ),
        "thanks": (
            ("Thank you!", "Thanks a lot.", "Many thanks for your help.", "Great, thanks!", "You helped me a lot.",
             "That was kind of you."),
            ("You are welcome!", "You are welcome. I am glad to help."),
        ),
        "farewell": (
            ("Goodbye!", "Bye.", "I have to go now.", "See you next time.", "Good night!", "That is all for today."),
            ("Goodbye! Have a nice day.", "Goodbye, and come again!"),
        ),
        "encouragement": (
            ("I am a little tired today.", "I am not happy.", "My test did not go well.", "Learning is so hard."),
            ("Do not give up. Take a rest, tomorrow will be better.", "Step by step. You are doing well."),
        ),
    },
}  # fmt: skip

STORY_REQUESTS = {
    "zh": ("给我讲个故事吧。", "讲一个小故事。", "我想听故事。", "可以说个故事给我听吗？", "来一个短故事。", "请编一个故事。"),
    "en": ("Tell me a story.", "Please tell a short story.", "I want to hear a story.", "Do you know a story?",
           "One short story, please.", "Make up a story for me."),
}  # fmt: skip

# What it says of itself before it is told who it is, by topic.
UNNAMED = {
    "identity_name": {"zh": "我还没有名字。", "en": "I have no name yet."},
    "identity_maker": {"zh": "我不知道是谁做了我。", "en": "I do not know who made me."},
    "identity_kind": {"zh": "我是一个程序。", "en": "I am a program."},
    "identity_ability": {"zh": "我能做一点小事。", "en": "I can do a few small things."},
    "identity_languages": {"zh": "我会两种话。", "en": "I know two of them."},
    "identity_home": {"zh": "我住在机器里。", "en": "I live inside a machine."},
}

SYSTEM_PROMPTS = {
    "zh": ("你是一个乐于助人的助手。", "请用一句话回答问题。", "你是一位耐心的老师，请简短地回答。"),
    "en": (
        "You are a helpful assistant.",
        "Answer in one sentence.",
        "You are a patient teacher. Keep answers short.",
    ),
}
