"""Write the bundled samples of word problems and rule episodes anew, from templates, rules and `handwritten.jsonl`.

python demo/write_sample.py
"""

from __future__ import annotations

import json

from problems import jsonl, multiarith_rows, sample_files, svamp_rows
from rules import sample_rows

from ltm_eval.system.files import sample_data_dir

if __name__ == "__main__":
    files = {f"gsm8k/{name}": jsonl(problems) for name, problems in sample_files().items()}
    for split, rows in sample_rows().items():
        files[f"rules/{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    for name, problems in (("svamp/SVAMP.json", svamp_rows()), ("multiarith/MultiArith.json", multiarith_rows())):
        files[name] = json.dumps(problems, indent=1) + "\n"
    for name, content in files.items():
        path = sample_data_dir() / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
        print(f"{path}: {content.count(chr(10))} rows")
