"""The end-to-end benchmark on the demo model: `pspec-rt bench` with a peer and a results file by default.

    python bench/e2e.py --questions QUESTIONS.jsonl [any option of `pspec-rt bench`]

Compares plain decoding, drafting (the shipped drafter, else n-gram lookup) and transformers; see docs/benchmarks.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pspec_rt.cli import main

RESULT = Path(__file__).parent / "results" / "e2e.json"

if __name__ == "__main__":
    RESULT.parent.mkdir(exist_ok=True)
    sys.exit(main(["bench", "--peers", "transformers", "--json", str(RESULT), *sys.argv[1:]]))
