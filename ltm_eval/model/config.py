"""Sizes of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, FiniteFloat

from ltm_eval.system.errors import CheckpointError
from ltm_eval.system.options import names_of, options

if TYPE_CHECKING:
    from collections.abc import Mapping

Size = Annotated[int, Field(ge=1, lt=2**31)]


@options(error=CheckpointError, where="model config: ")
class ModelConfig:
    """Sizes of a decoder, under the names of the released `model_args`."""

    dim: Size  # width D; latents share it
    n_layers: Size  # L
    n_heads: Size  # query heads
    vocab_size: Size  # rows of the embedding, V
    max_seq_len: Size  # longest sequence T that the position table covers
    window_size: Size  # self-attention of position i sees i - window_size + 1 ... i
    max_z_len: Size  # latent vectors of all layers, N_z = L * N
    n_kv_heads: Size  # key and value heads; fewer than n_heads is grouped-query attention
    multiple_of: Size  # the hidden size of SwiGLU is 8/3 * D rounded up to this
    hidden_dim: Size | None = None  # hidden size of SwiGLU if it does not follow `multiple_of`
    norm_eps: Annotated[FiniteFloat, Field(gt=0, lt=1)] = 1e-5  # RMSNorm's epsilon
    use_z_pos_emb: bool = True  # whether cross-attention keys are rotated by the latents' positions

    def __post_init__(self) -> None:
        if self.max_z_len % self.n_layers:
            raise CheckpointError(
                f"model config: max_z_len {self.max_z_len} latents cannot be divided among {self.n_layers} layers; "
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
        """Build from a `config.json` or released `model_args`; ignore what only training used.

        Raises:
            CheckpointError: a required size is missing, or a value is out of range.
        """
        known = set(names_of(cls))
        given = {key: value for key, value in values.items() if key in known}
        if given.get("n_kv_heads") is None and "n_heads" in given:
            given["n_kv_heads"] = given["n_heads"]
        optional = {"hidden_dim", "norm_eps", "use_z_pos_emb"}
        missing = sorted(known - optional - set(given))
        if missing:
            raise CheckpointError(
                f"{where}: model config lacks {', '.join(missing)}; sizes are never guessed; add them"
            )
        try:
            return cls(**given)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from error
