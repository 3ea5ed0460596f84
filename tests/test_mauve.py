"""MAUVE: what needs mauve-text is skipped where the extra is not installed; the rest runs anywhere."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import warnings
from dataclasses import replace
from random import Random
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ltm_eval.harness.options import RunConfig
from ltm_eval.model.tokenizer import END_OF_TEXT, Tokenizer
from ltm_eval.system.errors import DataError, MachineError, UsageError
from ltm_eval.system.files import tasks_dir
from ltm_eval.tasks import mauve
from ltm_eval.tasks.features import FeatureModel, Featuriser, locate
from ltm_eval.tasks.mauve import Answers, Comparison, buckets_for, compare, cut, joined, mauve_dataset, summary_of
from ltm_eval.tasks.mauve_options import MAUVE_PRESETS, MauveConfig, mauve_config, options_of
from tests.test_wandb import Run, run, tables
from tests.tiny import tiny_folder, tiny_gpt2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lm-eval's imports
    import lm_eval
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

__all__ = ["run"]  # a fixture

INSTALLED = all(importlib.util.find_spec(name) for name in ("mauve", "faiss", "sklearn"))
needs_mauve = pytest.mark.skipif(not INSTALLED, reason="mauve-text is not installed (extra `mauve`)")
WORDS = ["the", "cat", "sat", "on", "a", "red", "mat", "while", "two", "old", "dogs", "ran", "round", "some", "trees"]
N = 40
SMALL = {"mauve_prompt_tokens": 20, "mauve_continuation_tokens": 40, "mauve_generations": 2, "mauve_kmeans_seeds": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gpt2(tmp_path_factory.mktemp("mauve") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WebText of N long texts and two short ones."""
    folder, random = tmp_path_factory.mktemp("data"), Random(1)
    texts = ["short", *(f"{i} " + " ".join(random.choices(WORDS, k=30)) for i in range(N)), "also short"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "webtext.test.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Tokenizer) -> Iterator[None]:
    """Bytes for GPT-2's vocabulary, caches of this test's own, no warnings of lm-eval's."""
    import datasets.config

    monkeypatch.setattr("ltm_eval.tasks.mauve.load_gpt2", lambda: tokenizer)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("LTM_EVAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("LTM_EVAL_DATA_DIR", raising=False)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    summary_of.cache_clear()
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def unrehearsed(config: MauveConfig) -> FeatureModel:
    """In place of the rehearsal, where mauve-text may be absent."""
    return locate(config.feature_model)


# Human texts


def test_prompt_and_continuation_are_the_first_tokens(tokenizer: Tokenizer) -> None:
    config = MauveConfig(prompt_tokens=4, continuation_tokens=3)
    found = cut("abcdefghij", tokenizer, config)
    assert found is not None and (found.prompt, found.continuation) == ("abcd", "efg")
    assert cut("abcdef", tokenizer, config) is None
    short = cut("abcdef", tokenizer, replace(config, shortest_tokens=5))
    assert short is not None and (short.prompt, short.continuation) == ("abcd", "ef")
    assert cut("abcd", tokenizer, replace(config, shortest_tokens=1)) is None  # nothing would follow the prompt


def test_cuts_never_fall_inside_a_character(tokenizer: Tokenizer) -> None:
    found = cut("ab€d€fgh", tokenizer, MauveConfig(prompt_tokens=4, continuation_tokens=4))
    assert found is not None and (found.prompt, found.continuation) == ("ab", "€d")


def test_a_long_text_is_cut_as_if_it_were_encoded_whole(tokenizer: Tokenizer) -> None:
    config = MauveConfig(prompt_tokens=3, continuation_tokens=2)
    text = "".join(chr(97 + i % 26) for i in range(5_000))
    assert cut(text, tokenizer, config) == cut(text[:5], tokenizer, config)


def test_short_examples_are_joined(tokenizer: Tokenizer) -> None:
    assert list(joined(["aa", "bb", "cccccc", "d"], tokenizer, 6)) == ["aa\n\nbb", "cccccc"]


def test_rows_of_the_task(data: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mauve, "rehearse", unrehearsed)
    told = {"data": str(data), "mauve_feature_model": str(model), **SMALL}
    rows = mauve_dataset(**told, pretrained="x", preset="bound")["references"]
    assert len(rows) == N and {len(row["prompt"]) for row in rows} == {20}
    assert {len(row["references"][0]) for row in rows} == {40}
    facts = json.loads(rows.info.description)
    assert facts["long_enough"] == N and facts["examples"] == N + 2 and facts["mauve"]["prompt_tokens"] == 20
    assert facts["feature_model_digest"] and facts["sha256"] and facts["complete"] is False
    (row,) = mauve_dataset(**told, mauve_conditional="false", mauve_samples=7)["references"]
    assert row["prompt"] == END_OF_TEXT and [len(text) for text in row["references"]] == [60] * 7
    few = {**told, "mauve_continuation_tokens": 5_000}
    with pytest.raises(DataError, match=rf"0 of {N + 2} texts have the 5020 GPT-2 tokens .* mauve_joined=true"):
        mauve_dataset(**few)


def test_the_mark_of_the_end_of_a_text_is_refused(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mauve, "rehearse", unrehearsed)
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": f"a {END_OF_TEXT} b" * 9}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="read it as the end of a text"):
        mauve_dataset(data=str(tmp_path), mauve_feature_model=str(model), **SMALL)


def test_without_mauve_text_one_line_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mauve" else find(name))
    with pytest.raises(MachineError, match=r"pip install 'ltm-eval\[mauve\]'"):
        mauve_dataset(data=str(data))


@needs_mauve
def test_what_is_broken_is_known_before_anything_is_generated(
    data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"data": str(data), "mauve_feature_model": str(model), **SMALL}
    broken = np.full((1, 16), np.nan, dtype=np.float32)
    with monkeypatch.context() as patched:
        patched.setattr(Featuriser, "_last_states", lambda self, network, ids, device: broken)
        with pytest.raises(DataError, match="not finite"):
            mauve_dataset(**told)

    def fail(name: str) -> Any:
        raise ImportError(f"{name}: undefined symbol")

    monkeypatch.setattr("ltm_eval.tasks.mauve.import_module", fail)
    with pytest.raises(MachineError, match=r"cannot be imported .* pip install 'ltm-eval\[mauve\]'"):
        mauve_dataset(**told)


# Options


def test_presets() -> None:
    sedd, paper = (mauve_config(name) for name in MAUVE_PRESETS)
    assert (sedd.prompt_tokens, sedd.continuation_tokens, sedd.generations, sedd.samples) == (50, 50, 5, 1_000)
    assert sedd.include_prompt and sedd.max_text_length == 256 and sedd.least_tokens == 100
    assert buckets_for(1_000, sedd, of=sedd.samples) == 100  # the bucket rule of SSD-LM's and SEDD's 1,000 human texts
    assert (paper.prompt_tokens, paper.samples, paper.buckets, paper.least_tokens) == (35, 5_000, 500, 36)
    assert paper.prompt_tokens + paper.continuation_tokens + 1 == 1_024
    assert mauve_config("sedd", sampling="greedy").repeats == 1
    alone = mauve_config("sedd", conditional=False)
    assert (alone.prompt_tokens, alone.continuation_tokens) == (0, 100)


def test_sampling_becomes_options_of_decoding() -> None:
    samplings = ("multinomial", "nucleus", "greedy", "greedy_z")
    found = [mauve_config("sedd", sampling=name).generation() for name in samplings]
    assert [(one.do_sample, one.top_p, one.top_k) for one in found] == [
        (True, 1.0, 0),  # multinomial
        (True, 0.95, 0),  # nucleus
        (False, 1.0, 0),  # greedy
        (True, 1.0, 1),  # greedy_z
    ]


def test_options_come_from_metadata_in_any_spelling() -> None:
    given = {"mauve_samples": "12", "mauve_top_p": 0.9, "mauve_include_prompt": "False", "preset": "bound"}
    found = options_of({**given, "mauve_sampling": "nucleus"})
    assert (found.samples, found.top_p, found.include_prompt, found.texts) == (12, 0.9, False, "webtext")
    assert options_of({"mauve_preset": "mauve-paper", "mauve_buckets": None}).buckets is None
    sample = options_of({"data": "sample"})
    assert (sample.texts, sample.joined) == ("gsm8k", True)
    assert options_of({"data": "sample", "mauve_texts": "ptb"}).joined is False


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mauve_promt_tokens": 3}, r"'mauve_promt_tokens' is not known. Did you mean 'mauve_prompt_tokens'"),
        ({"mauve_samples": "many"}, r"mauve_samples must be a whole number of at least 2, got 'many'"),
        ({"mauve_samples": 2.5}, r"mauve_samples must be a whole number"),
        ({"mauve_samples": 1}, r"at least 2"),
        ({"mauve_joined": "perhaps"}, r"mauve_joined must be true or false"),
        ({"mauve_preset": "seed"}, r"mauve_preset must be one of sedd, mauve-paper.*Did you mean 'sedd'"),
        ({"mauve_sampling": "beam"}, r"mauve_sampling must be one of"),
        ({"mauve_sampling": "greedy", "mauve_generations": 3}, r"one text per prompt"),
        ({"mauve_sampling": "greedy", "mauve_conditional": False}, r"mauve_sampling=greedy_z"),
        ({"mauve_prompt_tokens": 0}, r"mauve_conditional=false"),
        ({"mauve_kmeans_seeds": 0}, r"mauve_kmeans_seeds must be a whole number of at least 1"),
        ({"mauve_top_p": 0.9}, r"mauve_top_p has no effect on mauve_sampling=multinomial"),
        ({"mauve_temperature": 2, "mauve_sampling": "greedy_z"}, r"mauve_temperature has no effect on .*greedy_z"),
    ],
)
def test_wrong_options(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options_of(metadata)


def test_buckets() -> None:
    auto, fixed = MauveConfig(), MauveConfig(buckets=500, samples=5_000)
    assert [buckets_for(n, auto, of=1_000) for n in (1_000, 500, 30, 4)] == [100, 50, 3, 2]
    assert [buckets_for(n, fixed, of=5_000) for n in (5_000, 2_500, 50, 2)] == [500, 250, 5, 2]


# Comparing


def clusters(counts: list[int]) -> np.ndarray[Any, Any]:
    """So many points, all but equal, in each of well separated directions."""
    generator = np.random.default_rng(0)
    points = np.repeat(np.eye(len(counts)), counts, axis=0)
    return (points + 1e-3 * generator.standard_normal(points.shape)).astype(np.float32)


def naive_mauve(p: list[float], q: list[float], scaling: float = 5.0) -> float:
    """Area below exp(-c KL) over 25 mixtures of two histograms, by the trapezoid rule from both sides, halved."""

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x)

    points = [(1.0, 0.0), (0.0, 1.0)]
    for w in np.linspace(1e-6, 1 - 1e-6, 25):
        r = [w * x + (1 - w) * y for x, y in zip(p, q, strict=True)]
        points.append((math.exp(-scaling * kl(q, r)), math.exp(-scaling * kl(p, r))))

    def area(pairs: list[tuple[float, float]]) -> float:
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(pairs, pairs[1:], strict=False))

    return (area(sorted(points)) + area(sorted((y, x) for x, y in points))) / 2


