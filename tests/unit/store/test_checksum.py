"""Checksums of files, and the memory of the threads that compute them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ftray.store.files import checksum

_MEASURED = """
import os, sys
from pathlib import Path
from ftray.store.files.checksum import of_files

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

folder = Path(sys.argv[1])
names = sorted(os.listdir(folder))
of_files(folder, names[:1])
before = resident()
of_files(folder, names)
print(resident() - before)
"""


def test_the_threads_that_read_files_keep_no_memory(tmp_path: Path) -> None:
    for number in range(16):
        (tmp_path / f"{number}.bin").write_bytes(os.urandom(5 << 20))
    told = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(told.stdout) < 6 << 20


def test_a_file_has_the_checksum_of_its_content(tmp_path: Path) -> None:
    for size in (0, 1, 2 << 20, (2 << 20) + 1, 5 << 20):
        content = os.urandom(size)
        (tmp_path / "file").write_bytes(content)
        assert checksum.of_file(tmp_path / "file") == checksum.of_content(content)
