"""Clean: readable photos, each of them once and under one gem."""

from pathlib import Path

from gemmodel.clean import cleaning, dask_backend
from gemmodel.core import files, params
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
    print(
        f"clean: kept {result['kept']} of {result['files']} files; rejected: {rejected or 'none'}"
        f"{corrections if corrected or unknown else ''}"
    )


if __name__ == "__main__":
    command(main)
