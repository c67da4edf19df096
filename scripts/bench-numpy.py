"""The rival of BenchmarkBank in numpy: brute force over tips × 384 dimensions in float32.

Each recall computes all cosines and picks the ten best scores among the similar states,
as a memory of 30 lines would. Prints lines of a Go benchmark with processor time.
"""

import sys
import time

import numpy

DIMENSION, K, THRESHOLD = 384, 10, 0.05


def main() -> None:
    """Takes the numbers of tips as arguments."""
    print("pkg: github.com/empo2/empo2/memory")
    for n in map(int, sys.argv[1:]):
        random = numpy.random.default_rng(1)
        vectors = random.standard_normal((n, DIMENSION), dtype=numpy.float32)
        vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
        query = vectors[0].copy()
        scores = (numpy.arange(n) % 101).astype(numpy.float64)
        repeats = max(5, 2_000_000 // n // 10)
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            cosines = vectors @ query
            similar = numpy.flatnonzero(cosines > THRESHOLD)
            order = numpy.lexsort((-similar, -cosines[similar], -scores[similar]))
            best = similar[order[:K]].tolist()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        assert len(best) == K
        print(f"BenchmarkBank/tips={n}/recall@numpy \t{repeats}\t{1e9 * seconds / repeats:.0f} ns/op"
              f"\t{1e6 * cpu / repeats:.1f} cpu-µs/op", flush=True)


if __name__ == "__main__":
    main()
