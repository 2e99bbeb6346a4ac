"""2-eval.py as a user runs it: flags, files, pipes and a terminal."""

import importlib.util
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model.checkpoint import Checkpoint, save_checkpoint, weights_of
from model.errors import run_script
from model.loading import load_model
from tests.tiny_model import save_tiny_checkpoint, tiny_model, tiny_tokenizer

QUESTION = {
    "language": "en",
    "relation": "capital",
    "question": "Of France?",
    "key": "Paris",
    "others": ["Rome"],
}


@pytest.fixture
def evaluate(repository, monkeypatch, capsys, tmp_path):
    """Run the script in this process: returns exit code, standard output and standard error."""
    spec = importlib.util.spec_from_file_location("eval_script", repository / "2-eval.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)

    def run(*flags: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["2-eval.py", *map(str, flags)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as exit_info:
            run_script(script.main)
        output = capsys.readouterr()
        code = exit_info.value.code
        assert isinstance(code, int)
        return code, output.out, output.err

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("out") / "full_sft_32.pth")


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, output, error = result
    assert code == 2
    assert not output
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


# ---- prompts ----


def test_one_prompt_is_answered_in_the_form_of_the_stage(evaluate, tmp_path):
    """A tuned model sees the chat template, a pretrained one the text after a document's opener."""
    from inference.engine import generate
    from inference.sampling_params import SamplingParams
    from model.chat import encode_prompt

    tuned = save_tiny_checkpoint(tmp_path / "full_sft_32.pth")
    pretrained = save_tiny_checkpoint(tmp_path / "pretrain_32.pth", stage="pretrain")
    model, tokenizer, _ = load_model(tuned)
    greedy = SamplingParams(temperature=0, max_new_tokens=20)

    def expected(prompt: list[int]) -> str:
        return generate(model, tokenizer, [prompt], greedy)[0].text + "\n"

    system, user = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}
    chat, completion = expected(encode_prompt(tokenizer, [user])), expected([0, *tokenizer.encode("hi")])
    with_system = expected(encode_prompt(tokenizer, [system, user]))
    assert len({chat, completion, with_system}) == 3
    flags = ("--prompt", "hi", "--temperature", "0", "--max_new_tokens", 20)
    assert evaluate(tuned, *flags) == (0, chat, "")
    assert evaluate(tuned, *flags, "--mode", "complete") == (0, completion, "")
    assert evaluate(tuned, *flags, "--system", "Be kind.") == (0, with_system, "")
    assert evaluate(pretrained, *flags) == (0, completion, "")
    assert evaluate(pretrained, *flags, "--mode", "chat") == (0, chat, "")


def test_each_line_of_a_pipe_is_a_prompt_of_its_own(evaluate, checkpoint):
    flags = (checkpoint, "--temperature", "0", "--max_new_tokens", 5, "--stop_token_ids", 0)
    code, output, _ = evaluate(*flags, stdin="\ufeffone\n\n二\r\none".encode())
    single = [evaluate(*flags, "--prompt", prompt)[1] for prompt in ("one", "二")]
    assert code == 0
    assert output == single[0] + single[1] + single[0]


def test_stop_ids_come_from_the_checkpoint(evaluate, tmp_path):
    """Every id stops: the answer must be empty; the tokenizer's own stop ids would not do that."""
    model = tiny_model(dtype=torch.float32)
    content = Checkpoint("rl", model.config, weights_of(model), tiny_tokenizer().files)
    content.generation = {"stop_token_ids": list(range(model.config.vocab_size))}
    save_checkpoint(tmp_path / "rl_32.pth", content)
    assert evaluate(tmp_path / "rl_32.pth", "--prompt", "hi") == (0, "\n", "")


def test_the_newest_stage_is_found_and_several_are_listed(evaluate, tmp_path):
    refused(evaluate("--out_dir", "out", "--prompt", "hi"), "out", "train one first")
    (tmp_path / "out").mkdir()
    for name in ("pretrain_32.pth", "pretrain_64.pth", "lora_x_32.pth"):
        (tmp_path / "out" / name).write_bytes(b"not read")
    save_tiny_checkpoint(tmp_path / "out" / "full_sft_32.pth")
    assert evaluate("--prompt", "hi", "--max_new_tokens", 2)[0] == 0
    (tmp_path / "out" / "full_sft_64.pth").write_bytes(b"not read")
    refused(evaluate("--prompt", "hi"), "full_sft_32.pth", "full_sft_64.pth")


# ---- files ----


def test_a_batch_file_is_answered_row_by_row(evaluate, checkpoint, tmp_path):
    rows = [
        {"prompt": "hello", "id": 7},
        {"messages": [{"role": "user", "content": "hello"}]},
        {"prompt": "long " * 300},
        {"prompt": "\ud800"},
        {"messages": [{"role": "wizard", "content": "abracadabra"}]},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = (checkpoint, "--input", "in.jsonl", "--temperature", "0", "--max_new_tokens", 8)
    code, output, error = evaluate(*flags, "--output", "out.jsonl")
    assert (code, output) == (0, "")
    assert "warning: 3 of 5 not answered; number 3" in error
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    answers = [json.loads(line) for line in written.splitlines()]
    assert [{key: answer[key] for key in row} for row, answer in zip(rows, answers, strict=True)] == rows
    assert answers[0]["text"] == answers[1]["text"]
    assert answers[0]["text"] + "\n" == evaluate(*flags[:1], *flags[3:], "--prompt", "hello")[1]
    assert answers[0]["finish_reason"] in ("stop", "length")
    assert "128" in answers[2]["error"]
    assert "wizard" in answers[4]["error"]
    # Nothing is overwritten unless asked; without a path the rows go to standard output.
    refused(evaluate(*flags, "--output", "out.jsonl"), "out.jsonl", "--overwrite")
    assert evaluate(*flags, "--output", "out.jsonl", "--overwrite")[0] == 0
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == written
    assert evaluate(*flags)[1] == written


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b'{"prompt": "a"}\n{"prompt"', "in.jsonl:2: not JSON"),
        (b'{"text": "a"}', "found text"),
        (b'{"prompt": "a", "messages": []}', 'one of the keys "prompt" and "messages"'),
        (b'{"prompt": 3}', "`prompt` must be text, found int"),
        (b'{"messages": "hi"}', "`messages` must be a list"),
        (b"[1]", "in.jsonl:1: expected a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "in.jsonl: no such file"),
    ],
)
def test_bad_batch_files(evaluate, checkpoint, tmp_path, content, words):
    if content is not None:
        (tmp_path / "in.jsonl").write_bytes(content)
    refused(evaluate(checkpoint, "--input", "in.jsonl", "--output", "out.jsonl"), words)
    assert not (tmp_path / "out.jsonl").exists()