@needs_mauve
def test_equals_the_definition_on_known_histograms(capfd: pytest.CaptureFixture[str]) -> None:
    p, q = [10, 20, 30, 40], [40, 30, 20, 10]
    found = compare(clusters(p), clusters(q), buckets=4, seed=25, scaling=5.0)
    expected = naive_mauve([x / 100 for x in p], [x / 100 for x in q])
    assert found.value == pytest.approx(expected, abs=1e-4) and 0.3 < expected < 0.9
    assert found.buckets == 4 and len(found.curve) == 27
    assert capfd.readouterr() == ("", "")  # faiss would complain of few points on stderr


@needs_mauve
def test_against_itself_and_against_noise() -> None:
    generator = np.random.default_rng(1)
    human = generator.standard_normal((400, 16)).astype(np.float32)
    other = generator.standard_normal((400, 16)).astype(np.float32)
    noise = (generator.standard_normal((400, 16)) + 6 * np.eye(16)[0]).astype(np.float32)
    far = human - (6 * np.eye(16)[0]).astype(np.float32)
    options: dict[str, Any] = {"buckets": 40, "seed": 25, "scaling": 5.0}
    assert compare(human, human, **options).value > 0.98
    assert compare(human, other, **options).value > 0.9
    assert compare(far, noise, **options).value < 0.02


