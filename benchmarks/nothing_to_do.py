"""Time of `dvc repro` with nothing to do against `dvc status`, each as a new process.

python benchmarks/nothing_to_do.py

Expected: at most 1.3 times as long. It takes a minute, after `make repro`.
"""

import statistics
import subprocess
import time

RUNS = 7


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    if b"up to date" not in subprocess.run(["dvc", "status"], check=True, capture_output=True).stdout:
        raise SystemExit("nothing_to_do: the pipeline is not up to date; run `make repro` first")
    pairs = [
        (seconds("dvc", "repro"), seconds("dvc", "status")) for _ in range(RUNS)
    ]  # in turn, since the speed of machines drifts
    ratios = [repro / status for repro, status in pairs]
    for name, values in (("dvc repro", [pair[0] for pair in pairs]), ("dvc status", [pair[1] for pair in pairs])):
        print(f"{name:<11} {statistics.median(values):.2f} s (median of {RUNS})")
    print(f"ratio       {statistics.median(ratios):.2f} (target: at most 1.3; {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
