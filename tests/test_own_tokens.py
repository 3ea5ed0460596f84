"""Figures per token stand side by side only where their tokens are the same, in every form that shows figures."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ltm_eval import cli
from ltm_eval.report.history import curves_of
from ltm_eval.report.index import index
from ltm_eval.report.page import build, document, render
from ltm_eval.report.tables import RENDERERS, summary_texts
from ltm_eval.results.compare import compare
from ltm_eval.results.figures import figures
from ltm_eval.results.files import find_runs, read_samples
from ltm_eval.results.signature import GPT2_DIGEST, Tokens, own_tokens, same_tokens
from ltm_eval.system.files import assets_dir
from tests.fake_runs import write_ppl_run
from tests.tiny import byte_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.results.files import Run

OTHER = {"name": "llama", "sha256": "ab" * 32}
A, B = Tokens("gpt2", "a" * 64), Tokens("llama", "b" * 64)
BLOCKS = "token of the task's blocks (gpt2)"


def told(tokens: dict[str, str] | None, *, kind: str = "hf", step: int | None = None) -> dict[str, Any]:
    config = {"model": kind, "model_args": {}, "limit": None, "iter_num": step}
    return {"config": config | ({} if tokens is None else {"tokenizer": tokens})}


def write_pair(folder: Path, tokens: dict[str, str] | None = OTHER, *, kind: str = "hf") -> list[Run]:
    """An LTM that reads GPT-2's tokens, and a model of other ones: its own 20 % more or as many as told."""
    write_ppl_run(folder, model="ltm-x", nats=lambda i: 30.0 + i, kind="ltm")
    write_ppl_run(folder, model="other-x", nats=lambda i: 28.0 + i, kind=kind, change=told(tokens, kind=kind))
    return find_runs([folder])


@pytest.mark.parametrize(
    ("tokens", "alike"),
    [
        ([A, A], True),
        ([A, Tokens("another name", A.digest)], True),
        ([A, B], False),
        ([A, Tokens("gpt2", B.digest)], False),
        ([A, None], False),
        ([None, None], False),
        ([A, Tokens("gpt2", "")], False),
        ([Tokens("gpt2", ""), Tokens("gpt2", "")], False),
        ([A, replace(A, of_blocks=True)], False),
        ([None], True),
        ([], True),
    ],
)
def test_the_rule(tokens: list[Tokens | None], *, alike: bool) -> None:
    assert same_tokens(tokens) is alike
    words = own_tokens({str(place): one for place, one in enumerate(tokens)})
    assert (set(words.values()) <= {""}) is alike


def test_models_of_the_same_tokens_have_the_same_words_and_no_others_do() -> None:
    found = own_tokens(
        {"x": A, "y": B, "z": Tokens("mine", A.digest), "u": None, "v": Tokens("gpt2", "c" * 64), "w": None}
    )
    assert found["x"] == found["z"] == "own token (gpt2 aaaaaaaa)"
    assert len(set(found.values())) == 5


@pytest.mark.parametrize("tokens", [OTHER, None, {"name": "gpt2"}, {"name": "gpt2", "sha256": "cd" * 32}])
@pytest.mark.parametrize("kind", ["hf", "ltm"])
def test_no_row_or_column_holds_figures_of_different_tokens(
    tmp_path: Path, tokens: dict[str, str] | None, kind: str
) -> None:
    runs = write_pair(tmp_path, tokens, kind=kind)
    data = build(runs)
    per_token = [row for row in data.summary.rows if "per " in row.metric and "token" in row.metric and not row.bits]
    assert len(per_token) >= 2
    for row in per_token:
        assert sum(cell is not None for cell in row.cells) == 1
        theirs = tokens is None and kind == "hf" and row.cells[1] is not None
        assert row.metric.startswith(f"perplexity per {BLOCKS if theirs else 'own token ('}")
        assert not row.published or row.cells[0] is not None  # published figures count GPT-2's tokens
    for unit in ("bits per byte", "perplexity per word"):
        (row,) = [row for row in data.summary.rows if row.metric == unit]
        assert all(cell is not None for cell in row.cells)
    for _, text in summary_texts(data.summary):
        assert "perplexity per token" not in text.replace("perplexity per token of", "") and "per own token" in text
    made = document(data)
    for name in ("md", "latex", "csv", "json", "html"):
        text = render(data) if name == "html" else RENDERERS[name](made)
        for words in ("reference, perplexity per token", "perplexity per token of"):
            text = text.replace(words, "")
        assert "perplexity per token" not in text
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"](made))))
    owners: dict[str, set[str]] = {}
    for one in rows:
        if "token" in one["metric"] and one["status"] == "evaluated":
            owners.setdefault(one["metric"].rpartition(" per ")[2], set()).add(one["model"])
    assert sorted(map(len, owners.values())) == [1, 1]
    page = render(data)
    assert '<th scope="col" class="num">Per own token</th>' in page
    named = [one for one in rows if one["metric"].rpartition(" per ")[2].startswith(("own token (", BLOCKS))]
    assert page.count('<span class="note">per own token (') + page.count('<span class="note">per token of ') == len(
        named
    )
    (stack,) = {label for task in data.tasks if task.perplexity for label in task.perplexity.stacks}
    assert stack == "ltm-x"


