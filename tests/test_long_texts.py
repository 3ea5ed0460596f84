"""The causal row of texts longer than the context: a plain float64 implementation of its definition is the truth."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.api.instance import Instance

from ltm_eval.data.blocks import prepare
from ltm_eval.harness.ltm import LTM
from ltm_eval.inference.bench import decoder, objective
from ltm_eval.inference.bounds import RowOptions, score_documents, windows_of
from ltm_eval.inference.causal import CausalConfig, text_of
from ltm_eval.inference.draws import RollingScore
from ltm_eval.inference.options import fit_config
from ltm_eval.inference.windows import Document, Window, generator, standard_normal
from ltm_eval.model.elbo import IGNORED
from ltm_eval.results.signature import Setting
from ltm_eval.runs.journal import Journal
from ltm_eval.system.errors import UsageError
from ltm_eval.system.progress import silent
from tests.tiny import TINY, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

SEED, STEPS, DRAWS = 7, 3, 8
CONTEXT = 48
MODEL = tiny_model(replace(TINY, max_seq_len=CONTEXT, window_size=24), scale=4.0)
SHORT = tiny_model(replace(TINY, max_seq_len=12, window_size=12), scale=4.0)


def naive_causal_nats(text: tuple[int, ...], *, chunk: int, model: Any = MODEL) -> float:
    """The definition, in float64: each chunk given what the context C holds before it, z fitted on the C tokens before.

    `text` begins with end-of-text. The decoder and the objective are those of `naive`, the steps torch's own AdamW.
    """
    config, fit = model.config, fit_config("bound")
    weights = {name: weight.detach().double() for name, weight in model.named_parameters()}
    mu, log_var = (torch.zeros(1, *config.latent_shape, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for first in range(1, len(text), chunk):  # text[first] is the chunk's first token
        if first > 1:
            seen = text[max(0, first - config.max_seq_len - 1) : first]
            window = Document((Window(seen[:-1], seen[1:]),))
            stream = generator(SEED, "fit", window.key)
            mu, log_var = mu.detach().requires_grad_(), log_var.detach().requires_grad_()
            adam = torch.optim.AdamW([mu, log_var], fit.lr, (fit.beta1, fit.beta2), fit.adam_eps, fit.weight_decay)
            for step in range(STEPS):
                cosine = 0.5 * (1 + math.cos(math.pi * step / STEPS))
                adam.param_groups[0]["lr"] = fit.lr_final + (fit.lr - fit.lr_final) * cosine
                noise = standard_normal(stream, mu.shape).double()
                rows = torch.tensor([seen[:-1]]), torch.tensor([seen[1:]])
                adam.zero_grad()
                torch.stack(objective(weights, config, rows, (mu, log_var, noise))).sum().backward()
                adam.step()
        read = text[max(0, first - 1 + chunk - config.max_seq_len) : first]
        scored = text[first : first + chunk]
        stream = generator(SEED, "causal", Document((Window(read, read),)).key)
        log_p = []
        for _ in range(DRAWS):
            z = mu.detach() + standard_normal(stream, mu.shape).double() * (0.5 * log_var.detach()).exp()
            logits = decoder(weights, config, torch.tensor([[*read, *scored[:-1]]]), z)[0, len(read) - 1 :]
            log_p.append(logits.log_softmax(-1)[range(len(scored)), list(scored)].sum())
        total -= float(torch.stack(log_p).logsumexp(0)) - math.log(DRAWS)
    return total


def letters(length: int) -> str:
    return "".join(random.Random(length).choices("abcdefgh \n", k=length))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("long") / "tiny", MODEL)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("long") / "short", SHORT)


def ltm(folder: Path, **options: Any) -> LTM:
    lm = LTM(str(folder), **{"t_fast": 1, "causal_t_fast": STEPS, "rows": "causal", "seed": SEED, **options})
    lm.progress = silent
    return lm


def scores(lm: LTM, texts: list[str]) -> list[RollingScore]:
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0, metadata=("ltm_test", i, 1))
        for i, text in enumerate(texts)
    ]
    found = lm.loglikelihood_rolling(requests)
    assert all(isinstance(score, RollingScore) for score in found)
    return found  # type: ignore[return-value]


def tokens_of(lm: LTM, text: str) -> tuple[int, ...]:
    return (lm.eot_token_id, *lm.encoding.encode(text))


@pytest.mark.parametrize("chunk", [8, 13, CONTEXT])
@pytest.mark.parametrize("length", [1, 20, CONTEXT, CONTEXT + 1, 72, 2 * CONTEXT, 158])
def test_a_text_is_scored_whole_however_long_it_is(folder: Path, length: int, chunk: int) -> None:
    """1, 1.5, 2 and 3.3 contexts, and less; a chunk that divides the context, one that does not, one that fills it."""
    lm = ltm(folder, causal_chunk=chunk)
    (score,) = scores(lm, [letters(length)])
    assert score.tokens == length
    assert score.rows["causal"] == pytest.approx(
        naive_causal_nats(tokens_of(lm, letters(length)), chunk=chunk), rel=2e-5
    )


@pytest.mark.parametrize("length", [12, 18, 24, 40])
def test_a_context_shorter_than_the_chunk_bounds_the_chunk_and_the_record_says_so(short: Path, length: int) -> None:
    lm = ltm(short)
    assert lm.get_model_info()["rows"]["causal"]["chunk"] == 12
    (score,) = scores(lm, [letters(length)])
    expected = naive_causal_nats(tokens_of(lm, letters(length)), chunk=12, model=SHORT)
    assert score.rows["causal"] == pytest.approx(expected, rel=2e-5)


def test_long_texts_have_the_same_bits_in_any_batch_and_order(folder: Path) -> None:
    texts = [letters(length) for length in (158, 1, CONTEXT, 72, 97, 200, 30)]
    alone = [scores(ltm(folder, causal_chunk=8, batch_size=1), [text])[0] for text in texts]
    for batch_size, order in ((1, range(7)), (3, (6, 2, 5, 0, 1, 3, 4)), (16, (4, 3, 2, 1, 0, 6, 5))):
        found = scores(ltm(folder, causal_chunk=8, batch_size=batch_size), [texts[i] for i in order])
        assert [score.rows for score in found] == [alone[i].rows for i in order]


def test_rows_other_than_the_causal_one_are_sums_over_windows(folder: Path) -> None:
    lm = ltm(folder, rows="all", causal_chunk=8)
    (score,) = scores(lm, [letters(158)])
    options = replace(lm.rows, causal=None)
    windows = windows_of(letters(158), lm.encoding, lm.max_length)
    found = score_documents(lm.model, windows, lm.fit_config, options=options, seed=SEED)
    for name in ("bound", "nll_given_z", "kl", "iwae", "prior", "as_released"):
        assert score.rows[name] == math.fsum(getattr(one, name).nats for one in found)


def test_the_text_of_a_record_counts_each_token_once(folder: Path) -> None:
    lm = ltm(folder)
    scores(lm, [letters(72)])
    (record,) = lm.records
    assert (record.prompt_tokens, record.read_tokens, record.fitted_windows) == (72, 2 * CONTEXT, 2)


def test_the_first_block_of_ptb_costs_what_another_implementation_says(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9067.15 nats for the demo model's 1,463 tokens of it; 9176.31 were the sum over two windows scored apart."""
    cache = data_dir / "tiktoken_cache"
    if cache.is_dir():
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    text = prepare("ptb").blocks[0].text
    lm = LTM("demo", rows="causal", t_fast=1, causal_chunk=64, causal_t_fast=4)
    lm.progress = silent
    (score,) = scores(lm, [text])
    assert score.tokens == 1463
    assert score.rows["causal"] == pytest.approx(9067.15, abs=2)