def count_words(p: Any, q: Any, *, buckets: int, seed: int, scaling: float) -> Comparison:
    """In mauve-text's place where the flow is tested: tells sizes, sides and seed."""
    value = float(p.mean() - q.mean()) + seed / 1_000
    return Comparison(value, buckets, ((1.0, 0.0), (value, value), (0.0, 1.0)))


class Lengths:
    """In a feature model's place: a text's length."""

    model = type("Found", (), {"digest": "d"})

    def features(self, texts: list[str]) -> np.ndarray[Any, Any]:
        return np.array([[len(text)] for text in texts], dtype=np.float32)


def test_answers_are_grouped_by_generation_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mauve, "compare", count_words)
    monkeypatch.setattr("ltm_eval.tasks.mauve.compare", count_words)
    monkeypatch.setattr(mauve, "featuriser_of", lambda config, progress: Lengths())
    config = MauveConfig(
        prompt_tokens=1, samples=4, generations=2, generation_seeds=2, kmeans_seeds=2, feature_model="f"
    )
    items = tuple(Answers("p", ("hh",), ("a", "a a", "a a a", "a a a"), config) for _ in range(4))
    found = summary_of(items)
    first, second = 3 - (2 + 4) / 2, 3 - (6 + 6) / 2
    assert found.scores == pytest.approx(np.array([[first + 0.025, first + 0.026], [second + 0.025, second + 0.026]]))
    assert (found.n_human, found.n_generated, found.buckets, found.ceiling_buckets) == (4, 8, 2, 2)
    flat = [value for row in found.scores for value in row]
    assert found.figures()["mauve"] == pytest.approx(fmean(flat))
    assert found.figures()["mauve_sd"] == pytest.approx(stdev(flat))
    assert found.spreads()["sd_generation"] == pytest.approx(abs(first - second) / math.sqrt(2))
    assert found.spreads()["sd_kmeans"] == pytest.approx(0.001 / math.sqrt(2))
    assert found.ceiling == pytest.approx((0.025, 0.026))  # all human texts are as long
    assert found.generated.words == pytest.approx(9 / 4) and found.generated.texts == 16 and found.human.words == 1
    assert found.copies == pytest.approx(1 - (2 / 8 + 1 / 8) / 2) and found.copies_human == 3 / 4
    with pytest.raises(DataError, match="multiple of 4 answers"):
        summary_of((*items, Answers("p", ("h",), ("a",), config)))


