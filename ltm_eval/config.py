"""Every option of the program, each default stated here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from ltm_eval.errors import CheckpointError, UsageError, nearest, shown

Condition = Literal["prompt", "demos", "demos+prompt", "shuffled", "other", "prior"]
Preset = Literal["released", "published", "bound"]
Noise = Literal["fixed", "fresh", "antithetic"]
CONDITIONS: tuple[str, ...] = get_args(Condition)
NOISES: tuple[str, ...] = get_args(Noise)
DTYPES: tuple[str, ...] = ("auto", "float32", "bfloat16")

MAX_SHOTS = 32
MAX_FAST_STEPS = 100_000
DEMO_MODEL = "demo"
DEMO_BASELINE = "gpt2-demo"
AUTO = "auto"
DEFAULT_K = (1, 5, 10)
"""pass@k that n samples are counted for unless k is named, as far as n reaches."""
SAMPLING_TEMPERATURE = 1.0
"""Of sampled answers where neither task nor user names one."""
OTHER = "other"
"""The condition under which z is fitted on another question's demonstrations."""
ALL_CONDITIONS = "all"
EACH = "each"
"""`fit_window=each`: a window of its own for every demonstration."""


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is one of `allowed`; a host may hand over what is no text."""
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else ""
        raise UsageError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}.{hint}")


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise CheckpointError(f"model config: {name} must be a whole number of at least 1, got {shown(value)}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a decoder, under the names of the released `model_args`."""

    dim: int
    """Width D; latents share it."""
    n_layers: int
    """Decoder layers L."""
    n_heads: int
    """Query heads."""
    vocab_size: int
    """Rows of the embedding, V."""
    max_seq_len: int
    """Longest sequence T the position table covers."""
    window_size: int
    """Self-attention of position i sees i - window_size + 1 ... i."""
    max_z_len: int
    """Latent vectors in all, N_z = L * N."""
    n_kv_heads: int
    """Key and value heads; fewer than n_heads is grouped-query attention."""
    multiple_of: int
    """The hidden size of SwiGLU is 8/3 * D rounded up to this."""
    hidden_dim: int | None = None
    """Hidden size of SwiGLU where it does not follow `multiple_of`."""
    norm_eps: float = 1e-5
    """RMSNorm's epsilon."""
    use_z_pos_emb: bool = True
    """Whether cross-attention keys are rotated by the latents' positions."""

    def __post_init__(self) -> None:
        for name in (
            "dim",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "vocab_size",
            "max_seq_len",
            "window_size",
            "max_z_len",
            "multiple_of",
        ):
            value = getattr(self, name)
            _check_size(name, value)
        if self.hidden_dim is not None:
            _check_size("hidden_dim", self.hidden_dim)
        if type(self.norm_eps) not in (int, float) or not 0 < self.norm_eps < 1:
            raise CheckpointError(f"model config: norm_eps must lie between 0 and 1, got {shown(self.norm_eps)}")
        if not isinstance(self.use_z_pos_emb, bool):
            raise CheckpointError(f"model config: use_z_pos_emb must be true or false, got {shown(self.use_z_pos_emb)}")
        if self.max_z_len % self.n_layers:
            raise CheckpointError(
                f"model config: max_z_len {self.max_z_len} latents cannot be shared out over {self.n_layers} layers; "
                "it counts the latents of all layers and must be a multiple of n_layers"
            )
        if self.dim % self.n_heads or self.head_dim % 2:
            raise CheckpointError(
                f"model config: dim {self.dim} does not divide into {self.n_heads} heads of even size"
            )
        if self.n_heads % self.n_kv_heads:
            raise CheckpointError(
                f"model config: n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}"
            )
        if self.use_z_pos_emb and self.max_z_len > self.max_seq_len:
            raise CheckpointError(
                f"model config: max_z_len {self.max_z_len} exceeds max_seq_len {self.max_seq_len}, so latents have "
                "no positions"
            )

    @property
    def n_latents(self) -> int:
        """Latent vectors per layer, N."""
        return self.max_z_len // self.n_layers

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.n_heads

    @property
    def ffn_dim(self) -> int:
        """Hidden size of SwiGLU."""
        if self.hidden_dim is not None:
            return self.hidden_dim
        raw = int(2 * (4 * self.dim) / 3)
        return self.multiple_of * ((raw + self.multiple_of - 1) // self.multiple_of)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(L, N, D)."""
        return self.n_layers, self.n_latents, self.dim

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str) -> ModelConfig:
        """Build from a `config.json` or released `model_args`; what training alone used is ignored.

        Raises:
            CheckpointError: a size that shapes cannot tell is absent, or a value is out of range.
        """
        known = {f.name for f in fields(cls)}
        given = {key: value for key, value in values.items() if key in known}
        if given.get("n_kv_heads") is None and "n_heads" in given:
            given["n_kv_heads"] = given["n_heads"]
        optional = {"hidden_dim", "norm_eps", "use_z_pos_emb"}
        missing = sorted(known - optional - set(given))
        if missing:
            raise CheckpointError(
                f"{where}: model config lacks {', '.join(missing)}; sizes are never guessed, add them"
            )
        return cls(**given)