def test_the_tokens_of_the_blocks_are_called_so(tmp_path: Path) -> None:
    """`lm_eval --model hf --tasks ltm_ptb` divides by the block tokenizer's tokens, whatever the model reads."""
    write_pair(tmp_path, None)
    blocks = f"exact, perplexity per {BLOCKS}"
    names = [figure.metric for figure in figures(tmp_path / "other-x") if figure.per_token]
    assert names == [blocks]  # on a page of its own too
    assert [figure.metric for one in index(tmp_path).runs for figure in one.figures].count(blocks) == 1
    page = render(build(find_runs([tmp_path / "other-x"])))
    assert "per token of the task&#39;s blocks (gpt2)</span>" in page and "Per token</th>" in page
    assert not any(row.published for row in build(find_runs([tmp_path / "other-x"])).summary.rows if row.cells[0] and
                   row.cells[0].per_token)  # fmt: skip
    write_ppl_run(tmp_path, model="third-x", nats=lambda i: 25.0 + i, change=told(None))
    (row,) = [row for row in build(find_runs([tmp_path])).summary.rows if row.metric.endswith(BLOCKS)]
    assert [cell is not None for cell in row.cells] == [
        False,
        True,
        True,
    ]  # LTM apart though GPT-2's tokens are its own
    found = compare(find_runs([tmp_path / "ltm-x", tmp_path / "other-x"]))
    assert {row.first.unit for row in found.rows} == {"byte", "word"}


def test_models_of_the_same_tokens_share_a_row(tmp_path: Path) -> None:
    """Whatever their tokenizers are called."""
    data = build(write_pair(tmp_path, {"name": "gpt2-large", "sha256": GPT2_DIGEST}))
    (row,) = [row for row in data.summary.rows if row.metric == "perplexity per token"]
    assert all(cell is not None for cell in row.cells) and row.published
    assert "per own token" not in render(data).lower()
    assert {row.first.unit for row in compare(find_runs([tmp_path])).rows} == {"byte", "token", "word"}


def test_the_same_tokenizer_told_and_other_counts_found(tmp_path: Path) -> None:
    """What is counted wins over what is told."""
    write_pair(tmp_path, {"name": "gpt2", "sha256": GPT2_DIGEST})
    (samples,) = tmp_path.glob("other-x/samples_*")
    rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    rows[2]["ppl_per_token"][1] += 1
    samples.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    (results,) = tmp_path.glob("other-x/results_*")
    content = json.loads(results.read_text("utf-8"))
    (figures,) = content["results"].values()
    nats, tokens = (sum(row["ppl_per_token"][i] for row in rows) for i in (0, 1))
    figures["ppl_per_token,none"] = math.exp(nats / tokens)
    results.write_text(json.dumps(content), "utf-8")
    found = [row for row in build(find_runs([tmp_path])).summary.rows if "own token" in row.metric]
    assert len(found) == 3
    assert all(sum(cell is not None for cell in row.cells) == 1 for row in found)


@pytest.mark.parametrize("tokens", [OTHER, None])
def test_compare_leaves_figures_of_other_tokens_out(tmp_path: Path, tokens: dict[str, str] | None) -> None:
    found = compare(write_pair(tmp_path, tokens))
    assert {row.first.unit for row in found.rows} == {"byte", "word"}
    assert any("do not tell the same tokens" in why for _, _, why in found.left_out)


