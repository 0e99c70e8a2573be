"""Clean: only readable photos, each of them once and under one name."""

from pathlib import Path

from gemmodel.clean import cleaning, dask_backend
from gemmodel.core import files, params
from stages import command


def main(raw: Path, out: Path, report: Path, params_file: Path = Path("params.yaml")) -> None:
    """Keep the photos that are fit to learn from; set the others aside, with the reason."""
    settings = params.load(params_file).clean
    with dask_backend.dask_backend():
        found = cleaning.clean(raw, out, settings)
    files.write_json(report, found)
    aside = ", ".join(f"{number} {reason}" for reason, number in found["rejected"].items())
    corrected, unknown = len(found["corrected"]), len(found["unknown_corrections"])
    told = f"; corrected by hand: {corrected}, of photos not here: {unknown}" if corrected or unknown else ""
    print(f"clean: kept {found['kept']} of {found['files']} files; set aside: {aside or 'none'}{told}")


if __name__ == "__main__":
    command(main)