@dataclass(frozen=True)
class FitConfig:
    """The fast loop: how q(z|x) = N(mu, exp(log_var)) is fitted to a text."""

    preset: str
    """Name of the preset these values came from."""
    t_fast: int
    """Fast steps; 0 leaves the prior."""
    lr: float
    """Learning rate of the first step."""
    lr_final: float
    """Learning rate that the cosine approaches after t_fast steps; equal to `lr` it is constant."""
    log_var_start: float
    """Mean of log_var at the start."""
    log_var_spread: float
    """Standard deviation of log_var at the start, over dimensions."""
    mu_spread: float
    """Standard deviation of mu at the start, over dimensions; its mean is 0."""
    noise: Noise
    """`fixed`: one draw serves all steps (released); `fresh`: every step draws anew; `antithetic`: every step draws
    anew and uses each draw e together with -e.
    """
    draws: int = 1
    """Noise draws averaged in every step; each costs a pass. With `antithetic` even, both of a pair counted."""
    adaptive: bool = False
    """Whether a document's steps end once it gains no more (`t_fast=auto`); `t_fast` is not used then."""
    beta1: float = 0.9
    """AdamW's first constant."""
    beta2: float = 0.999
    """AdamW's second constant."""
    adam_eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay, on mu and log_var."""

    def __post_init__(self) -> None:
        if isinstance(self.t_fast, bool) or not isinstance(self.t_fast, int) or not 0 <= self.t_fast <= MAX_FAST_STEPS:
            raise UsageError(
                f"t_fast must be a whole number from 0 (no fit, prior latents) to {MAX_FAST_STEPS}, got {self.t_fast!r}"
            )
        for name in ("lr", "lr_final"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise UsageError(f"{name} must be a positive finite number, got {value!r}")
        check_choice("noise", self.noise, NOISES)
        if self.draws < 1:
            raise UsageError(f"draws must be at least 1, got {self.draws!r}")
        if self.noise == "antithetic" and self.draws % 2:
            raise UsageError(f"antithetic noise comes in pairs, so draws must be even, got {self.draws!r}")

    @property
    def is_bound(self) -> bool:
        """Whether the objective at the fit's own noise estimates a bound; see DESIGN's audit."""
        return self.noise != "fixed"


PRESETS: Mapping[str, FitConfig] = MappingProxyType(
    {
        # github mingluzhao/Latent-Thought-LM @498e39e, optimizer.py: one noise tensor, cosine from lr to lr/10.
        "released": FitConfig(
            "released",
            t_fast=16,
            lr=0.34,
            lr_final=0.034,
            log_var_start=-5.0,
            log_var_spread=0.1,
            mu_spread=0.0,
            noise="fixed",
        ),
        # The published 16-step figures fit a constant rate.
        "published": FitConfig(
            "published",
            t_fast=16,
            lr=0.34,
            lr_final=0.34,
            log_var_start=-5.0,
            log_var_spread=0.1,
            mu_spread=0.0,
            noise="fixed",
        ),
        # Lowest valid bound per fast step of the settings in benchmarks/bound_preset.py; see reports/NOTES.md.
        "bound": FitConfig(
            "bound",
            t_fast=64,
            lr=0.1,
            lr_final=0.01,
            log_var_start=0.0,
            log_var_spread=0.0,
            mu_spread=0.0,
            noise="fresh",
        ),
    }
)


FIT_OPTIONS = ("lr", "lr_final", "log_var_start", "log_var_spread", "mu_spread", "noise", "draws", "weight_decay")
"""Of `FitConfig`, what `--fit` may change."""
FIT_EXAMPLE = '{"noise": "antithetic", "draws": 2}'


def fit_changes(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Changes to a preset, as `fit_config` takes them.

    Args:
        given: a JSON object such as `FIT_EXAMPLE`, or what it stands for; None changes nothing.

    Raises:
        UsageError: it is something else, or an option is not known or of the wrong type.
    """
    try:
        found = json.loads(given) if isinstance(given, str) else (given or {})
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        raise UsageError(f"fit must be a JSON object such as {FIT_EXAMPLE}, got {str(given)[:80]!r}")
    for name, value in found.items():
        check_choice("option of fit", name, FIT_OPTIONS)
        kinds = {"noise": str, "draws": int}.get(name, (int, float))
        if isinstance(value, bool) or not isinstance(value, kinds) or (value != value):  # noqa: PLR0124 - NaN
            wanted = {"noise": "a name", "draws": "a whole number"}.get(name, "a number")
            raise UsageError(f"fit: {name} must be {wanted}, got {str(value)[:80]!r}")
    return dict(found)


