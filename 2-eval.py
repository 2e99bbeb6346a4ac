"""Talk to a model: continue a text, chat, answer a file of prompts, or take an exam.

    python 2-eval.py                                          the newest stage's only .pth in out/
    python 2-eval.py out/pretrain_256.pth --prompt "Once upon a time"
    python 2-eval.py out/full_sft_256.pth --temperature 0 --system "You answer in one sentence."
    echo "What is the capital of France?" | python 2-eval.py out/full_sft_256.pth
    python 2-eval.py out/full_sft_256.pth --input prompts.jsonl --output answers.jsonl
    python 2-eval.py out/full_sft_256.pth --mode exam --output exam.json

    python 2-eval.py out/lora_law_512.pth                     an adapter, with the base that it was trained on
    python 2-eval.py out/full_sft_512.pth --adapters out/lora_*.pth         /adapter law switches in the chat

A .pth is enough: architecture, tokenizer and chat template are in it; a Hugging Face folder will do too. A pretrained
model continues text, a tuned one chats. --input holds {"prompt": …} or {"messages": […]} a line. From a pipe, each
line is a prompt of its own. The exam asks in chat form and takes the most probable answer of at most 32 tokens; it
reads {language, relation, question, key, others} a line.
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from inference.sampling_params import SamplingParams
from model.errors import UserError, run_script
from trainer.settings import flag, parse_settings

EXAM_TOKENS = 32
CHECKPOINT = {
    "nargs": "?",
    "help": "a .pth, an adapter or a Hugging Face folder; default: the only .pth of rl, full_sft or pretrain",
}


@dataclass
class EvalSettings:
    """What to do, with what, and where the result goes."""

    mode: Literal["auto", "complete", "chat", "exam"] = flag("auto", "auto: complete after pretraining, else chat")
    prompt: str | None = flag(None, "answer this and stop")
    system: str | None = flag(None, "system prompt of every chat")
    adapters: list[str] | None = flag(
        None, "adapters of this model; the first one is on, /adapter in the chat switches"
    )
    base: str | None = flag(None, "where an adapter's base is, if no longer where it was")
    input: str | None = flag(None, "JSON lines with a prompt or messages each")
    output: str | None = flag(None, "where answers (JSON lines) or the exam's result (JSON) go")
    overwrite: bool = flag(False, "replace an existing --output")
    data_path: str | None = flag(None, "the exam; default: <raw_dir>/little_world/questions.jsonl")
    raw_dir: str = flag("dataset/raw", "folder of raw data")
    out_dir: str = flag("out", "where a checkpoint is looked for when none is named")
    batch_size: int = flag(64, "prompts of --input, or questions, answered at once")
    device: str = flag("auto", "auto, cpu, cuda, cuda:N or mps")
    dtype: str = flag("auto", "auto, float32, bfloat16, float16 or float64")

    def __post_init__(self) -> None:
        is_exam = self.mode == "exam"
        if self.batch_size < 1:
            raise UserError(f"--batch_size: found {self.batch_size}, expected at least 1")
        if self.prompt is not None and self.input is not None:
            raise UserError("--prompt and --input: give one of them")
        if is_exam and not (self.prompt is None and self.input is None and self.system is None):
            raise UserError(
                "--mode exam: takes neither --prompt, --input nor --system; questions come from --data_path"
            )
        if is_exam and self.adapters:
            raise UserError("--adapters: an exam's result names one model; name the adapter in the place of the model")
        if self.mode == "complete" and self.system is not None:
            raise UserError("--system: a completion has no system prompt; use --mode chat")
        if self.data_path is not None and not is_exam:
            raise UserError("--data_path: is the exam's questions; add --mode exam (a file of prompts is --input)")
        if self.output is not None and self.input is None and not is_exam:
            raise UserError("--output: needs --input or --mode exam")
        if self.output is not None and Path(self.output).exists() and not self.overwrite:
            raise UserError(f"--output {self.output}: exists already; name another file or pass --overwrite")


def main() -> int:
    """Settings → data → model → answers."""
    settings, params, arguments = parse_settings(
        EvalSettings, SamplingParams, description=__doc__, positionals={"checkpoint": CHECKPOINT}
    )
    # torch loads only now: --help and a wrong flag answer at once.
    from evaluation.exams import exam_report, exam_table, read_questions, run_exam
    from inference.batch_file import answer_requests, read_requests, write_rows
    from inference.terminal import Terminal, read_lines
    from model.device import choose_device, choose_precision
    from model.files import write_json
    from model.loading import AdapterSwitch, load_model
    from trainer.run_folder import only_checkpoint

    # Data first: a wrong line shows before a big model is loaded.
    is_exam, from_pipe = settings.mode == "exam", not sys.stdin.isatty()
    questions_path = settings.data_path or Path(settings.raw_dir) / "little_world" / "questions.jsonl"
    questions = read_questions(questions_path) if is_exam else []
    requests = read_requests(settings.input) if settings.input is not None else []

    # Model: the file says what it is; a pretrained one continues text, a tuned one chats.
    path = arguments.checkpoint or only_checkpoint(settings.out_dir, "rl", "full_sft", "pretrain")
    device = choose_device(settings.device)
    dtype = choose_precision(settings.dtype, device).compute
    model, tokenizer, checkpoint = load_model(path, device, dtype, settings.base)
    adapters = AdapterSwitch(model, checkpoint, settings.adapters or [])
    adapters.use(next(iter(adapters), ""))
    speaker = adapters.checkpoint
    if params.stop_token_ids is None:
        params = replace(params, stop_token_ids=speaker.generation.get("stop_token_ids"))
    can_chat = speaker.stage != "pretrain" and tokenizer.chat_template is not None
    chat = can_chat if settings.mode == "auto" else settings.mode == "chat"
    if settings.system is not None and not chat:
        raise UserError(f"--system: {path} continues text, which has no system prompt; add --mode chat")

    if is_exam:
        from rich.console import Console

        started = time.perf_counter()
        result = run_exam(
            model,
            tokenizer,
            questions,
            max_new_tokens=EXAM_TOKENS,
            stop_token_ids=params.stop_token_ids,
            batch_size=settings.batch_size,
            show_progress=True,
        )
        report = exam_report(result, path, checkpoint, questions_path, time.perf_counter() - started)
        Console().print(exam_table(result, title=str(path)))
        if settings.output is not None:
            write_json(settings.output, report)
    elif settings.input is not None:
        rows = answer_requests(
            model,
            tokenizer,
            requests,
            params,
            chat=chat,
            system=settings.system,
            batch_size=settings.batch_size,
            show_progress=True,
        )
        write_rows(settings.output, rows)
    else:
        terminal = Terminal(model, tokenizer, params, chat=chat, system=settings.system, adapters=adapters)
        if settings.prompt is None and not from_pipe:
            terminal.converse()
        else:
            for line in [settings.prompt] if settings.prompt is not None else read_lines(sys.stdin.buffer):
                terminal.answer(line)
    return 0


if __name__ == "__main__":
    run_script(main)
