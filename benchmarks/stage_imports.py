"""Start-up time of each stage: seconds for its imports in a new process, and the heavy libraries that they load.

python benchmarks/stage_imports.py

Expected: crawl and clean 0.5 s, split 1.2 s; stages with TensorFlow 4 to 6 s. It takes two minutes.
"""

import statistics
import subprocess
import sys

STAGES = (
    "crawl", "clean", "split", "augment", "describe", "embed", "train", "evaluate", "explain", "explore", "register",
    "report",
)  # fmt: skip
HEAVY = ("tensorflow", "mlflow", "scrapy")
RUNS = 3
CODE = """
import time; start = time.perf_counter()
import stages.{stage}
seconds = time.perf_counter() - start
import sys; print(seconds, *[name for name in {heavy} if name in sys.modules])
"""


def main() -> None:
    print(f"{'stage':<10}{'seconds':>8}  loads")
    for stage in STAGES:
        code = CODE.format(stage=stage, heavy=HEAVY)
        outputs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(RUNS)]
        seconds = statistics.median(float(output[0]) for output in outputs)
        print(f"{stage:<10}{seconds:>8.2f}  {', '.join(outputs[0][1:]) or '-'}")


if __name__ == "__main__":
    main()