def fit_config(preset: str = "bound", **changes: Any) -> FitConfig:
    """The preset's options with `changes`; a change to `lr` alone keeps the preset's ratio of final to first rate.

    Raises:
        UsageError: the preset or an option is not known, or a value is out of range.
    """
    check_choice("preset", preset, tuple(PRESETS))
    base = PRESETS[preset]
    known = {f.name for f in fields(FitConfig)}
    for name in changes:
        if name not in known:
            raise UsageError(f"unknown fit option {name!r}.{nearest(name, known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    if given.get("t_fast") == AUTO:
        given = {**given, "t_fast": base.t_fast, "adaptive": True}
    if "lr" in given and "lr_final" not in given:
        given["lr_final"] = given["lr"] * base.lr_final / base.lr
    return replace(base, **given)


@dataclass(frozen=True)
class GenerationConfig:
    """How a continuation is decoded."""

    max_new_tokens: int = 256
    """Most tokens generated."""
    until: tuple[str, ...] = ()
    """Stop strings; the answer ends before the first one."""
    do_sample: bool = False
    """Sample tokens and z; otherwise take the likeliest token under z = mu."""
    temperature: float = 1.0
    """Divides the logits when sampling."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with at least this mass."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 keeps all."""
    rethink: int = 0
    """Rounds of rethinking; 0 answers at once."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise UsageError(f"max_gen_toks must be at least 0, got {self.max_new_tokens}")
        if any(stop == "" for stop in self.until):
            raise UsageError("a stop string in `until` is empty; remove it")
        if self.do_sample and not 0 < self.temperature < float("inf"):
            raise UsageError(
                f"temperature must be positive when sampling, got {self.temperature}; for greedy decoding set "
                "do_sample=False"
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise UsageError(f"top_k must be at least 0, got {self.top_k}")


CONDITION_ORDER = ("demos", "shuffled", "other", "prior", "prompt", "demos+prompt")
"""Order of `--condition all`: what is compared with first, then its controls."""


@dataclass(frozen=True)
class RunConfig:
    """One `run`: a model, baselines, tasks, and where results go."""

    model: str | None = None
    """Checkpoint folder, released `ckpt_*.pt`, hub id or `demo`; None is the bundled demo model."""
    tasks: tuple[str, ...] = ("gsm8k",)
    """Task names; the prefix `ltm_` may be left out."""
    num_fewshot: int | None = None
    """Demonstrations per prompt; None takes the task's own number."""
    baselines: tuple[str, ...] = ()
    """Causal language models (folder or hub id) evaluated by lm-eval's `hf` model on the same documents."""
    data: str = "auto"
    """`auto`, `sample`, `hub` or a folder."""
    metadata: str | None = None
    """JSON object of task options, as lm-eval's `--metadata`, for example `{"protocol": "documents"}`."""
    limit: int | None = None
    """Only the first documents of each task."""
    documents: tuple[int, ...] = ()
    """Only these documents of each task, by their index; empty takes all."""
    output_path: str = "results"
    """Folder for results."""
    batch_size: int | Literal["auto"] = "auto"
    """Documents in a batch."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`."""
    dtype: str = "auto"
    """Of matrix products: `float32`, `bfloat16`, or `auto` (float32 on CPU, bfloat16 on GPU)."""
    compile: bool = False
    """Compile the layers; without a compiler they run as they are."""
    fit: str | None = None
    """Changes to the fit preset, a JSON object; see `fit_changes`."""
    condition: str = "prompt"
    """What z is fitted on and what the decoder reads; DESIGN section 5."""
    preset: str = "bound"
    """Fit preset."""
    t_fast: int | Literal["auto"] | None = None
    """Fast steps; `auto` ends each document's fit once it gains no more, None takes the preset's."""
    rows: str = "all"
    """Rows of a perplexity beside the bound and its parts: `all`, `bound`, or names joined by `+`."""
    causal_chunk: int = 64
    """Tokens the causal row scores between two refits of z."""
    causal_t_fast: int = 4
    """Fast steps of each of its refits."""
    fit_window: int | str | None = None
    """Most tokens of one fitted window of demonstrations, or `each` for one each; None takes the model's context."""
    n: int = 1
    """Sampled answers per question, beside the greedy one; 1 takes the greedy one alone."""
    k: tuple[int, ...] = ()
    """For which k pass@k is reported; empty takes those of `DEFAULT_K` up to n."""
    rethink: int = 0
    """Rounds of rethinking, beside as many independent draws; 0 for none."""
    seed: int = 1234
    """Of latent noise, token draws and demonstrations."""
    tokenizer: str | None = None
    """`gpt2` or a file of mergeable ranks; None takes the checkpoint's."""
    revision: str | None = None
    """Commit of a hub checkpoint."""
    gen_kwargs: str | None = None
    """Generation options that replace the task's, as lm-eval spells them."""
    max_failed: str = "0"
    """Documents of a task that may fail, or a share such as `1%`; with more the run ends incomplete."""
    report: bool = True
    """Whether the HTML page is written at the end."""
    quiet: bool = False
    """No progress."""
    fresh: bool = False
    """Whether an unfinished run of other settings in the output folder is given up."""
    command: tuple[str, ...] = field(default=())
    """The command line, for the report."""

    def __post_init__(self) -> None:
        check_choice("condition", self.condition, CONDITIONS)
        check_choice("dtype", self.dtype, DTYPES)
        fit_config(self.preset, **fit_changes(self.fit))
        if not self.tasks:
            raise UsageError("no task named; give --task, for example --task gsm8k")
        if self.num_fewshot is not None and not 0 <= self.num_fewshot <= MAX_SHOTS:
            raise UsageError(f"shots must be a whole number from 0 to {MAX_SHOTS}, got {self.num_fewshot}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit must be at least 1 document, got {self.limit}; leave it out for all documents")
        if self.limit is not None and self.documents:
            raise UsageError("limit and documents exclude each other; give one of them")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise UsageError(f"batch_size must be `auto` or at least 1, got {self.batch_size}")
        if self.n < 1 or any(k < 1 for k in self.k) or self.rethink < 0:
            raise UsageError(
                f"n and k must be at least 1 and rethink at least 0, got n = {self.n}, k = {self.k}, "
                f"rethink = {self.rethink}"
            )
        fit_config(self.preset, t_fast=self.t_fast)


@dataclass(frozen=True)
class SweepConfig:
    """One model under several conditions and numbers of demonstrations."""

    base: RunConfig
    """Everything else; its own condition and num_fewshot are not used."""
    conditions: tuple[str, ...]
    """Conditions."""
    shots: tuple[int | None, ...] = (None,)
    """Numbers of demonstrations; None is the task's own."""

    def __post_init__(self) -> None:
        for condition in self.conditions:
            check_choice("condition", condition, (*CONDITIONS, ALL_CONDITIONS))
        for number in self.shots:
            replace(self.base, num_fewshot=number)

    @property
    def reference(self) -> str:
        """The condition that the others are compared with: `demos`, or else the first."""
        return "demos" if "demos" in self.conditions else self.conditions[0]


@dataclass(frozen=True)
class GridConfig:
    """Every combination of the values named, each a run of its own."""

    base: RunConfig
    """Everything else; its own values of what is varied are not used."""
    models: tuple[str | None, ...]
    """Checkpoints; None is the bundled one."""
    t_fast: tuple[int | Literal["auto"] | None, ...]
    """Fast steps; None is the preset's."""
    shots: tuple[int | None, ...]
    """Numbers of demonstrations; None is the task's own."""
    conditions: tuple[str, ...]
    """Conditions."""
    seeds: tuple[int, ...]
    """Seeds."""
    ray_address: str | None = None
    """`local`, `auto` or a cluster's address; None runs one cell after another in this process."""
    cell_cpus: int = 1
    """CPU cores that Ray gives a cell; beside a whole GPU where the cluster has GPUs and the device is not cpu."""

    def __post_init__(self) -> None:
        if self.cell_cpus < 1:
            raise UsageError(f"cell_cpus must be at least 1, got {self.cell_cpus}")
        if self.base.baselines:
            raise UsageError("a sweep runs no baselines; give --baseline to `run`, and both folders to `report`")


def conditions_of(text: str) -> tuple[str, ...]:
    """`demos`, `demos,other` or `all` as conditions, each once.

    Raises:
        UsageError: a name is not known.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if ALL_CONDITIONS in names:
        return CONDITION_ORDER
    for name in names or (text,):
        check_choice("condition", name, (*CONDITIONS, ALL_CONDITIONS))
    return names


@dataclass(frozen=True)
class MauveConfig:
    """How MAUVE (arXiv:2102.01454) is measured: which texts, how they are generated, featurised and compared."""

    texts: str = "auto"
    """Text set that the human texts come from; `auto` is `webtext`, with the bundled sample data `gsm8k`."""
    conditional: bool = True
    """Whether texts begin with the first tokens of human ones; otherwise they are drawn from nothing (z ~ prior)."""
    prompt_tokens: int = 50
    """GPT-2 tokens of a human text that are the prompt."""
    continuation_tokens: int = 50
    """Most tokens after the prompt: GPT-2's of the human text, the model's own of what it generates."""
    shortest_tokens: int | None = None
    """Human texts with fewer GPT-2 tokens are left out; None asks for prompt and continuation in full."""
    joined: bool = False
    """Whether examples are joined, with a blank line between, until a text is long enough."""
    samples: int = 1_000
    """Human texts: the first ones that are long enough."""
    generations: int = 5
    """Generated texts for each human one, all of them compared at once."""
    generation_seeds: int = 3
    """How often that is repeated with other draws."""
    sampling: str = "multinomial"
    """`multinomial`, `nucleus`, `greedy` (z = mu) or `greedy_z` (likeliest tokens, z drawn)."""
    temperature: float = 1.0
    """Divides the logits when sampling."""
    top_p: float = 0.95
    """Mass of the nucleus."""
    include_prompt: bool = True
    """Whether the prompt is part of the texts that are compared."""
    feature_model: str = "gpt2-large"
    """Folder or hub id of the `transformers` model whose hidden states are compared."""
    max_text_length: int = 256
    """Most tokens of a text, the feature model's own, that it reads."""
    feature_batch_size: int = 8
    """Texts it reads at once."""
    feature_device: str = "auto"
    """Where it runs."""
    kmeans_seeds: int = 5
    """How many seeds of the clustering; the first is mauve-text's default, 25."""
    buckets: int | None = None
    """Clusters; None is mauve-text's rule, a tenth of the smaller side."""
    scaling: float = 5.0
    """c of the divergence curve exp(-c KL)."""

    def __post_init__(self) -> None:
        check_choice("mauve_sampling", self.sampling, SAMPLINGS)
        for name in ("continuation_tokens", "generations", "generation_seeds", "feature_batch_size", "kmeans_seeds"):
            if getattr(self, name) < 1:
                raise UsageError(f"mauve_{name} must be at least 1, got {getattr(self, name)}")
        if self.samples < 2 or (self.buckets is not None and self.buckets < 2):
            raise UsageError("mauve_samples and mauve_buckets must be at least 2: MAUVE compares histograms")
        if self.max_text_length < 1 or not self.scaling > 0:
            raise UsageError("mauve_max_text_length must be at least 1 and mauve_scaling positive")
        if self.conditional != (self.prompt_tokens > 0):
            raise UsageError(
                f"mauve_prompt_tokens must be at least 1, got {self.prompt_tokens}; for texts without a prompt set "
                "mauve_conditional=false"
            )
        if self.sampling == "greedy" and (self.repeats > 1 or not self.conditional):
            raise UsageError(
                "greedy decoding gives one text per prompt: leave mauve_generations and mauve_generation_seeds at 1 "
                "and mauve_conditional true, or draw z with mauve_sampling=greedy_z"
            )
        self.generation()

    @property
    def repeats(self) -> int:
        """Generated texts for each human one, over all generation seeds."""
        return self.generations * self.generation_seeds

    @property
    def least_tokens(self) -> int:
        """GPT-2 tokens that a human text must have."""
        full = self.prompt_tokens + self.continuation_tokens
        return full if self.shortest_tokens is None else max(self.shortest_tokens, self.prompt_tokens + 1)

    def generation(self) -> GenerationConfig:
        """The options of decoding that `sampling` stands for."""
        sampled = self.sampling != "greedy"
        return GenerationConfig(
            max_new_tokens=self.continuation_tokens,
            do_sample=sampled,
            temperature=self.temperature,
            top_p=self.top_p if self.sampling == "nucleus" else 1.0,
            top_k=1 if self.sampling == "greedy_z" else 0,
        )


SAMPLINGS: tuple[str, ...] = ("multinomial", "nucleus", "greedy", "greedy_z")
MAUVE_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sedd": {},
        "mauve-paper": {
            "prompt_tokens": 35,
            "continuation_tokens": 988,  # 1,024 with the prompt and the end-of-text in front of it
            "shortest_tokens": 36,
            "samples": 5_000,
            "generations": 1,
            "generation_seeds": 5,
            "max_text_length": 1_024,
            "buckets": 500,
        },
    }
)
"""`sedd`: SSD-LM's and SEDD's protocol (arXiv:2310.16834, appendix C.8); `mauve-paper`: arXiv:2102.01454, section 4."""


def mauve_config(preset: str, **changes: Any) -> MauveConfig:
    """A preset with some options replaced.

    Without a prompt its tokens are generated too, so that texts are as long; greedy decoding makes one text per prompt
    unless told otherwise.

    Raises:
        UsageError: the preset is not known, or a value is out of range.
    """
    check_choice("mauve_preset", preset, tuple(MAUVE_PRESETS))
    alone = {"generations": 1, "generation_seeds": 1} if changes.get("sampling") == "greedy" else {}
    values = {**MAUVE_PRESETS[preset], **alone, **changes}
    if not values.get("conditional", MauveConfig.conditional):
        parts = ("prompt_tokens", "continuation_tokens")
        length = sum(values.get(part, getattr(MauveConfig, part)) for part in parts)
        values |= dict(zip(parts, (0, length), strict=True))
    return MauveConfig(**values)
