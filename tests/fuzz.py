"""Damaged photos through the reader: each gives an image or an error of one line, in bounded time and memory.

python tests/fuzz.py [--number 2000] [--seed 0]

Small files of nine formats are mutated: bytes changed, parts cut out, repeated or exchanged between files. The last
line has the longest time of a core for one file, and the growth of memory over all of them. A file that breaks a limit
is written to the folder `fuzz` and named.
"""

import argparse
import io
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from gemmodel.core.errors import DataError
from gemmodel.images import decode

MAX_SECONDS = 5.0
MAX_BYTES = 500_000_000
LONGEST_LINE = 300
KINDS = {
    "JPEG": [{}, {"progressive": True, "subsampling": 0}],
    "PNG": [{}, {"bits": 4}],
    "WEBP": [{}, {"lossless": True}],
    "GIF": [{"save_all": True}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}],
    "BMP": [{}],
    "AVIF": [{"speed": 10}],
    "JPEG2000": [{}],
    "MPO": [{"save_all": True}],
}


def originals() -> list[bytes]:
    """Return small files of all kinds."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC)
    contents = []
    for kind, variants in KINDS.items():
        for options in variants:
            picture = rgba.quantize(16) if options.get("bits") or kind == "GIF" else rgba.convert("RGB")
            pictures = [picture, *([picture] if options.get("save_all") else [rgba] if kind in ("PNG", "WEBP") else [])]
            for saved in pictures if kind in ("PNG", "WEBP") and not options.get("bits") else pictures[:1]:
                file = io.BytesIO()
                more = {"append_images": [picture]} if options.get("save_all") else {}
                saved.save(file, kind, **options, **more)
                contents.append(file.getvalue())
    return contents


def mutated(rng: random.Random, files: list[bytes]) -> bytes:
    """Return one of the files with some changes."""
    content = bytearray(rng.choice(files))
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        start = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(64, len(content)))
        length = rng.choice([1, 2, 4, 16, 256])
        part = bytes(content[start : start + length])
        change = rng.randrange(6)
        if change == 0:
            content[start : start + length] = rng.randbytes(length)
        elif change == 1:
            content[start : start + length] = rng.choice([b"\xff", b"\x00", b"\x7f", b"\x80"]) * length
        elif change == 2:
            content[start:start] = part * rng.choice([1, 10, 400])
        elif change == 3 and len(content) > 2 * length:
            del content[start : start + length]
        elif change == 4:
            other = rng.choice(files)
            at = rng.randrange(len(other))
            content[start : start + length] = other[at : at + length]
        else:
            content[start] ^= 1 << rng.randrange(8)
    return bytes(content)


def problem(content: bytes) -> tuple[str, float]:
    """Return what is wrong with how a file is read, empty for nothing, and the seconds of a core that it took."""
    start, wrong = time.process_time(), ""
    try:
        decode.load(io.BytesIO(content), 64)
    except DataError as error:
        if len(str(error).splitlines()) != 1 or len(str(error)) > LONGEST_LINE:
            wrong = f"no line: {error}"
    except Exception as error:
        wrong = repr(error)
    seconds = time.process_time() - start
    return wrong or ("too slow" if seconds > MAX_SECONDS else ""), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=2000, help="of files")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng, files, slowest, failed = random.Random(given.seed), originals(), 0.0, False
    for content in files:
        decode.load(io.BytesIO(content), 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(given.number):
        content = mutated(rng, files)
        wrong, seconds = problem(content)
        memory = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        wrong = wrong or ("too much memory" if memory > MAX_BYTES else "")
        slowest = max(slowest, seconds)
        if wrong:
            failed = True
            path = Path("fuzz") / f"{given.seed}-{i}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"{path}: {wrong}")
    print(f"{given.number} files: at most {slowest:.2f} s for one; memory grew by {memory / 1e6:.0f} MB")
    sys.exit(failed)


if __name__ == "__main__":
    main()
