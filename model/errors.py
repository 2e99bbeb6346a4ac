"""The one exception for what a user got wrong, and the wrapper that turns it into one clear line."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

EXIT_RUN_FAILED = 1
EXIT_USER_ERROR = 2

_SECONDS_BEFORE_OTHERS_SPEAK = 4.0

# What the operating system says when a folder cannot be written. Nothing is wrong with our code then: the
# user gets one line, as for any other mistake.
_DISK_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space, then run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: choose another path or change its permissions",
    errno.EPERM: "permission denied: choose another path or change its permissions",
    errno.EISDIR: "this is a folder, but a file was expected",
    errno.EEXIST: "a file of this name is in the way: remove it or choose another path",
    errno.EFBIG: "the file would be larger than allowed: choose another disk or raise the limit (ulimit -f)",
    errno.ENOTDIR: "a part of this path is a file, but a folder was expected",
    errno.ENAMETOOLONG: "this name is too long for the file system",
}


class UserError(Exception):
    """What a user got wrong, in one line: where (file, line or flag), found, expected, what to do."""


class RunFailed(Exception):
    """A run that cannot go on though nobody made a mistake, in one line; the process leaves with exit code 1."""


def explain_os_error(error: OSError) -> str | None:
    """One line for an error of the disk, or None for an error that points at a fault of ours."""
    advice = _DISK_ADVICE.get(error.errno or 0)
    if advice is None:
        return None
    # A rename names two files: the second is the one that the user knows.
    name = error.filename2 or error.filename
    return f"{name}: {advice}" if name else advice


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and leave the process with its exit code.

    `UserError` and disk errors end in one line on standard error and exit code 2, `RunFailed` in one and exit code 1;
    the traceback is shown with `--debug`. Ctrl-C before training began (the loop handles it itself) exits with 130.
    """
    debug = "--debug" in sys.argv
    try:
        code = main() or 0
        sys.stdout.flush()
    except UserError as error:
        if debug:
            raise
        code = _complain(" ".join(str(error).split()))
    except RunFailed as error:
        if debug:
            raise
        code = _complain(" ".join(str(error).split()), EXIT_RUN_FAILED)
    except BrokenPipeError:
        # The reader went away (`... | head`): what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        line = explain_os_error(error)
        if debug or line is None:
            raise
        code = _complain(line)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
        print("\ninterrupted", file=sys.stderr)
    sys.exit(code)


def _complain(line: str, code: int = EXIT_USER_ERROR) -> int:
    local_rank = os.environ.get("LOCAL_RANK", "0")
    if local_rank != "0":
        # All processes of a launcher make the same mistake, and one line is enough: the launcher stops the others as
        # soon as the first has left. Whoever is still here then has something of its own to say.
        time.sleep(_SECONDS_BEFORE_OTHERS_SPEAK)
        line = f"process {local_rank}: {line}"
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code
