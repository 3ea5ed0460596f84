"""Signatures: the declared settings of a figure in one line, the same wherever they are read from."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from ltm_eval import __version__
from ltm_eval.inference.bounds import RowOptions
from ltm_eval.inference.causal import CausalConfig
from ltm_eval.inference.options import fit_config
from ltm_eval.results.official import read_facts
from ltm_eval.results.signature import Setting, signatures_of

CONFIG: dict[str, Any] = {
    "condition": "prompt",
    "fit": asdict(fit_config("bound", t_fast=64)),
    "rows": asdict(RowOptions(iwae=16, prior=32, causal=CausalConfig(chunk=64, t_fast=4))),
    "tokenizer": {"name": "gpt2"},
    "sizes": {"max_seq_len": 1024},
    "latent_seed": 1234,
    "random_seed": 99,
    "fewshot_seed": 99,
    "limit": None,
    "versions": {"ltm_eval": __version__},
}
DTYPE = torch.float32
SETTING = Setting("ltm_ptb", "1", n_shot=0, config=CONFIG)


def changed(**config: Any) -> Setting:
    return replace(SETTING, config={**CONFIG, **config})


def test_the_bound_has_the_declared_form() -> None:
    expected = (
        "ppl_per_token_bound|task:ltm_ptb@1|preset:bound|t_fast:64|draws:8|tok:gpt2|window:1024|seed:1234"
        f"|v:{__version__}"
    )
    assert SETTING.signature("ppl_per_token_bound") == expected
    read = {"split": "validation", "protocol": "mdlm", "block_tokens": 1024, "insert_eos": False}
    told = replace(SETTING, read=read)
    part = "|window:1024|split:validation|protocol:mdlm|block_tokens:1024|seed:"
    assert part in told.signature("ppl_per_token_bound")


def test_options_that_are_not_the_presets_follow_by_name() -> None:
    fit = asdict(fit_config("published", t_fast="auto", log_var_start=-2.0))
    assert "|preset:published|t_fast:auto|fit_log_var_start:-2.0|draws:8|" in changed(fit=fit).signature(
        "bits_per_byte_bound"
    )
    pair = asdict(fit_config("bound", noise="antithetic", draws=2))
    assert "|fit_noise:antithetic|fit_draws:2|draws:8|" in changed(fit=pair).signature("ppl_per_token_bound")


@pytest.mark.parametrize(
    ("metric", "part"),
    [
        ("nll_per_token_given_z", "|preset:bound|t_fast:64|draws:8|tok"),
        ("ppl_per_token_iwae", "|preset:bound|t_fast:64|draws:16|tok"),
        ("ppl_per_token_prior", "@1|draws:32|tok"),
        ("ppl_per_token_causal", "|preset:bound|t_fast:4|chunk:64|draws:8|tok"),
        ("ppl_per_token_as_released", "@1|preset:released|t_fast:64|tok"),
        ("ppl_per_token_as_released_block_mean", "@1|preset:released|t_fast:64|tok"),
        ("word_perplexity", "|preset:bound|t_fast:64|draws:8|tok"),
    ],
)
def test_each_row_names_what_it_depends_on(metric: str, part: str) -> None:
    assert part in SETTING.signature(metric)


def test_fixed_noise_is_its_own_released_fit() -> None:
    setting = changed(fit=asdict(fit_config("published", t_fast=16)))
    assert "|preset:published|t_fast:16|tok" in setting.signature("ppl_per_token_as_released")


def test_answers_depend_on_shots_condition_and_filter() -> None:
    found = replace(SETTING, task="ltm_gsm8k", n_shot=8, lm_eval="0.4.13").signature("exact_match", "strict-match")
    assert found.startswith("exact_match|task:ltm_gsm8k@1|filter:strict-match|shots:8|condition:prompt|preset:bound|")
    assert "draws" not in found
    assert found.endswith(f"|seed:1234|fewshot_seed:99|v:{__version__}|lm_eval:0.4.13")


def test_another_models_figures_declare_what_is_told() -> None:
    setting = Setting("ltm_ptb", "1.0", n_shot=0, config={"model_args": "pretrained=gpt2", "random_seed": 0})
    assert setting.signature("ppl_per_token") == "ppl_per_token|task:ltm_ptb@1.0|seed:0"
    assert Setting("t", "", n_shot=None, config={"fit": "damaged", "sizes": None}).signature("acc") == "acc|task:t"


def test_a_dtype_reads_as_in_the_results_file() -> None:
    """transformers tells torch's own object, which the file holds as text."""
    found = {Setting("t", "", n_shot=None, config={"model_dtype": one}).signature("acc") for one in (DTYPE, str(DTYPE))}
    assert found == {"acc|task:t|dtype:torch.float32"}


def test_a_results_file_gets_one_for_every_figure() -> None:
    figures = {"alias": "ltm_ptb", "ppl_per_token_bound,none": 3.0, "ppl_per_token_bound_stderr,none": 1}
    content = {
        "results": {"ltm_ptb": figures},
        "versions": {"ltm_ptb": 1},
        "n-shot": {"ltm_ptb": 0},
        "config": CONFIG,
    }
    sets = {"ltm_ptb": {"blocks": {"protocol": "documents"}}}
    expected = replace(SETTING, read={"protocol": "documents"}).signature("ppl_per_token_bound")
    assert signatures_of(content, sets=sets) == {"ltm_ptb": {"ppl_per_token_bound,none": expected}}


def test_facts_of_the_data_are_read_where_they_are_told() -> None:
    assert read_facts({"a": {"blocks": {"split": "test"}, "rows": 3}}, "a") == {"split": "test", "rows": 3}
    assert read_facts(None, "a") == read_facts({"b": 1}, "b") == {}


def test_figures_of_samples_name_what_was_sampled() -> None:
    definition = {"metadata": {"n": 10, "k": [1]}, "generation_kwargs": {"temperature": 0.7, "do_sample": True}}
    setting = Setting("t", "1.0", 8, {"condition": "demos", "fit_window": "each"}, definition=definition)
    assert setting.signature("pass@1", "strict") == (
        "pass@1|task:t@1.0|filter:strict|shots:8|condition:demos|fit_window:each|n:10|temperature:0.7"
    )
    assert "n:10" not in setting.signature("exact_match", "strict")