# Inside lm-eval


class Writer(LM):
    """Continues every prompt by the human text, or by noise."""

    def __init__(self, rows: Any, *, noise: bool) -> None:
        super().__init__()
        self.truth = {row["prompt"]: row["references"] for row in rows}
        self.noise = noise
        self.options: list[dict[str, Any]] = []
        self.asked = 0

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        random, answers = Random(5), []
        for request in requests:
            self.options.append(request.args[1])
            human = self.truth[request.args[0]]
            words = "".join(random.choices("0123456789#%&", k=40))
            answers.append(words if self.noise else human[self.asked % len(human)])
            self.asked += 1
        return answers

    loglikelihood = loglikelihood_rolling = None  # type: ignore[assignment]


def evaluated(
    task: str, *, noise: bool, limit: int | None = None, **metadata: Any
) -> tuple[dict[str, float], Any, Writer]:
    """Figures, the lm-eval results and the model."""
    conditional = not task.endswith("unconditional")
    writer = Writer(mauve_dataset(**metadata, mauve_conditional=conditional)["references"], noise=noise)
    manager = TaskManager(include_defaults=False, include_path=str(tasks_dir()), metadata=metadata)
    found = lm_eval.simple_evaluate(model=writer, tasks=[task], task_manager=manager, limit=limit, verbosity=None)
    assert found is not None
    figures = {key.removesuffix(",none"): value for key, value in found["results"][task].items()}
    return figures, found, writer


@needs_mauve
def test_any_model_of_lm_eval(data: Path, model: Path, run: Run) -> None:
    told = {"data": str(data), "mauve_feature_model": str(model), "mauve_include_prompt": False, **SMALL}
    told |= {"mauve_generation_seeds": 2, "mauve_samples": N, "mauve_buckets": 20}
    human, found, writer = evaluated("ltm_mauve", noise=False, **told)
    assert human["mauve"] > 0.98 and human["words"] == pytest.approx(human["words_human"])
    assert 0 < human["mauve_ceiling"] <= 1.0 and human["mauve_sd"] < 0.02
    assert len(writer.options) == N * 4
    assert writer.options[0] == {
        "until": [],
        "max_gen_toks": 40,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
    }
    assert list(tables(found | {"config": {}}, run)) == ["ltm_mauve_eval_results"]
    rows = found["samples"]["ltm_mauve"]
    assert len(rows) == N and {len(row["resps"][0]) for row in rows} == {4}
    noise, _, _ = evaluated("ltm_mauve", noise=True, **told)
    assert noise["mauve"] < 0.1 < human["mauve_ceiling"]