def test_an_exam_prints_a_table_and_writes_its_result(evaluate, checkpoint, tmp_path):
    raw = tmp_path / "raw" / "little_world"
    raw.mkdir(parents=True)
    (raw / "questions.jsonl").write_text(json.dumps(QUESTION))
    flags = (checkpoint, "--mode", "exam", "--raw_dir", "raw", "--output", "exam.json", "--overwrite")
    code, output, _ = evaluate(*flags)
    assert code == 0
    for words in ("capital", "macro average", "95 % interval"):
        assert words in output
    result = json.loads((tmp_path / "exam.json").read_text())
    assert result["stage"] == "full_sft"
    assert result["answers"][0]["question"] == "Of France?"
    assert result["languages"]["en"]["num_questions"] == 1
    evaluate(*flags)
    again = json.loads((tmp_path / "exam.json").read_text())
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


# ---- what a user may get wrong ----


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--temperature", "-1"], "--temperature: found -1.0"),
        (["--top_p", "2"], "--top_p: found 2.0"),
        (["--batch_size", "0"], "--batch_size"),
        (["--mode", "sing"], "--mode"),
        (["--tempature", "1"], "--tempature"),
        (["--mode", "exam", "--prompt", "x"], "--mode exam"),
        (["--mode", "exam", "--adapters", "x.pth"], "--adapters: an exam's result names one model"),
        (["--mode", "exam", "--data_path", "none.jsonl"], "none.jsonl: no such file"),
        (["--mode", "complete", "--system", "x"], "--system"),
        (["--prompt", "x", "--input", "y"], "--prompt and --input"),
        (["--data_path", "x"], "--data_path"),
        (["--output", "x"], "--output: needs"),
        (["--device", "tpu", "--prompt", "x"], "--device"),
        (["--dtype", "int8", "--prompt", "x"], "--dtype"),
        (["--prompt", "word " * 400], "context holds 128"),
        ([], "standard input: empty"),
    ],
)
def test_wrong_flags_end_in_one_line(evaluate, checkpoint, flags, words):
    refused(evaluate(checkpoint, *flags), words)


