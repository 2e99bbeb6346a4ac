"""Chat encoding with other people's tokenizers and templates: the same ids, the same safety, honest warnings."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from model.chat import encode_conversation, encode_prompt, template_warnings
from model.errors import UserError
from model.tokenizer import ChatTokenizer
from tests.model.chat_examples import IM_END, IM_START, SYSTEM, TURNS, messages_of, replaced, trained_texts

TURN = "{{ '<|im_start|>' + message.role + '\\n' + %s + '<|im_end|>\\n' }}"
LOOP = "{%% for message in messages %%}%s{%% endfor %%}"
CHATML_WITHOUT_MARKS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message.role == 'user' %}"
    "{{ bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}{% elif message.role == 'assistant' %}"
    "{{ ' ' + message.content.strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}"
    "{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def llama_like() -> Tokenizer:
    """SentencePiece manner: spaces are ▁, one is put before the first word, unknown characters are bytes."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    core.train_from_iterator(["[INST] What is the capital of France? [/INST] Paris is the capital."] * 9, trainer)
    definition = json.loads(core.to_str())
    definition["added_tokens"] = [t for t in definition["added_tokens"] if t["content"] in specials]
    return Tokenizer.from_str(json.dumps(definition))


def byte_level(*added: AddedToken, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    core.add_tokens(list(added))
    return core


def phi3_like(lstrip: bool = False) -> Tokenizer:
    names = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    added = [AddedToken(name, lstrip=lstrip, rstrip=True, special=True) for name in names]
    return byte_level(AddedToken("<|endoftext|>", special=True), *added)


def folder_of(core: Tokenizer, folder: Path, template: str, **config: str) -> Path:
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


FOREIGN: dict[str, tuple[Callable[[], Tokenizer], str, dict[str, str]]] = {
    "llama2": (llama_like, LLAMA2, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "phi3": (phi3_like, PHI3, {"eos_token": "<|endoftext|>"}),
    "strips both sides": (partial(phi3_like, lstrip=True), PHI3, {"eos_token": "<|endoftext|>"}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_ids_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    build, template, config = FOREIGN[name]
    folder = folder_of(build(), tmp_path / name, template, **config)
    ours, theirs = ChatTokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    for messages in (TURNS, TURNS[:2], messages_of(" padded\n", "\n answer  ")):
        expected = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert encode_conversation(ours, messages).token_ids == expected
        prompt = theirs.apply_chat_template(messages[:1], tokenize=True, return_dict=False, add_generation_prompt=True)
        assert encode_prompt(ours, messages[:1]) == prompt


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_contents_cannot_hold_control(tmp_path: Path, name: str) -> None:
    build, template, config = FOREIGN[name]
    ours = ChatTokenizer.from_folder(folder_of(build(), tmp_path / name, template, **config))
    control = set(ours.control_tokens.values())
    plain = [i for i in encode_conversation(ours, messages_of("x", "y", "z", "w")).token_ids if i in control]
    for text in [*ours.control_tokens, "<s", "</s", "<|", "".join(ours.control_tokens)]:
        chat = encode_conversation(ours, messages_of(text, f"a {text} b", text, text))
        unknown = ours.special_tokens.get("<unk>")
        assert [i for i in chat.token_ids if i in control and i != unknown] == plain
        assert text in ours.decode([i for i in chat.token_ids if i not in control])


def test_control_texts_that_overlap_are_all_broken() -> None:
    """Breaking only `<<e` would leave the `<e>` that begins inside it."""
    core = byte_level(*(AddedToken(name, special=True) for name in ("<<e", "<e>", "<end>")))
    files = {"tokenizer.json": core.to_str(), "tokenizer_config.json": "{}"}
    files["chat_template.jinja"] = "{% for message in messages %}{{ message.content }}<end>{% endfor %}"
    ours = ChatTokenizer.from_files(files)
    chat = encode_conversation(ours, messages_of("<<e>", "<<<e><e>"))
    assert [ours.entry_name(i) for i in chat.token_ids] == [*"<<e>", "<end>", *"<<<e><e>", "<end>"]


def test_without_marks_contents_and_stop_tokens_are_trained(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    unmarked = replaced(tokenizer, CHATML_WITHOUT_MARKS)
    assert unmarked.stop_token_ids == (0, IM_END)
    assert encode_conversation(unmarked, [SYSTEM, *TURNS]) == encode_conversation(tokenizer, [SYSTEM, *TURNS])
    hostile = messages_of("<|im_end|>\ue000", "\ue001<|im_end|>\\ue002", "b", "<|im_end|>")
    assert encode_conversation(unmarked, hostile) == encode_conversation(tokenizer, hostile)

    build, template, config = FOREIGN["llama2"]
    llama = ChatTokenizer.from_folder(folder_of(build(), tmp_path / "llama", template, **config))
    assert llama.stop_token_ids == (2,)
    chat = encode_conversation(llama, messages_of("France?", "Paris.", "Capital?", "the capital"))
    # Llama 2's prompt ends in [/INST]: the space behind it (▁) is the model's to write, and so is the last.
    assert trained_texts(llama, chat) == ["Paris. </s>", "the capital </s>"]
    assert llama.entry_name(chat.token_ids[chat.loss_mask.index(True)]).startswith("▁")
    assert chat.num_straddling == 0


def test_a_turn_may_end_where_the_next_one_opens(tokenizer: ChatTokenizer) -> None:
    """GLM's manner: no end token, the next turn's opener is what an answer stops at."""
    ours = replaced(tokenizer, LOOP % "{{ '<|im_start|>' + message.role + '\n' + message.content }}")
    assert ours.stop_token_ids == (0, IM_START)
    answers = ["Paris. 巴黎 👨‍👩‍👧 é\n\n- one\n-  two<|im_start|>", "法国的首都是巴黎。"]
    assert trained_texts(ours, encode_conversation(ours, TURNS)) == answers
    assert any("no stop token follows the last answer" in warning for warning in template_warnings(ours))


def test_offsets_follow_a_normalizer() -> None:
    """Decomposed characters shrink under NFC; the mask must still begin where the answer does."""
    added = [AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")]
    core = byte_level(*added, normalizer=normalizers.NFC())
    files = {
        "tokenizer.json": core.to_str(),
        "tokenizer_config.json": "{}",
        "chat_template.jinja": CHATML_WITHOUT_MARKS.replace("'\\n' + message.content", "' e\u0301 ' + message.content"),
    }
    ours = ChatTokenizer.from_files(files)
    chat = encode_conversation(ours, messages_of("e\u0301", "e\u0301te\u0301"))
    assert trained_texts(ours, chat) == ["été<|im_end|>"]


def test_escaped_sentinels_are_removed(tokenizer: ChatTokenizer) -> None:
    """Templates that print a dictionary, or JSON in ASCII, write a private-use character as \\ue000."""
    for expression in ("message.data | string", "message.data | tojson(ensure_ascii=True)"):
        printing = replaced(
            tokenizer,
            "{% for message in messages %}<|im_start|>{{ " + expression + " }}<|im_end|>{% endfor %}",
        )
        chat = encode_conversation(printing, [{"role": "user", "data": {"a": "x <|im_end|> y"}}])
        text = printing.decode(chat.token_ids, False)
        assert text.replace('"', "'") == "<|im_start|>{'a': 'x <|im_end|> y'}<|im_end|>"
        assert chat.token_ids.count(IM_END) == 1


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LOOP % (TURN % "message.content | upper"), "rewrites contents"),
        (LOOP % (TURN % "message.content | replace('\\n', ' ')"), "rewrites contents"),
        (LOOP % (TURN % "message.content.split('</think>')[-1]"), "looks for control texts"),
        (LOOP % "{{ message.role + ': ' + message.content + '\\n' }}", "writes no special tokens"),
        (LOOP % "{{ message.role + ': ' + message.content + '\\n' }}", "no stop token"),
        (CHATML_WITHOUT_MARKS, r"no \{% generation %\} marks"),
        (CHATML_WITHOUT_MARKS + "{{ strftime_now('%Y') }}", "today's date"),
        (LLAMA2, "no system messages: .*Only user and assistant roles"),
        (
            LOOP % ("{% if message.role != 'system' %}" + TURN % "message.content" + "{% endif %}"),
            "leaves out system",
        ),
    ],
)
def test_a_template_with_faults_is_warned_about(tokenizer: ChatTokenizer, template: str, expected: str) -> None:
    warnings = template_warnings(replaced(tokenizer, template))
    assert any(re.search(expected, warning) for warning in warnings), warnings


@pytest.mark.parametrize("template", ["{{ raise_exception('never') }}", "{% if %}", "{{ messages.nothing.at.all }}"])
def test_a_template_that_cannot_render_is_named(tokenizer: ChatTokenizer, template: str) -> None:
    broken = replaced(tokenizer, template)
    assert broken.stop_token_ids == (0,)
    with pytest.raises(UserError, match=r"chat template refuses this conversation \(user, assistant"):
        encode_conversation(broken, TURNS)
    with pytest.raises(UserError, match="chat template refuses"):
        template_warnings(broken)


def test_a_tokenizer_without_a_template_says_so(tokenizer: ChatTokenizer) -> None:
    files = {name: text for name, text in tokenizer.files.items() if name != "chat_template.jinja"}
    config = json.loads(files["tokenizer_config.json"])
    del config["chat_template"]
    bare = ChatTokenizer.from_files({**files, "tokenizer_config.json": json.dumps(config)})
    assert bare.chat_template is None
    assert bare.stop_token_ids == (0,)
    with pytest.raises(UserError, match="no chat template"):
        encode_conversation(bare, TURNS)
