"""The signature of a figure: everything another lab needs to get it again, in one line.

    ppl_per_token_bound|task:ltm_ptb@1.0|preset:bound|t_fast:64|draws:8|tok:gpt2|window:1024|…|seed:1234|v:0.1.0

Built from fields a results file declares and from nothing else, so that results and report write the same line. A row
of a perplexity names what that row depends on: its own draws, its own fit. Form after mjpost/sacrebleu @f615c72.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ltm_eval.inference.options import AUTO, PRESETS
from ltm_eval.results.official import read_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ltm_eval.results.files import Run


ROLLING = ("ppl_per_", "bits_per_", "nll_per_", "kl_per_", "word_perplexity", "byte_perplexity")
"""How metrics of whole texts begin: they depend on no demonstrations and no condition."""
SAMPLED = ("pass@", "maj@", "rethink_", "independent_")
"""How metrics of sampled answers begin."""
PREPARATION = ("split", "protocol", "block_tokens", "insert_eos")
"""Of the facts of a text set, those that say which text was scored."""


OLD_SCOPE = "window"
"""What the causal row scored as one before it was told: each rolling window of a text longer than the context."""
GPT2_DIGEST = "60ad6dc46d9284df0ce4d44e17670b2bf460970b31232bd61235e5d95cefc422"
"""Of GPT-2's tokenizer (`tokenizer.Tokenizer.digest`), whose tokens published perplexities count."""
OWN_FIT = "released"
"""Preset of the second fit behind `as_released`, where the first has no fixed noise."""


@dataclass(frozen=True)
class Tokens:
    """What figures per token were divided by."""

    name: str
    digest: str  # sha256 of what splits a text; empty if it is not told


def tokens_of(run: Run, task: str) -> Tokens | None:
    """The tokens that a run's figures per token count; None where the results do not tell.

    A run tells its model's own tokenizer. Results of other programs tell none: there the tokens are those of the
    tokenizer that cut the documents, as far as the task names it.
    """
    told = run.config.get("tokenizer")
    if isinstance(told, dict):
        return Tokens(str(told.get("name") or ""), str(told.get("sha256") or ""))
    if run.model_kind == "ltm" or task not in run.tasks:
        return None
    metadata = run.tasks[task].config.get("metadata")
    facts = (metadata if isinstance(metadata, dict) else {}) | read_facts((run.extra.data or {}).get("sets"), task)
    name = facts.get("block_tokenizer")
    return Tokens(str(name), str(facts.get("block_tokenizer_sha256") or "")) if name else None


def same_tokens(found: Iterable[Tokens | None]) -> bool:
    """Whether figures per token may stand side by side: only where all of them tell their tokens, and tell the same."""
    tokens = list(found)
    digests = {one.digest if one is not None else "" for one in tokens}
    return len(tokens) < 2 or (len(digests) == 1 and "" not in digests)


def own_tokens(by_label: Mapping[str, Tokens | None]) -> dict[str, str]:
    """What the tokens of every model are called where figures per token stand on one page.

    Empty for all where they are the same. Elsewhere a figure is per token of its own model, and only models with the
    same words may share a row or a column of figures per token.
    """
    if same_tokens(by_label.values()):
        return dict.fromkeys(by_label, "")
    digests: dict[str, set[str]] = {}
    for one in by_label.values():
        digests.setdefault(one.name if one is not None else "", set()).add(one.digest if one is not None else "")

    def words(label: str, one: Tokens | None) -> str:
        if one is None or not one.digest:
            return f"tokenizer of {label} not told" if one is None or not one.name else f"{one.name} of {label}"
        return f"{one.name} {one.digest[:8]}" if len(digests[one.name]) > 1 else one.name

    found: dict[str, str] = {}
    named: dict[str, str] = {}
    for label, one in by_label.items():
        told = words(label, one)
        found[label] = named.setdefault(one.digest, told) if one is not None and one.digest else told
    return found


def per_token_words(own: str) -> str:
    """What a perplexity per token is called; `own` is of `own_tokens`."""
    return f"perplexity per own token ({own})" if own else "perplexity per token"


