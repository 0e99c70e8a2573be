"""What starting each stage costs: seconds for its imports in a new process, and which heavy libraries they load.

python benchmarks/stage_imports.py
"""

import statistics
import subprocess
import sys

STAGES = ("crawl", "clean", "split", "augment", "embed", "train", "evaluate", "explain", "register")
HEAVY = ("tensorflow", "mlflow", "scrapy")
RUNS = 3
CODE = """
import time; start = time.perf_counter()
import stages.{stage}
took = time.perf_counter() - start
import sys; print(took, *[name for name in {heavy} if name in sys.modules])
"""


def main() -> None:
    print(f"{'stage':<10}{'seconds':>8}  loads")
    for stage in STAGES:
        code = CODE.format(stage=stage, heavy=HEAVY)
        outputs = [subprocess.check_output([sys.executable, "-c", code], text=True).split() for _ in range(RUNS)]
        took = statistics.median(float(output[0]) for output in outputs)
        print(f"{stage:<10}{took:>8.2f}  {', '.join(outputs[0][1:]) or '-'}")


if __name__ == "__main__":
    main()