# Windows that are no text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, CONTEXT, CONTEXT + 1, 72, 2 * CONTEXT, 158])
def test_the_text_of_rolling_windows_is_the_text(folder: Path, length: int) -> None:
    lm = ltm(folder)
    windows = windows_of(letters(length), lm.encoding, lm.max_length)
    assert text_of(Document(tuple(one.windows[0] for one in windows))) == tokens_of(lm, letters(length))


@pytest.mark.parametrize(
    "windows",
    [
        (Window((1, 2, 3), (IGNORED, 3, 4)),),  # what is read before the first target is of no window
        (Window((1, 2, 3), (2, IGNORED, 4)),),  # a token in the middle is not scored
        (Window((1, 2), (2, 3)), Window((7, 4), (4, 5))),  # the second does not go on where the first ended
        (Window((1, 2), (2, 3)), Window((9, 3, 4), (IGNORED, 4, 5))),  # nor does this one
    ],
)
def test_windows_that_do_not_make_up_one_text_are_refused(windows: tuple[Window, ...]) -> None:
    options = RowOptions(draws=2, iwae=0, prior=0, as_released=False, causal=CausalConfig(chunk=8, t_fast=1))
    with pytest.raises(UsageError, match="form one text"):
        score_documents(MODEL, [Document(windows)], fit_config(t_fast=1), options=options, seed=SEED)


# What tells such figures from those of older versions -----------------------------------------------------------------


def test_answers_of_versions_that_scored_windows_are_not_found(folder: Path, tmp_path: Path) -> None:
    settings = ltm(folder).settings
    rows = settings["rows"]
    older = {**settings, "rows": {**rows, "causal": {k: v for k, v in rows["causal"].items() if k != "scope"}}}
    assert Journal(tmp_path, older).key("text") != Journal(tmp_path, settings).key("text")
    assert ltm(folder, rows="bound").settings["rows"]["causal"] is None  # those without the row are kept


def test_the_signature_tells_what_is_scored_as_one() -> None:
    rows = asdict(RowOptions(causal=CausalConfig()))
    older = {**rows, "causal": {name: value for name, value in rows["causal"].items() if name != "scope"}}
    signatures = [
        Setting("ltm_ptb", "1.0", n_shot=0, config={"rows": told}).signature("ppl_per_token_causal")
        for told in (rows, older)
    ]
    assert [part for one in signatures for part in one.split("|") if "scope" in part] == ["scope:text", "scope:window"]
    bound = Setting("ltm_ptb", "1.0", n_shot=0, config={"rows": rows}).signature("ppl_per_token_bound")
    assert "scope" not in bound