@dataclass(frozen=True)
class Setting:
    """What the figures of one task depend on, as the results file declares it."""

    task: str
    version: str  # task version; empty if it is not told
    n_shot: int | None
    config: Mapping[str, Any]
    definition: Mapping[str, Any] = field(default_factory=dict)
    read: Mapping[str, Any] = field(default_factory=dict)
    lm_eval: str = ""

    def signature(self, metric: str, filter_: str = "none") -> str:
        """Name and value of every declared setting, in a fixed order; what is not told is left out."""
        rolling = metric.startswith(ROLLING)
        asked = {"shots": self.n_shot, "condition": self._told("condition"), "fit_window": self._told("fit_window")}
        asked |= self._sampling() if metric.startswith(SAMPLED) else {}
        declared = {
            "task": f"{self.task}@{self.version}" if self.version else self.task,
            "filter": filter_ if filter_ != "none" else None,
            **({} if rolling else asked),
            **(self._row(metric) if rolling else self._fit()),
            "tok": self._told("tokenizer", "name"),
            "window": self._told("sizes", "max_seq_len"),
            **({key: self.read.get(key) or None for key in PREPARATION} if rolling else {}),
            "dtype": self._told("model_dtype"),
            "limit": self._told("limit"),
            "seed": self._told("latent_seed") if self._told("latent_seed") is not None else self._told("random_seed"),
            "fewshot_seed": None if rolling else self._told("fewshot_seed"),
            "v": self._told("versions", "ltm_eval"),
            "lm_eval": self.lm_eval,
        }
        return "|".join([metric, *(f"{name}:{_text(value)}" for name, value in declared.items() if _known(value))])

    def _sampling(self) -> dict[str, Any]:
        """What figures of sampled answers depend on."""
        told = self.definition.get("metadata"), self.definition.get("generation_kwargs")
        metadata, options = (one if isinstance(one, dict) else {} for one in told)
        named = {name: metadata.get(name) for name in ("n", "rethink")}
        return {**named, **{name: options.get(name) for name in ("temperature", "top_p", "top_k")}}

    def _told(self, *path: str) -> Any:
        found: Any = self.config
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def _fit(self) -> dict[str, Any]:
        """Preset and steps; options that are not the preset's follow by name."""
        fit = self._told("fit")
        if not isinstance(fit, dict):
            return {}
        base = asdict(PRESETS[fit["preset"]]) if fit.get("preset") in PRESETS else {}
        changed = {f"fit_{key}": value for key, value in fit.items() if key in base and value != base[key]}
        for key in ("fit_preset", "fit_t_fast", "fit_adaptive"):
            changed.pop(key, None)
        return {"preset": fit.get("preset"), "t_fast": AUTO if fit.get("adaptive") else fit.get("t_fast"), **changed}

    def _row(self, metric: str) -> dict[str, Any]:
        """Fit and draws behind one row of a perplexity."""
        if metric.endswith("_causal"):
            return {
                "scope": causal_scope(self.config),
                **self._fit(),
                "t_fast": self._told("rows", "causal", "t_fast"),
                "chunk": self._told("rows", "causal", "chunk"),
                "draws": self._told("rows", "causal", "draws"),
            }
        if metric.endswith("_prior"):
            return {"draws": self._told("rows", "prior")}
        if "_as_released" in metric:
            own = {"preset": OWN_FIT, "t_fast": self._told("fit", "t_fast")}
            return self._fit() if self._told("fit", "noise") == "fixed" else own
        return {**self._fit(), "draws": self._told("rows", "iwae" if metric.endswith("_iwae") else "draws")}


def causal_scope(config: Mapping[str, Any]) -> str | None:
    """What the causal row of a results file scored as one; None where its `config` tells of no such row."""
    rows = config.get("rows")
    causal = rows.get("causal") if isinstance(rows, dict) else None
    return str(causal.get("scope") or OLD_SCOPE) if isinstance(causal, dict) else None


def _known(value: Any) -> bool:
    return value is not None and value != ""


def _text(value: Any) -> str:
    """Text as it is, JSON's own types as JSON; others (a dtype) as the text that stands for them in a results file."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, int, float, list, dict)) else str(value)


def signatures_of(content: Mapping[str, Any], *, sets: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The signature of every figure of a results file, by task and by lm-eval's key `<metric>,<filter>`.

    Args:
        content: the results file.
        sets: facts of the data that were read, by task.
    """
    found: dict[str, dict[str, str]] = {}
    for task, values in content["results"].items():
        setting = Setting(
            task=task,
            version=str(content.get("versions", {}).get(task, "")),
            n_shot=content.get("n-shot", {}).get(task),
            config=content["config"],
            definition=content.get("configs", {}).get(task) or {},
            read=read_facts(sets, task),
            lm_eval=str(content.get("lm_eval_version") or ""),
        )
        pairs = ((key, *key.partition(",")[::2]) for key in values if "," in key)
        found[task] = {
            key: setting.signature(metric, filter_)
            for key, metric, filter_ in pairs
            if not metric.endswith(("_stderr", "_mc_se"))
        }
    return found
