"""Reading a file in a process of its own, to see how much memory it takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_CODE = """
import json, resource, sys
from dataset.sources import read_rows

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = [getattr(row, "reason", None) or row.value for row in read_rows([sys.argv[1]])]
print(json.dumps([rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024]))
"""


def read_in_another_process(path: Path) -> tuple[list[Any], int]:
    """The rows (of a rejected one its reason), and the megabytes by which reading them raised the peak of memory."""
    result = subprocess.run([sys.executable, "-c", _CODE, str(path)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    rows, megabytes = json.loads(result.stdout)
    return rows, megabytes
