"""Colour profiles of real photos, and predictions for photos that are stored in Display P3 and Adobe RGB.

python benchmarks/colour_profiles.py [--photos ../shared/gemstones] [--model models] [--test data/split/test]

The first table counts the profiles of all photos. For the second one each test photo is converted and written again in
each colour space: with its profile, and without it, as a program sees it that ignores profiles. The output is the
accuracy, and for how many photos top-1 is that of the original file. A PNG is lossless. A JPEG (quality 95) differs by
another compression too, of which "sRGB" is the control. The last line compares the times that decoding takes.

Expected on 352 test photos with a profile: the same top-1 in 100.0 % (PNG, Display P3), 99.7 % (PNG, Adobe RGB), 99.4 %
and 98.9 % (JPEG; the control has 99.7 %); without a profile in 91 % and 88 %. It takes 5 minutes on two cores, after
`dvc exp run -S crawl.source=folder -S crawl.folder=../shared/gemstones`.
"""

import argparse
import io
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageCms

from gemmodel.core import image_folder
from gemmodel.core.errors import DataError
from gemmodel.images import colour, decode
from gemmodel.serve.predictor import Predictor

PROFILES = {
    "Display P3": colour.build_profile("Display P3", colour.P3),
    "Adobe RGB": colour.build_profile("Adobe RGB (1998)", colour.ADOBE, gamma=563 / 256),
}
RUNS = 7


def written(photo: Image.Image, profile: bytes | None, kind: str = "PNG", *, tagged: bool = True) -> io.BytesIO:
    """Returns an sRGB photo as a file in the space of a profile, which is attached where `tagged`."""
    if profile:
        spaces = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile))
        photo = ImageCms.profileToProfile(photo, *spaces, outputMode="RGB")
    file = io.BytesIO()
    options = decode.JPEG if kind == "JPEG" else {"format": kind, "compress_level": 1}
    photo.save(file, **options, icc_profile=profile if tagged else None)
    file.seek(0)
    return file


def count_profiles(folder: Path) -> Counter[str]:
    names: Counter[str] = Counter()
    for paths in image_folder.list_images(folder).values():
        for path in paths:
            try:
                photo = decode.read(path)
            except DataError:
                names["cannot be read"] += 1
                continue
            name = photo.info["colour_profile"] or "none"
            names[f"{name}, converted" if decode.TO_SRGB in photo.info["conversions"] else name] += 1
    return names


def decoding_time(files: Sequence[io.BytesIO]) -> float:
    start = time.perf_counter()
    for file in files:
        file.seek(0)
        decode.read(file)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/gemstones"))
    parser.add_argument("--model", type=Path, default=Path("models"))
    parser.add_argument("--test", type=Path, default=Path("data/split/test"))
    arguments = parser.parse_args()
    for name, count in count_profiles(arguments.photos).most_common():
        print(f"{count:>6}  {name}")
    predictor = Predictor(arguments.model)
    photos = [(path, gem) for gem, paths in image_folder.list_images(arguments.test).items() for path in paths]
    gems = [gem for _, gem in photos]
    pictures = [decode.read(path) for path, _ in photos]
    original = [p.gem for p in predictor.predict([path for path, _ in photos]) if not isinstance(p, DataError)]
    print(f"\n{'':28} accuracy  same top-1, of {len(photos)}")
    print(f"{'original':28} {sum(a == b for a, b in zip(original, gems, strict=True)) / len(gems):8.3f}")
    spaces = [
        ("sRGB", None, False),
        *((name, profile, tag) for name, profile in PROFILES.items() for tag in (True, False)),
    ]
    for kind in ("PNG", "JPEG"):
        for name, profile, tagged in spaces:
            files = [written(picture, profile, kind, tagged=tagged) for picture in pictures]
            predicted = [p.gem for p in predictor.predict(files) if not isinstance(p, DataError)]
            accuracy = sum(a == b for a, b in zip(predicted, gems, strict=True)) / len(gems)
            same = sum(a == b for a, b in zip(predicted, original, strict=True))
            label = f"{kind}, {name}{', no profile' if profile and not tagged else ''}"
            print(f"{label:28} {accuracy:8.3f}  {same} ({same / len(gems):.1%})", flush=True)
    plain, tagged_files = ([written(picture, p, "JPEG") for picture in pictures] for p in (None, PROFILES["Adobe RGB"]))
    times = [[1e3 * decoding_time(files) / len(files) for files in (plain, tagged_files)] for _ in range(RUNS)]
    medians = [statistics.median(values) for values in zip(*times, strict=True)]
    print(f"\ndecoding a JPEG: {medians[0]:.2f} ms without a profile, {medians[1]:.2f} ms with conversion")


if __name__ == "__main__":
    main()
