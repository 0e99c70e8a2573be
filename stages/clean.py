"""Clean: readable photos, each of them once and under one gem."""

from pathlib import Path

from gemmodel.clean import cleaning, dask_backend
from gemmodel.core import files, params
from gemmodel.images import colour, decode
from stages import command


def main(raw: Path, out: Path, report: Path, params_file: Path = Path("params.yaml")) -> None:
    """Keep the photos that can be used for training; reject the others, each with its reason."""
    settings = params.load(params_file).clean
    with dask_backend.dask_backend():
        result = cleaning.clean(raw, out, settings)
    files.write_json(report, result)
    rejected = ", ".join(f"{count} {reason}" for reason, count in result["rejected"].items())
    corrected, unknown = len(result["corrected"]), len(result["unknown_corrections"])
    corrections = f"; corrected by hand: {corrected}, corrections without a photo: {unknown}"
    converted = result["converted"].get(decode.TO_SRGB, 0)
    ignored = sum(count for name, count in result["colour_profiles"].items() if name.startswith(colour.IGNORED))
    profiles = f"; colour profiles converted to sRGB: {converted}, ignored: {ignored}"
    print(
        f"clean: kept {result['kept']} of {result['files']} files; rejected: {rejected or 'none'}"
        f"{corrections if corrected or unknown else ''}{profiles if converted or ignored else ''}"
    )


if __name__ == "__main__":
    command(main)
