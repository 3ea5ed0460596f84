"""Writes the bundled GSM8K-form sample files anew from the templates and `handwritten.jsonl`.

python demo/write_sample.py
"""

from __future__ import annotations

from ltm_eval.paths import sample_data_dir
from ltm_eval.problems import jsonl, sample_files

if __name__ == "__main__":
    for name, problems in sample_files().items():
        path = sample_data_dir() / "gsm8k" / name
        path.write_text(jsonl(problems), encoding="utf-8", newline="\n")
        print(f"{path}: {len(problems)} problems")
