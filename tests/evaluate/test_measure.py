"""A model's memory is its own, whatever the process that started the measurement holds."""

import subprocess
import sys


def test_peak_memory_is_not_inherited_from_the_parent():
    # Linux hands ru_maxrss down through fork and exec; a small child of a large parent must still look small
    child = "from slmops_utils.evaluate.measure import peak_memory_bytes; print(peak_memory_bytes())"
    parent = (
        "import subprocess, sys\nhold = bytearray(400 * 2**20)\nhold[::4096] = b'x' * len(hold[::4096])\n"
        f"print(subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True, check=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < 200 * 2**20


def test_peak_memory_sees_what_was_freed_again():
    code = (
        "from slmops_utils.evaluate.measure import peak_memory_bytes\nhold = bytearray(300 * 2**20)\n"
        "hold[::4096] = b'x' * len(hold[::4096])\ndel hold\nprint(peak_memory_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 300 * 2**20
