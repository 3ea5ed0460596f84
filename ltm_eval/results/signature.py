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
from ltm_eval.system.records import mapping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ltm_eval.results.files import Run


# Prefixes of metrics of whole texts, which depend on no demonstrations and no condition
ROLLING = ("ppl_per_", "bits_per_", "nll_per_", "kl_per_", "word_perplexity", "byte_perplexity")
SAMPLED = ("pass@", "maj@", "rethink_", "independent_")  # prefixes of metrics of sampled answers
PREPARATION = ("split", "protocol", "block_tokens", "insert_eos")  # facts of a text set that say which text was scored
# What the causal row scored as one before files recorded it: each rolling window of a text longer than the context
OLD_SCOPE = "window"
GPT2 = "gpt2"  # its tokenizer cuts the blocks of the published sets
# Of GPT-2's tokenizer (`tokenizer.Tokenizer.digest`), whose tokens published perplexities count
GPT2_DIGEST = "60ad6dc46d9284df0ce4d44e17670b2bf460970b31232bd61235e5d95cefc422"
OWN_FIT = "released"  # preset of the second fit behind `as_released`, if the first has no fixed noise


@dataclass(frozen=True)
class Tokens:
    """What figures per token were divided by."""

    name: str
    digest: str  # SHA-256 (hex) of what splits a text; empty if not recorded
    of_blocks: bool = False  # whether they are those of the task's blocks and not the model's own


def tokens_of(run: Run, task: str) -> Tokens | None:
    """Return the tokens that a run's figures per token count; None if the results do not record them.

    A run records its model's own tokenizer. Results of other programs record none: there a text set of ours counts the
    tokens of the tokenizer that cut its blocks, by default GPT-2's or, for the bundled samples, the demo's.
    """
    own = run.config.get("tokenizer")
    if isinstance(own, dict):
        return Tokens(str(own.get("name") or ""), str(own.get("sha256") or ""))
    if run.model_kind == "ltm" or task not in run.tasks:
        return None
    config = run.tasks[task].config
    facts = mapping(config.get("metadata")) | read_facts((run.extra.data or {}).get("sets"), task)
    name = facts.get("block_tokenizer")
    if not name and mapping(config.get("dataset_kwargs")).get("text_set_name"):
        name = "demo" if "sample" in (facts.get("data"), facts.get("data_dir")) else GPT2
    digest = facts.get("block_tokenizer_sha256") or (GPT2_DIGEST if name == GPT2 else "")
    return Tokens(str(name), str(digest), of_blocks=True) if name else None


def same_tokens(found: Iterable[Tokens | None]) -> bool:
    """Return whether figures per token can be compared: all of them record their tokens, and the same."""
    tokens = list(found)
    kinds = {(one.digest, one.of_blocks) if one is not None else ("", False) for one in tokens}
    return len(tokens) < 2 or (len(kinds) == 1 and all(digest for digest, _ in kinds))


def own_tokens(by_label: Mapping[str, Tokens | None]) -> dict[str, str]:
    """Return by model what its tokens are called on a page with figures per token, as `own token (llama)`.

    Empty for all if they are the same and the models' own. Otherwise a figure is per token of its own model or of the
    task's blocks, and only models with the same words may share a row or a column of figures per token.
    """
    if same_tokens(by_label.values()) and not any(one.of_blocks for one in by_label.values() if one is not None):
        return dict.fromkeys(by_label, "")
    digests: dict[str, set[str]] = {}
    for one in by_label.values():
        if one is None or not one.of_blocks:
            digests.setdefault(one.name if one is not None else "", set()).add(one.digest if one is not None else "")

    def words(label: str, one: Tokens | None) -> str:
        if one is not None and one.of_blocks:  # by itself alone, so that it is called the same on every page
            which = one.name if one.digest == GPT2_DIGEST else f"{one.name} {one.digest[:8] or f'of {label}'}"
            return f"token of the task's blocks ({which})"
        if one is None or not one.digest:
            which = f"tokenizer of {label} not told" if one is None or not one.name else f"{one.name} of {label}"
        else:
            which = f"{one.name} {one.digest[:8]}" if len(digests[one.name]) > 1 else one.name
        return f"own token ({which})"

    found: dict[str, str] = {}
    named: dict[tuple[str, bool], str] = {}
    for label, one in by_label.items():
        own = words(label, one)
        found[label] = named.setdefault((one.digest, one.of_blocks), own) if one is not None and one.digest else own
    return found


