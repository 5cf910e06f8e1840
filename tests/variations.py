"""Run the tests of `make test` as other processors compute: `make test-variations`.

Float32 products come from MKL, those of bfloat16 from oneDNN, the rest from ATen; each takes the widest instructions of
the processor unless it is limited, and each set rounds in its own way.
"""

from __future__ import annotations

import os
import subprocess
import sys

TESTS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not slow")
VARIATIONS = {
    "default": {},
    "sse": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_CBWR": "AVX512"},
    "two_threads": {"OMP_NUM_THREADS": "2"},
}


def main(names: list[str]) -> int:
    """Run the named variations, all where none is named; return 1 where a test failed, after a line for each."""
    results = {}
    for name in names or VARIATIONS:
        print(f"== {name}: {VARIATIONS[name] or 'as this processor computes'}", flush=True)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
        results[name] = subprocess.run(command, env=os.environ | VARIATIONS[name], check=False).returncode
    print("\n".join(f"{name}: {'failed' if code else 'passed'}" for name, code in results.items()))
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