def test_an_index_and_a_history_name_the_tokens(tmp_path: Path) -> None:
    write_pair(tmp_path / "i")
    metrics = [(one.label, figure.metric) for one in index(tmp_path / "i").runs for figure in one.figures]
    assert ("ltm-x", "bound, perplexity per own token (gpt2)") in metrics
    assert ("other-x", "exact, perplexity per own token (llama)") in metrics
    assert not any(metric.endswith("perplexity per token") for _, metric in metrics)
    for name, tokens in (("a", OTHER), ("b", {"name": "gpt2", "sha256": GPT2_DIGEST})):
        for step in (1, 2):
            write_ppl_run(
                tmp_path / "h" / name / str(step),
                model=f"{name}_step{step}",
                nats=lambda i: 30.0 + i,
                change=told(tokens, step=step),
            )
    frame, _ = curves_of(find_runs([tmp_path / "h"]))
    per_token = frame[frame["metric"].str.contains("token")].groupby(["metric", "curve"]).size()
    assert [(metric, points) for (metric, _), points in per_token.items()] == [
        ("exact, perplexity per own token (gpt2)", 2),
        ("exact, perplexity per own token (llama)", 2),
    ]


def test_a_history_of_runs_that_tell_no_tokens_is_one_curve(tmp_path: Path) -> None:
    for step in (1, 2):
        write_ppl_run(tmp_path / str(step), model=f"m_step{step}", nats=lambda i: 3.0 + i, change=told(None, step=step))
    frame, _ = curves_of(find_runs([tmp_path]))
    curve = frame[frame["metric"].str.contains("token")]
    assert list(curve["metric"]) == [f"exact, perplexity per {BLOCKS}"] * 2 and curve["curve"].nunique() == 1


def test_a_run_counts_each_models_own_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks counted in bytes: `gpt2-demo` reads the demo's tokens, so its figure is of these and stands beside it.

    The right value is its log-likelihood divided by its own tokens of the very texts.
    """
    from lm_eval.models.huggingface import HFLM

    ranks = byte_ranks(tmp_path / "bytes.tiktoken")
    metadata = json.dumps({"block_tokenizer": str(ranks), "block_tokens": 600})
    options = ["--task", "ptb", "--limit", "2", "--t_fast", "1", "--rows", "bound", "--metadata", metadata]
    assert cli.main(["run", *options, "--baseline", "gpt2-demo", "-o", str(tmp_path / "r"), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("per token: of this model's own tokens (") == 2
    runs = {run.model_name: run for run in find_runs([tmp_path / "r"])}
    told_ = [runs[name].config["tokenizer"]["sha256"] for name in ("demo", "gpt2-demo")]
    assert told_[0] == told_[1]
    gpt2 = HFLM(pretrained=str(assets_dir() / "gpt2-demo"), device="cpu")
    samples = read_samples(runs["gpt2-demo"], "ltm_ptb")
    nats = [sample.metrics["ppl_per_token"][0] for sample in samples]
    own = [len(gpt2.tok_encode(str(sample.doc["text"]))) for sample in samples]
    figures = {score.metric: score.value for score in runs["gpt2-demo"].tasks["ltm_ptb"].scores}
    assert figures["ppl_per_token"] == pytest.approx(math.exp(sum(nats) / sum(own)))
    assert sum(own) < sum(sample.doc["n_tokens_block"] for sample in samples) / 2
    (row,) = [row for row in build(list(runs.values())).summary.rows if row.metric == "perplexity per token"]
    assert [round(cell.value or 0, 6) for cell in row.cells if cell][1] == round(figures["ppl_per_token"] or 0, 6)
    assert not row.published  # these count GPT-2's tokens
    page = (tmp_path / "r" / "report.html").read_text("utf-8")
    assert "Per token</th>" in page and "per own token" not in page.lower()
    before = sorted((tmp_path / "r").rglob("results_*.json"))
    assert cli.main(["rescore", str(tmp_path / "r")]) == 0
    (new,) = [p for p in (tmp_path / "r" / "gpt2-demo").glob("results_*.json") if p not in before]
    again = json.loads(new.read_text("utf-8"))["results"]["ltm_ptb"]["ppl_per_token,none"]
    assert again == figures["ppl_per_token"]
