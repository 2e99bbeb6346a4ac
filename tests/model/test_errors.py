"""What a user sees when a script fails: one line, an exit code, no traceback; each case in a real process."""

import errno
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from model.errors import UserError, explain_os_error


def start(repository, body: str, *arguments: str, **options) -> subprocess.Popen:
    script = "import os, sys, errno, time\nfrom model.errors import UserError, run_script\ndef main():\n"
    script += textwrap.indent(textwrap.dedent(body), "    ") + "\nrun_script(main)\n"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=repository,
        text=True,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        **options,
    )


def run(repository, body: str, *arguments: str) -> tuple[int, str, str]:
    process = start(repository, body, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(("body", "code"), [("return None", 0), ("return 0", 0), ("return 3", 3), ("pass", 0)])
def test_exit_code_is_what_main_returns(repository, body, code):
    assert run(repository, body) == (code, "", "")


def test_a_user_error_is_one_line(repository):
    code, out, err = run(repository, "print('before'); raise UserError('data.jsonl line 3:\\n  found x,  expected y')")
    assert (code, out) == (2, "before\n")
    assert err == "error: data.jsonl line 3: found x, expected y\n"


def test_debug_shows_the_traceback(repository):
    code, _, err = run(repository, "raise UserError('flag')", "--debug")
    assert code != 0
    assert "Traceback" in err
    assert err.strip().endswith("UserError: flag")


def test_our_own_faults_keep_their_traceback(repository):
    code, _, err = run(repository, "return {}['missing']")
    assert code == 1
    assert "Traceback" in err
    assert "KeyError" in err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise OSError(errno.ENOSPC, 'No space', 'out/x.pth')", ["out/x.pth", "disk is full"]),
        ("raise OSError(errno.EDQUOT, 'Quota')", ["quota"]),
        ("open('/')", ["/", "folder"]),
        ("open('Makefile/x')", ["Makefile/x", "folder was expected"]),
        ("os.mkdir('tests')", ["tests", "in the way"]),
        ("open('x' * 300)", ["too long"]),
        ("os.mkdir('/proc/nothing/here')", None),
    ],
)
def test_trouble_with_the_disk(repository, body, words):
    code, _, err = run(repository, body)
    if words is None:  # an unexpected error of the system is a fault of ours, and shows where
        assert (code, "Traceback" in err) == (1, True)
        return
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_a_rename_names_the_file_that_the_user_knows():
    error = OSError(errno.EISDIR, "Is a directory", ".out.pth.a8f3", None, "out.pth")
    assert (explain_os_error(error) or "").startswith("out.pth: ")


def test_other_os_errors_are_not_explained():
    assert explain_os_error(OSError(errno.ECHILD, "No child processes")) is None
    assert explain_os_error(OSError("without a number")) is None


def test_interrupt(repository):
    process = start(repository, "print('ready', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted"


def test_a_reader_that_goes_away(repository):
    """`python 2-eval.py | head -1` ends quietly."""
    process = start(repository, "for number in range(10**6): print(number)")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE


def test_argparse_keeps_its_own_exit(repository):
    assert run(repository, "sys.exit(5)")[0] == 5


def test_a_user_error_is_not_an_os_error():
    """Code that catches OSError must not swallow a message to the user."""
    assert not issubclass(UserError, OSError | ValueError)
