"""Write the bundled GSM8K-form and rule-episode sample files anew, from templates, rules and `handwritten.jsonl`.

python demo/write_sample.py
"""

from __future__ import annotations

import json

from problems import jsonl, sample_files
from rules import sample_rows

from ltm_eval.system.files import sample_data_dir

if __name__ == "__main__":
    files = {f"gsm8k/{name}": jsonl(problems) for name, problems in sample_files().items()}
    for split, rows in sample_rows().items():
        files[f"rules/{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    for name, content in files.items():
        path = sample_data_dir() / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
        print(f"{path}: {content.count(chr(10))} rows")