def per_token_words(own: str) -> str:
    """Return what a perplexity per token is called; `own` is of `own_tokens`."""
    return f"perplexity per {own or 'token'}"


@dataclass(frozen=True)
class Setting:
    """What the figures of one task depend on, as the results file declares it."""

    task: str
    version: str  # of the task; empty if not recorded
    n_shot: int | None
    config: Mapping[str, Any]
    definition: Mapping[str, Any] = field(default_factory=dict)
    read: Mapping[str, Any] = field(default_factory=dict)
    lm_eval: str = ""

    def signature(self, metric: str, filter_: str = "none") -> str:
        """Return name and value of every recorded setting, in a fixed order."""
        rolling = metric.startswith(ROLLING)
        asked = {
            "shots": self.n_shot,
            "condition": self._recorded("condition"),
            "fit_window": self._recorded("fit_window"),
        }
        asked |= self._sampling() if metric.startswith(SAMPLED) else {}
        declared = {
            "task": f"{self.task}@{self.version}" if self.version else self.task,
            "filter": filter_ if filter_ != "none" else None,
            **({} if rolling else asked),
            **(self._row(metric) if rolling else self._fit()),
            "tok": self._recorded("tokenizer", "name"),
            "window": self._recorded("sizes", "max_seq_len"),
            **({key: self.read.get(key) or None for key in PREPARATION} if rolling else {}),
            "dtype": self._recorded("model_dtype"),
            "limit": self._recorded("limit"),
            "seed": self._recorded("latent_seed")
            if self._recorded("latent_seed") is not None
            else self._recorded("random_seed"),
            "fewshot_seed": None if rolling else self._recorded("fewshot_seed"),
            "v": self._recorded("versions", "ltm_eval"),
            "lm_eval": self.lm_eval,
        }
        return "|".join([metric, *(f"{name}:{_text(value)}" for name, value in declared.items() if _known(value))])

    def _sampling(self) -> dict[str, Any]:
        """Return what figures of sampled answers depend on."""
        metadata, options = (mapping(self.definition.get(name)) for name in ("metadata", "generation_kwargs"))
        named = {name: metadata.get(name) for name in ("n", "rethink")}
        return {**named, **{name: options.get(name) for name in ("temperature", "top_p", "top_k")}}

    def _recorded(self, *path: str) -> Any:
        found: Any = self.config
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def _fit(self) -> dict[str, Any]:
        """Return preset and steps, then by name the options that are not the preset's."""
        fit = self._recorded("fit")
        if not isinstance(fit, dict):
            return {}
        base = asdict(PRESETS[fit["preset"]]) if fit.get("preset") in PRESETS else {}
        changed = {f"fit_{key}": value for key, value in fit.items() if key in base and value != base[key]}
        for key in ("fit_preset", "fit_t_fast", "fit_adaptive"):
            changed.pop(key, None)
        return {"preset": fit.get("preset"), "t_fast": AUTO if fit.get("adaptive") else fit.get("t_fast"), **changed}

    def _row(self, metric: str) -> dict[str, Any]:
        """Return fit and draws behind one row of a perplexity."""
        if metric.endswith("_causal"):
            return {
                "scope": causal_scope(self.config),
                **self._fit(),
                "t_fast": self._recorded("rows", "causal", "t_fast"),
                "chunk": self._recorded("rows", "causal", "chunk"),
                "draws": self._recorded("rows", "causal", "draws"),
            }
        if metric.endswith("_prior"):
            return {"draws": self._recorded("rows", "prior")}
        if "_as_released" in metric:
            own = {"preset": OWN_FIT, "t_fast": self._recorded("fit", "t_fast")}
            return self._fit() if self._recorded("fit", "noise") == "fixed" else own
        return {**self._fit(), "draws": self._recorded("rows", "iwae" if metric.endswith("_iwae") else "draws")}


def causal_scope(config: Mapping[str, Any]) -> str | None:
    """Return what the causal row of a results file scored as one; None if its `config` has no such row."""
    causal = mapping(config.get("rows")).get("causal")
    return str(causal.get("scope") or OLD_SCOPE) if isinstance(causal, dict) else None


def _known(value: Any) -> bool:
    return value is not None and value != ""


def _text(value: Any) -> str:
    """Return text as it is, JSON's own types as JSON, others (a dtype) as a results file writes them."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, int, float, list, dict)) else str(value)


def signatures_of(content: Mapping[str, Any], *, sets: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the signature of every figure of a results file, by task and by lm-eval's key `<metric>,<filter>`.

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