def test_input_that_is_not_text_is_named(evaluate, checkpoint):
    code, _, error = evaluate(checkpoint, "--max_new_tokens", 2, stdin=b"fine\n\xff\n")
    assert code == 2
    assert "standard input:2: not UTF-8" in error


def test_checkpoints_that_cannot_be_used(evaluate, checkpoint, tmp_path):
    refused(evaluate("none.pth", "--prompt", "x"), "none.pth: no such checkpoint")
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:5000])
    refused(evaluate("cut.pth", "--prompt", "x"), "cut.pth")
    pretrained = save_tiny_checkpoint(tmp_path / "pretrain_32.pth", stage="pretrain")
    refused(evaluate(pretrained, "--prompt", "x", "--system", "y"), "--system", "--mode chat")


def test_help_needs_no_torch(repository):
    """`--help` answers at once: nothing heavy is imported before the flags are read."""
    code = "import sys, runpy; sys.argv = ['2-eval.py', '--help']\n"
    code += "try: runpy.run_path('2-eval.py', run_name='__main__')\n"
    code += "except SystemExit as end: print('exit', end.code, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert "exit 0 False" in run.stdout
    assert "--no_repeat_ngram_size" in run.stdout


# ---- at a terminal ----


class PseudoTerminal:
    """The script behind a pseudo terminal: what a person types, and what appears."""

    def __init__(self, repository: Path, *flags: object) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(repository / "2-eval.py"), *map(str, flags)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        """Read until `pattern` appears, and forget everything up to its end."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.master], [], [], left)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        self.seen = self.seen[match.end() :]

    def close(self) -> int:
        try:
            return self.process.wait(timeout=30)
        finally:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGKILL)
            os.close(self.master)


@pytest.fixture
def endless(tmp_path) -> Path:
    """A model that never stops of its own accord, with a long context."""
    model = tiny_model(dtype=torch.float32, max_seq_len=4096)
    content = Checkpoint("full_sft", model.config, weights_of(model), tiny_tokenizer().files)
    content.generation = {"stop_token_ids": []}
    save_checkpoint(tmp_path / "full_sft_32.pth", content)
    return tmp_path / "full_sft_32.pth"


@pytest.mark.slow
def test_a_conversation_at_a_terminal(repository, endless):
    terminal = PseudoTerminal(repository, endless, "--max_new_tokens", 4000)
    terminal.wait_for("Ctrl-D leaves, Ctrl-C stops an answer")
    terminal.wait_for("> ")
    terminal.type("hello\n")
    terminal.wait_for(r"hello\r\n(?s:.){20}")  # the first words of an answer that would take a minute
    terminal.interrupt()
    terminal.wait_for(r"\[stopped\]")
    terminal.wait_for("> ")
    time.sleep(0.5)  # the prompt appears just before its reader waits
    terminal.interrupt()  # at the prompt, Ctrl-C stops nothing and loses nothing
    terminal.wait_for(r"\(Ctrl-D leaves\)")
    terminal.type("/reset\n")
    terminal.wait_for("starts anew")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.close() == 0
