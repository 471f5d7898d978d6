"""TSV-Merge by FusionBench's own classes, run by the environment that it is installed in.

usage: fusion_bench_tsvm.py SCALING OUTPUT BASE FINE_TUNE ...
"""

import sys

from fusion_bench.method import TaskSingularVectorMerging
from fusion_bench.modelpool import CLIPVisionModelPool


def main() -> None:
    scaling, output, base, *tunes = sys.argv[1:]
    models = {"_pretrained_": base, **{f"task{at}": path for at, path in enumerate(tunes)}}
    pool = CLIPVisionModelPool(models)
    pool.save_model(TaskSingularVectorMerging(alpha=float(scaling)).run(pool), output)


if __name__ == "__main__":
    main()
