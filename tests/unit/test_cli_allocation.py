"""Freed memory is used again by the process without asking the system for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = 10_000
TIMES = 20
COUNT = f"""
import resource, sys
import numpy as np
from wellread.cli.allocation import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no such settings")
np.ones({PAGES} * 4096, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TIMES}):
    np.ones({PAGES} * 4096, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True)
    if "no such settings" in done.stderr:
        pytest.skip("this system's allocator has no such settings")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_block_that_is_made_again_costs_no_page_faults():
    kept, given_back = faults("keep"), faults("leave")
    assert kept * 10 < given_back
