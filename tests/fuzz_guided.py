"""Damaged photos through the reader, mutated by Atheris towards lines of it and of Pillow that were not reached before.

python tests/fuzz_guided.py [libFuzzer's options, such as -max_total_time=3600]

It begins with the files of `fuzz.py` and 2,000 of its mutations, and keeps those that reach new lines in `fuzz/corpus`
for the next time. The first file that breaks a limit of `fuzz.py` ends it, and is written to the folder `fuzz`.
"""

import random
import sys
from pathlib import Path

import psutil

try:
    import atheris
except ImportError:
    sys.exit("fuzz: Atheris is not installed; `pip install -e '.[fuzz]'` brings it, on Linux")
with atheris.instrument_imports(include=["PIL", "gemmodel.images"]):
    import fuzz

    ORIGINALS = fuzz.originals()  # Pillow imports its formats when it needs them


def read(content: bytes) -> None:
    """Read a photo.

    Raises:
        AssertionError: it breaks a limit.
    """
    wrong, _ = fuzz.problem(content)
    assert not wrong, wrong


def main() -> None:
    (corpus := Path("fuzz") / "corpus").mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    for i, content in enumerate([*ORIGINALS, *(fuzz.mutated(rng, ORIGINALS) for _ in range(2000))]):
        (corpus / str(i)).write_bytes(content)
    memory = (psutil.Process().memory_info().rss + fuzz.MAX_BYTES) // 2**20
    options = ["-artifact_prefix=fuzz/", f"-rss_limit_mb={memory}", "-timeout=100"]  # the latter of wall time
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
