"""Recipes: published sets by name, so that nobody has to find out where they lie and how their rows look.

    python data_process.py --recipe list                                    what there is
    python data_process.py sft --recipe firefly                             fetch it and pack it
    python data_process.py sft --recipe belle --data_path Belle_open_source_2M.json    pack your own copy

A recipe says where the set lies, how a row of it becomes one that `dataset/conversations.py` knows, and whose
it is: the licences and what the authors ask for are yours to read before you train on it. Rows that name a
part of the set they come from carry it as `source`.
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dataset import recipe_rows
from model.errors import UserError

Convert = Callable[[dict[str, Any]], dict[str, Any] | None]

_MINIMIND = "hf:jingyaogong/minimind_dataset"
_COIG = "hf:BAAI/COIG"
_SEE_PAGE = "see the page of the set"


@dataclass(frozen=True)
class Recipe:
    """One published set: what it is, where it lies, and how its rows are read."""

    name: str
    title: str
    kind: str  # pretrain, sft, dpo, or exam (questions with choices; may be packed by sft)
    data_path: tuple[str, ...]  # empty: it must be fetched by hand, the note says where
    convert: Convert
    licence: str
    languages: tuple[str, ...]
    note: str = ""


def recipe_named(name: str) -> Recipe:
    """The recipe of this name. UserError: there is none; it names one like it, and how to see them all."""
    if name not in RECIPES:
        alike = difflib.get_close_matches(name.lower().replace("-", "_"), RECIPES, n=1)
        hint = f" (did you mean {alike[0]}?)" if alike else ""
        raise UserError(f"--recipe: no recipe {name!r}{hint}; python data_process.py --recipe list shows all of them")
    return RECIPES[name]


def recipe_lines() -> Iterator[str]:
    """All recipes as a table; below each row where the set lies, whole, to be copied, and what to know about it."""
    rows = [("name", "kind", "languages", "licence")]
    for recipe in RECIPES.values():
        kind = "sft (exam)" if recipe.kind == "exam" else recipe.kind
        rows.append((recipe.name, kind, ", ".join(recipe.languages), recipe.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, more in zip(rows, [None, *RECIPES.values()], strict=True):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if more is not None:
            yield from (f"    {line}" for line in (*more.data_path, more.note) if line)


_PRETRAIN = [
    Recipe(
        name="skypile",
        title="SkyPile-150B, Chinese web pages",
        kind="pretrain",
        data_path=("hf:Skywork/SkyPile-150B",),
        convert=recipe_rows.text,
        licence="Skywork Community License",
        languages=("zh",),
        note="620 GB: give one of its files with --data_path",
    ),
    Recipe(
        name="seq_monkey",
        title="Seq-Monkey general open corpus",
        kind="pretrain",
        data_path=("ms:ddzhu123/seq-monkey/mobvoi_seq_monkey_general_open_corpus.jsonl.tar.bz2",),
        convert=recipe_rows.text,
        licence="Apache-2.0",
        languages=("zh",),
        note="a copy of what Mobvoi offers at https://github.com/mobvoi/seq-monkey-data; 13 million documents",
    ),
    Recipe(
        name="tinystories",
        title="TinyStories",
        kind="pretrain",
        data_path=("hf:roneneldan/TinyStories:train",),
        convert=recipe_rows.text,
        licence="CDLA-Sharing-1.0",
        languages=("en",),
        note="GPT-4's stories alone: --data_path hf:roneneldan/TinyStories/TinyStoriesV2-GPT4-train.txt",
    ),
    Recipe(
        name="fineweb_edu",
        title="FineWeb-Edu, sample of 10 billion tokens",
        kind="pretrain",
        data_path=("hf:HuggingFaceFW/fineweb-edu/sample-10BT:train",),
        convert=recipe_rows.text,
        licence="ODC-By 1.0",
        languages=("en",),
    ),
    Recipe(
        name="minimind_pretrain",
        title="MiniMind's pretraining text",
        kind="pretrain",
        data_path=(f"{_MINIMIND}/pretrain_t2t_mini.jsonl",),
        convert=recipe_rows.minimind_text,
        licence="Apache-2.0 and CC BY-NC 2.0",
        languages=("zh", "en"),
        note="also reads pretrain_t2t.jsonl, and pretrain_hq.jsonl and pretrain_data.csv of earlier versions",
    ),
]

_SFT = [
    Recipe(
        name="alpaca_zh",
        title="Alpaca instructions answered by GPT-4, Chinese",
        kind="sft",
        data_path=("hf:shibing624/alpaca-zh",),
        convert=recipe_rows.as_is,
        licence="CC BY-NC 4.0",
        languages=("zh",),
        note="48,818 rows; its card's header says CC BY 4.0, its text CC BY-NC 4.0 and research only",
    ),
    Recipe(
        name="alpaca_en",
        title="Stanford Alpaca",
        kind="sft",
        data_path=("hf:tatsu-lab/alpaca",),
        convert=recipe_rows.as_is,
        licence="CC BY-NC 4.0",
        languages=("en",),
    ),
    Recipe(
        name="baike2018qa",
        title="baike2018qa, questions and answers of an encyclopaedia",
        kind="sft",
        data_path=(),
        convert=recipe_rows.baike,
        licence="MIT",
        languages=("zh",),
        note="fetch it by hand: https://github.com/brightmart/nlp_chinese_corpus",
    ),
    Recipe(
        name="belle",
        title="BELLE, train_2M_CN and multiturn_chat_0.8M",
        kind="sft",
        data_path=("hf:BelleGroup/train_2M_CN", "hf:BelleGroup/multiturn_chat_0.8M"),
        convert=recipe_rows.as_is,
        licence="GPL-3.0, for research only",
        languages=("zh",),
        note="also reads train_0.5M_CN, train_1M_CN and train_3.5M_CN",
    ),
    Recipe(
        name="coig",
        title="Chinese Open Instruction Generalist",
        kind="sft",
        data_path=(
            f"{_COIG}/exam_instructions.jsonl",
            f"{_COIG}/human_value_alignment_instructions_part1.json",
            f"{_COIG}/human_value_alignment_instructions_part2.json",
            f"{_COIG}/leetcode_instructions.jsonl",
            f"{_COIG}/translated_instructions.jsonl",
            f"{_COIG}/counterfactural_correction_multi_round_chat.tar.gz",
        ),
        convert=recipe_rows.coig,
        licence="Apache-2.0; the code CC BY-SA 4.0",
        languages=("zh",),
        note="also reads COIG-CQIA (hf:m-a-p/COIG-CQIA)",
    ),
    Recipe(
        name="deepctrl_sft",
        title="deepctrl SFT, a collection in one form",
        kind="sft",
        data_path=("ms:deepctrl/deepctrl-sft-data/sft_data_zh.jsonl",),
        convert=recipe_rows.as_is,
        licence="Apache-2.0",
        languages=("zh", "en"),
        note="16 GB; English: sft_data_en.jsonl",
    ),
    Recipe(
        name="firefly",
        title="Firefly, 23 kinds of tasks",
        kind="sft",
        data_path=("hf:YeungNLP/firefly-train-1.1M",),
        convert=recipe_rows.firefly,
        licence=_SEE_PAGE,
        languages=("zh",),
    ),
    Recipe(
        name="linksoul",
        title="LinkSoul instruction_merge_set",
        kind="sft",
        data_path=("hf:LinkSoul/instruction_merge_set",),
        convert=recipe_rows.linksoul,
        licence=_SEE_PAGE,
        languages=("zh", "en"),
        note="10.1 million rows; its authors call it free for commercial use; its page shows no licence",
    ),
    Recipe(
        name="luotuo",
        title="Luotuo, Alpaca translated into Chinese",
        kind="sft",
        data_path=("hf:silk-road/Vanilla-chinese-alpaca-luotuo/trans_chinese_alpaca_data.json",),
        convert=recipe_rows.luotuo,
        licence="Apache-2.0",
        languages=("zh",),
        note="also reads hf:silk-road/alpaca-data-gpt4-chinese",
    ),
    Recipe(
        name="minimind_sft",
        title="MiniMind's conversations",
        kind="sft",
        data_path=(f"{_MINIMIND}/sft_t2t_mini.jsonl",),
        convert=recipe_rows.minimind_sft,
        licence="Apache-2.0 and CC BY-NC 2.0",
        languages=("zh", "en"),
        note="also reads its other sft_*, r1_mix_* and lora_*.jsonl, and sft_data*.csv of the first version",
    ),
    Recipe(
        name="moss_003",
        title="MOSS-003, conversations without and with plugins",
        kind="sft",
        data_path=("hf:fnlp/moss-003-sft-data/moss-003-sft-no-tools.jsonl.zip",),
        convert=recipe_rows.moss,
        licence="CC BY 4.0",
        languages=("zh", "en"),
        note="with plugins: moss-003-sft-with-tools-no-text2image.zip; the long meta instruction is left out",
    ),
    Recipe(
        name="school_math",
        title="BELLE school_math_0.25M",
        kind="sft",
        data_path=("hf:BelleGroup/school_math_0.25M",),
        convert=recipe_rows.as_is,
        licence="GPL-3.0, for research only",
        languages=("zh",),
        note="its authors warn of wrong sums",
    ),
    Recipe(
        name="sharegpt",
        title="ShareGPT, chats that people shared",
        kind="sft",
        data_path=("hf:anon8231489123/ShareGPT_Vicuna_unfiltered/ShareGPT_V3_unfiltered_cleaned_split.json",),
        convert=recipe_rows.sharegpt,
        licence="Apache-2.0",
        languages=("en", "zh"),
        note="also reads shareAI/ShareGPT-Chinese-English-90k",
    ),
    Recipe(
        name="tigerresearch_sft_zh",
        title="TigerResearch sft_zh",
        kind="sft",
        data_path=("hf:TigerResearch/sft_zh",),
        convert=recipe_rows.as_is,
        licence="Apache-2.0",
        languages=("zh",),
        note="530,705 rows in JSON Lines, in spite of the name .json of its files",
    ),
    Recipe(
        name="ultrachat",
        title="UltraChat 200k",
        kind="sft",
        data_path=("hf:HuggingFaceH4/ultrachat_200k:train_sft",),
        convert=recipe_rows.ultrachat,
        licence="MIT",
        languages=("en",),
        note="also reads all of UltraChat (hf:stingning/ultrachat)",
    ),
    Recipe(
        name="webtext2019zh",
        title="webtext2019zh, questions and answers of a community",
        kind="sft",
        data_path=(),
        convert=recipe_rows.webtext,
        licence="MIT",
        languages=("zh",),
        note="fetch it by hand: https://github.com/brightmart/nlp_chinese_corpus",
    ),
]

_DPO = [
    Recipe(
        name="huozi",
        title="Huozi, 16,900 pairs judged by people",
        kind="dpo",
        data_path=("hf:Skepsun/huozi_rlhf_data_json",),
        convert=recipe_rows.huozi,
        licence="Apache-2.0",
        languages=("zh",),
        note="a JSON copy of huozi_rlhf_data.csv (https://github.com/HIT-SCIR/huozi), which is read too",
    ),
    Recipe(
        name="minimind_dpo",
        title="MiniMind's preference pairs",
        kind="dpo",
        data_path=(f"{_MINIMIND}/dpo.jsonl",),
        convert=recipe_rows.as_is,
        licence="Apache-2.0 and CC BY-NC 2.0",
        languages=("zh", "en"),
        note="also reads dpo/*.json of the first version",
    ),
    Recipe(
        name="ultrafeedback",
        title="UltraFeedback, binarized",
        kind="dpo",
        data_path=("hf:HuggingFaceH4/ultrafeedback_binarized:train_prefs",),
        convert=recipe_rows.ultrafeedback,
        licence="MIT",
        languages=("en",),
        note="also reads the original (hf:openbmb/UltraFeedback): best against worst of four completions",
    ),
]

_EXAMS = [
    Recipe(
        name="ceval",
        title="C-Eval, 52 subjects",
        kind="exam",
        data_path=("hf:ceval/ceval-exam/ceval-exam.zip",),
        convert=recipe_rows.exam,
        licence="CC BY-NC-SA 4.0",
        languages=("zh",),
        note="rows of the test, whose answers are withheld, are left out; a model trained on it is not judged by it",
    ),
    Recipe(
        name="cmmlu",
        title="CMMLU, 67 subjects",
        kind="exam",
        data_path=("hf:haonan-li/cmmlu/cmmlu_v1_0_1.zip",),
        convert=recipe_rows.exam,
        licence="CC BY-NC 4.0",
        languages=("zh",),
        note="a model trained on it is not judged by it",
    ),
]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_PRETRAIN, *_SFT, *_DPO, *_EXAMS)}