@needs_mauve
def test_without_a_prompt_one_request_is_repeated(data: Path, model: Path) -> None:
    told = {"data": str(data), "mauve_feature_model": str(model), "mauve_samples": 20, **SMALL}
    figures, found, writer = evaluated("ltm_mauve_unconditional", noise=False, **told)
    assert figures["mauve"] > 0.98
    assert len(writer.options) == 20 * 2 * MauveConfig.generation_seeds
    assert [row["arguments"][0][0] for row in found["samples"]["ltm_mauve_unconditional"]] == [END_OF_TEXT]
    _, found, writer = evaluated("ltm_mauve_unconditional", noise=False, limit=5, **told)
    assert len(writer.options) == 5 * 2 * MauveConfig.generation_seeds
    (row,) = found["samples"]["ltm_mauve_unconditional"]
    assert len(row["mauve"].references) == 5


def test_greedy_by_gen_kwargs_is_refused_before_anything_is_generated(
    data: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mauve, "rehearse", unrehearsed)
    manager = TaskManager(
        include_defaults=False,
        include_path=str(tasks_dir()),
        metadata={"data": str(data), "mauve_feature_model": str(model), **SMALL},
    )
    with pytest.raises(UsageError, match="mauve_sampling=greedy"):
        lm_eval.simple_evaluate(
            model=Writer([], noise=True),
            tasks=["ltm_mauve"],
            task_manager=manager,
            gen_kwargs="do_sample=False",
            verbosity=None,
        )


@needs_mauve
def test_run_writes_figures_curves_and_page(model: Path, data: Path, tmp_path: Path) -> None:
    from ltm_eval.harness.run import run
    from ltm_eval.results.files import find_runs, read_latents

    told = {"mauve_feature_model": str(model), "mauve_prompt_tokens": 8, "mauve_continuation_tokens": 6}
    few = {"mauve_samples": 8, "mauve_generations": 2, "mauve_generation_seeds": 2, "mauve_kmeans_seeds": 2}
    config = RunConfig(
        model=str(tiny_folder(tmp_path / "ltm")),
        tasks=("mauve", "mauve_unconditional"),
        data=str(data),
        metadata=json.dumps({**told, **few}),
        t_fast=1,
        output_path=str(tmp_path / "out"),
        quiet=True,
    )
    outcome = run(config)
    (found,) = find_runs(outcome.results)
    for name in ("ltm_mauve", "ltm_mauve_unconditional"):
        facts = found.tasks[name].generation
        assert len(facts["scores"]) == 2 and len(facts["curve"]) == 27 and facts["n_generated"] == 16
        score = next(score for score in found.tasks[name].scores if score.metric == "mauve")
        assert score.value == pytest.approx(facts["mauve"]) and 0 <= facts["mauve"] <= 1
    records = read_latents(found, "ltm_mauve_unconditional")
    assert len(records) == 32 and {(one.t_fast, one.fitted_tokens, one.read_tokens) for one in records} == {(0, 0, 1)}
    assert {one.repeat for one in records} == set(range(32))
    assert outcome.report is not None
    page = outcome.report.read_text(encoding="utf-8")
    assert page.count("<h3>Generation") == page.count(": divergence curves, each") == 2
    assert "SEDD standard (medium)" not in page  # published figures are not of these 42 texts, and the page says so
    assert "Not the official file: 42 of 5,000 documents (ltm_mauve, " in page


def test_the_mark_in_front_of_a_prompt_is_the_one_the_model_puts_there(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    from ltm_eval.harness.ltm import LTM

    lm = LTM(str(tiny_folder(tmp_path / "ltm")), t_fast=1, device="cpu")
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    made = []
    for prompt in (END_OF_TEXT, ""):
        request = Instance("generate_until", {}, (prompt, options), 0, metadata=("t", 0, 3))
        made.append(lm.generate_until([request] * 3, disable_tqdm=True))
    assert made[0] == made[1] and len(set(made[0])) == 3
