"""The perplexity tasks inside lm-eval: any model runs them, and their figures are lm-eval's own on the same text."""

from __future__ import annotations

import json
import logging
import math
import random
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from tiny import byte_ranks, tiny_folder, tiny_gpt2

from ltm_eval.data.blocks import block_tokenizer
from ltm_eval.data.sets import TEXT_SETS
from ltm_eval.harness.ltm import LTM
from ltm_eval.harness.options import RunConfig
from ltm_eval.harness.run import run as run_command
from ltm_eval.inference.draws import RollingScore
from ltm_eval.model.tokenizer import END_OF_TEXT, load_ranks
from ltm_eval.results.files import read_run
from ltm_eval.system.errors import MachineError
from ltm_eval.system.files import tasks_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lm-eval's imports
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

TASKS = [f"ltm_{name}" for name in TEXT_SETS]
PLAIN = {"ppl_per_token", "ppl_per_word", "ppl_per_byte", "bits_per_byte"}
ROWS = {"bound": 2.0, "bound_stderr": 0.1, "nll_given_z": 1.5, "kl": 0.5, "as_released": 1.0, "causal": 2.5}


class Canned(LM):
    """Answers each text from its length alone; as an LTM would where asked to."""

    def __init__(self, *, as_ltm: bool = False) -> None:
        super().__init__()
        self.as_ltm = as_ltm
        self.texts: list[str] = []

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        self.texts += texts
        if not self.as_ltm:
            return [-2.0 * len(text) for text in texts]
        parts = [{name: value * len(text) for name, value in ROWS.items()} for text in texts]
        return [RollingScore(rows, tokens=2 * len(text)) for rows, text in zip(parts, texts, strict=True)]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.texts += ["|".join(request.args) for request in requests]
        return [(-float(len(request.args[1])), len(request.args[1]) > 4) for request in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        raise AssertionError("not a rolling log-likelihood")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Bytes for GPT-2's vocabulary, empty caches, no warnings of lm-eval's, and no inventory of the machine."""
    import datasets.config

    caches = tmp_path_factory.mktemp("caches")
    ranks = load_ranks(byte_ranks(caches / "bytes.tiktoken"))
    monkeypatch.setattr("ltm_eval.data.blocks.load_gpt2", lambda: ranks)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", caches)
    monkeypatch.delenv("LTM_EVAL_DATA_DIR", raising=False)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All seven sets, made up, in their authors' forms."""
    path = tmp_path_factory.mktemp("data")
    sentences = [f"sentence {i} is {'very ' * (i % 5)}short , is n't it ?" for i in range(40)]
    lines = "\n".join(sentences) + "\n"
    passages = "".join(json.dumps({"text": f"“ Well ” {s} word{i % 3}"}) + "\n" for i, s in enumerate(sentences))
    papers = "".join(json.dumps({"article_text": sentences[i : i + 8]}) + "\n" for i in range(0, 40, 8))
    content = {
        "ptb/ptb.valid.txt": lines,
        "wikitext/wiki.valid.raw": "".join(f" = Page {i} = \n \n {s} \n" for i, s in enumerate(sentences)),
        "lm1b/news.en.heldout-00000-of-00050": lines,
        "lambada/lambada_test.jsonl": passages,
        "ag_news/test.csv": "".join(f'"{i % 4 + 1}","Title {i}","{s}"\n' for i, s in enumerate(sentences)),
        "pubmed/val.txt": papers,
        "arxiv/val.txt": papers,
    }
    for name, text in content.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> HFLM:
    """A GPT-2 over bytes with random weights, as lm-eval's own `hf` model; weights enlarged so that texts differ."""
    path = tiny_gpt2(tmp_path_factory.mktemp("gpt2") / "tiny")
    model = HFLM(pretrained=str(path), device="cpu", batch_size=4)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(3)
    return model


def manager(data: object, **metadata: Any) -> TaskManager:
    return TaskManager(include_defaults=False, include_path=str(tasks_dir()), metadata={"data": str(data), **metadata})


def run(
    model: LM, data: Path | str, tasks: list[str], *, metadata: dict[str, Any] | None = None, **options: Any
) -> Any:
    options = {"bootstrap_iters": 0, "verbosity": None, **options}
    found = lm_eval.simple_evaluate(model=model, tasks=tasks, task_manager=manager(data, **(metadata or {})), **options)
    assert found is not None
    return found


def figures(found: Any, task: str) -> dict[str, Any]:
    """Metric to value, without lm-eval's own entries."""
    values = {key.partition(",")[0]: value for key, value in found["results"][task].items() if "," in key}
    return {name: value for name, value in values.items() if not name.endswith("_stderr_stderr")}


def theirs(model: LM, texts: list[str], tmp_path: Path) -> tuple[dict[str, float], list[float]]:
    """lm-eval's own rolling task on the same texts: its figures and the log-likelihood of each text."""
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    config = {
        "task": "their_texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "texts.jsonl")}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    }
    found = lm_eval.simple_evaluate(
        model=model, tasks=[config], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )
    assert found is not None
    values = {key.partition(",")[0]: value for key, value in found["results"]["their_texts"].items() if "," in key}
    return values, [sample["byte_perplexity"][0] for sample in found["samples"]["their_texts"]]


# Same figures as lm-eval's -------------------------------------------------------------------------------------------


def test_documents_have_lm_evals_own_figures(gpt2: HFLM, folder: Path, tmp_path: Path) -> None:
    found = run(gpt2, folder, ["ltm_ag_news"], metadata={"protocol": "documents"}, limit=12)
    texts = [sample["doc"]["text"] for sample in found["samples"]["ltm_ag_news"]]
    ours, (reference, _) = figures(found, "ltm_ag_news"), theirs(gpt2, texts, tmp_path)
    assert ours["ppl_per_word"] == pytest.approx(reference["word_perplexity"], rel=1e-4)
    assert ours["ppl_per_byte"] == pytest.approx(reference["byte_perplexity"], rel=1e-4)
    assert ours["bits_per_byte"] == pytest.approx(reference["bits_per_byte"], rel=1e-4)


@pytest.mark.parametrize("block_tokens", [256, 1_024])
def test_blocks_have_lm_evals_own_nats_and_transformers_own_cross_entropy(
    gpt2: HFLM, folder: Path, tmp_path: Path, block_tokens: int
) -> None:
    found = run(gpt2, folder, ["ltm_wikitext"], metadata={"block_tokens": block_tokens}, limit=5)
    docs = [sample["doc"] for sample in found["samples"]["ltm_wikitext"]]
    nats = -math.fsum(theirs(gpt2, [doc["text"] for doc in docs], tmp_path)[1])
    ours = figures(found, "ltm_wikitext")
    for metric, unit in (("ppl_per_token", "n_tokens_block"), ("ppl_per_word", "n_words"), ("ppl_per_byte", "n_bytes")):
        assert ours[metric] == pytest.approx(math.exp(nats / sum(doc[unit] for doc in docs)), rel=1e-4)
    assert ours["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(doc["n_bytes"] for doc in docs), rel=1e-4)
    losses, tokens = [], 0
    for doc in docs:
        text = list(doc["text"].removesuffix(END_OF_TEXT))
        ids = [gpt2.eot_token_id, *gpt2.tok_encode("".join(text)), gpt2.eot_token_id]
        with torch.no_grad():
            logits = gpt2.model(torch.tensor([ids])).logits[0, :-1].double()
        losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")))
        tokens += len(ids) - 1
        assert len(ids) == block_tokens
    assert ours["ppl_per_token"] == pytest.approx(math.exp(math.fsum(losses) / tokens), rel=1e-4)


@pytest.mark.parametrize("order", [1, -1])
def test_figures_do_not_depend_on_order_or_batch(gpt2: HFLM, folder: Path, order: int) -> None:
    chosen = [0, 3, 5, 9, 7][::order]
    options = {"samples": {"ltm_ptb": chosen}, "metadata": {"block_tokens": 64}}
    whole = figures(run(gpt2, folder, ["ltm_ptb"], **options), "ltm_ptb")
    gpt2.batch_size_per_gpu, before = 1, gpt2.batch_size_per_gpu
    single = figures(run(gpt2, folder, ["ltm_ptb"], **options), "ltm_ptb")
    gpt2.batch_size_per_gpu = before
    assert whole == pytest.approx(single, rel=1e-5)


# The tasks -----------------------------------------------------------------------------------------------------------


def test_the_seven_tasks_run_under_one_name(folder: Path) -> None:
    model = Canned()
    found = run(model, folder, ["ltm_ppl"], metadata={"block_tokens": 128}, limit=3)
    assert set(found["results"]) == set(TASKS)
    for task in TASKS:
        values = figures(found, task)
        assert set(values) == PLAIN | {f"{name}_stderr" for name in PLAIN}
        docs = [sample["doc"] for sample in found["samples"][task]]
        assert list(docs[0]) == ["text", "n_words", "n_bytes", "n_tokens_block", "index"]
        nats = sum(2.0 * len(doc["text"]) for doc in docs)
        assert values["ppl_per_token"] == pytest.approx(math.exp(nats / sum(doc["n_tokens_block"] for doc in docs)))
        assert isinstance(values["ppl_per_token_stderr"], float)
    assert all(text.endswith(END_OF_TEXT) for text in model.texts)
    json.dumps(found["configs"])


def test_a_score_of_an_ltm_survives_lm_eval(folder: Path) -> None:
    found = run(Canned(as_ltm=True), folder, ["ltm_ptb"], metadata={"block_tokens": 128})
    values = figures(found, "ltm_ptb")
    docs = [sample["doc"] for sample in found["samples"]["ltm_ptb"]]
    length = sum(len(doc["text"]) for doc in docs)
    assert values["ppl_per_token_bound"] == pytest.approx(math.exp(1.0))  # 2 nats a character, 2 tokens a character
    assert values["ppl_per_byte_bound"] == pytest.approx(math.exp(2 * length / sum(d["n_bytes"] for d in docs)))
    assert values["nll_per_token_given_z"] == pytest.approx(0.75)
    assert values["kl_per_token"] == pytest.approx(0.25)
    assert values["ppl_per_token_as_released"] == pytest.approx(math.exp(0.5))
    assert values["ppl_per_token_as_released_block_mean"] == pytest.approx(math.exp(0.5))
    assert values["ppl_per_token_causal"] == pytest.approx(math.exp(1.25))
    assert values["ppl_per_token_bound_mc_se"] > 0
    assert not PLAIN & set(values)
    assert not {name for name in values if "prior" in name or "iwae" in name}
    sample = found["samples"]["ltm_ptb"][0]
    assert json.loads(json.dumps(sample["filtered_resps"])) == [-2.0 * len(sample["doc"]["text"])]


def test_shots_are_not_reported_where_none_are_read(folder: Path) -> None:
    model = Canned()
    found = run(model, folder, ["ltm_ptb", "ltm_lambada_last_word"], metadata={"block_tokens": 128}, num_fewshot=3)
    assert found["n-shot"] == {"ltm_ptb": 0, "ltm_lambada_last_word": 0}
    zero = Canned()
    run(zero, folder, ["ltm_ptb", "ltm_lambada_last_word"], metadata={"block_tokens": 128})
    assert model.texts == zero.texts


def test_last_words_of_lambada(folder: Path, tmp_path: Path) -> None:
    model = Canned()
    found = run(model, folder, ["ltm_lambada_last_word"])
    values = figures(found, "ltm_lambada_last_word")
    assert model.texts[1] == "“ Well ” sentence 1 is very short , is n't it ?| word1"
    assert values["acc"] == 1.0
    assert values["perplexity"] == pytest.approx(math.exp(6))
    assert values["perplexity_stderr"] == 0.0
    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/lambada/lambada_openai.yaml").read_text())
    config.pop("tag")
    config |= {
        "task": "their_lambada",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {"test": str(folder / "lambada" / "lambada_test.jsonl")}},
    }
    reference = Canned()
    found = lm_eval.simple_evaluate(
        model=reference, tasks=[config], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )
    assert found is not None
    assert reference.texts == model.texts
    assert found["results"]["their_lambada"]["perplexity,none"] == pytest.approx(values["perplexity"])
    assert found["results"]["their_lambada"]["acc,none"] == values["acc"]


def test_the_samples_run_without_gpt2s_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MachineError("no network")

    monkeypatch.setattr("ltm_eval.data.blocks.load_gpt2", absent)
    found = run(Canned(), "sample", ["ltm_ppl", "ltm_lambada_last_word"], limit=2)
    assert set(found["samples"]) == {*TASKS, "ltm_lambada_last_word"}
    demo = block_tokenizer("demo")
    for task in TASKS:
        docs = [sample["doc"] for sample in found["samples"][task]]
        counted = [len(demo.encode(doc["text"], end_of_text=True)) for doc in docs]
        assert [doc["n_tokens_block"] for doc in docs] == counted and max(counted) <= 255
        nats = 2.0 * sum(len(doc["text"]) for doc in docs)
        assert figures(found, task)["ppl_per_token"] == pytest.approx(math.exp(nats / sum(counted)))
    with pytest.raises(MachineError, match="block_tokenizer"):
        manager("sample", block_tokenizer="gpt2").load(["ltm_ptb"])


def test_every_task_file_is_indexed_and_documented() -> None:
    known = manager("sample").all_tasks
    files = sorted(path for name in TEXT_SETS for path in (tasks_dir() / name).glob("*.yaml"))
    assert [path.stem for path in files] == sorted([*TASKS, "ltm_lambada_last_word"])
    for path in files:
        assert path.stem in known
        assert f"# {path.parent.name}" in (path.parent / "README.md").read_text(encoding="utf-8")


def test_every_metric_is_listed_with_its_direction(folder: Path) -> None:
    task = manager(folder, block_tokens=64).load(["ltm_ptb"])["tasks"]["ltm_ptb"]
    rows = {**ROWS, "prior": 3.0, "iwae": 1.9}
    doc = task.test_docs()[0]
    produced = {name for answer in (-5.0, RollingScore(rows, tokens=3)) for name in task.process_results(doc, [answer])}
    assert produced == set(task.aggregation()) == set(task.higher_is_better())
    assert not any(task.higher_is_better().values())


# With an LTM ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ltm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("ltm") / "tiny")


def news(path: Path, texts: list[str]) -> Path:
    """A folder with these texts as AG News, each a title and a description."""
    (path / "ag_news").mkdir(parents=True)
    rows = "".join(f'"1","{text.split()[0]}","{" ".join(text.split()[1:])}"\n' for text in texts)
    (path / "ag_news" / "test.csv").write_text(rows, encoding="utf-8")
    return path


def letters(seed: int, words: int) -> str:
    source = random.Random(seed)
    return " ".join("".join(source.choices("abcdefgh", k=source.randrange(2, 9))) for _ in range(words))


def test_long_texts_have_the_figures_of_lm_evals_own_wikitext_task(ltm: Path, tmp_path: Path) -> None:
    """Its formulas on the same pages, most of them longer than the context of 192."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

    pages = [letters(seed, words) for seed, words in enumerate((20, 60, 110))]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in pages))
    model = LTM(str(ltm), t_fast=2, rows="bound")
    config = {
        "task": "their_wikitext",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "pages.jsonl")}},
        "output_type": "loglikelihood_rolling",
        "test_split": "test",
        "doc_to_text": "",
        "doc_to_target": wikitext_detokenizer,
        "process_results": process_results,
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    }
    found = lm_eval.simple_evaluate(
        model=model, tasks=[config], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )
    assert found is not None
    reference = figures(found, "their_wikitext")
    assert sorted(record.fitted_windows for record in model.records) == [1, 2, 4]
    ours = run(model, news(tmp_path, pages), ["ltm_ag_news"], metadata={"protocol": "documents"})
    assert [sample["doc"]["text"] for sample in ours["samples"]["ltm_ag_news"]] == pages
    values = figures(ours, "ltm_ag_news")
    assert values["ppl_per_word_bound"] == pytest.approx(reference["word_perplexity"], rel=1e-9)
    assert values["ppl_per_byte_bound"] == pytest.approx(reference["byte_perplexity"], rel=1e-9)
    assert values["bits_per_byte_bound"] == pytest.approx(reference["bits_per_byte"], rel=1e-9)
    nats = -math.fsum(sample["filtered_resps"][0] for sample in found["samples"]["their_wikitext"])
    assert nats == pytest.approx(values["bits_per_byte_bound"] * math.log(2) * sum(map(len, pages)), rel=1e-9)
    assert values["ppl_per_word_bound"] == pytest.approx(math.exp(nats / (20 + 60 + 110)), rel=1e-9)


def test_a_run_tells_reference_rows_signatures_and_steps(ltm: Path, tmp_path: Path) -> None:
    texts = [letters(seed, 12 + 5 * seed) for seed in range(4)]
    config = RunConfig(
        model=str(ltm),
        tasks=("ag_news",),
        data=str(news(tmp_path / "data", texts)),
        metadata='{"protocol": "documents"}',
        output_path=str(tmp_path / "out"),
        t_fast="auto",
        rows="bound",
        quiet=True,
    )
    outcome = run_command(config)
    (path,) = outcome.results
    written = json.loads(path.read_text(encoding="utf-8"))["ltm_eval"]
    steps = written["mean_fast_steps"]["ltm_ag_news"]
    assert 32 <= steps <= 512
    told = read_run(path).extra.floors
    assert told is not None
    uniform, unigram = told["ltm_ag_news"]
    assert (uniform.name, unigram.name, uniform.documents) == ("uniform", "unigram", 4)
    assert uniform.bytes == sum(map(len, texts))
    assert uniform.figures["bits_per_byte"] == pytest.approx(math.log2(257))
    assert 3 < (unigram.figures["bits_per_byte"] or 0) < 8  # nine letters, and bytes it has yet to learn of
    line = written["signatures"]["ltm_ag_news"]["ppl_per_token_bound,none"]
    assert line.startswith("ppl_per_token_bound|task:ltm_ag_news@1.0|preset:bound|t_fast:auto|draws:8|tok:")
    assert "|window:192|split:test|protocol:documents|" in line
    assert outcome.report is not None
    page = outcome.report.read_text(encoding="utf-8")
    assert line in page
    assert f"mean {steps:.1f} (" in page
    assert "reference rows" in page
