"""Sizes of a model."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ltm_eval.system.errors import CheckpointError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise CheckpointError(f"model config: {name} must be a whole number of at least 1, got {shown(value)}")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a decoder, under the names of the released `model_args`."""

    dim: int  # width D; latents share it
    n_layers: int  # decoder layers L
    n_heads: int  # query heads
    vocab_size: int  # rows of the embedding, V
    max_seq_len: int  # longest sequence T the position table covers
    window_size: int  # self-attention of position i sees i - window_size + 1 ... i
    max_z_len: int  # latent vectors in all, N_z = L * N
    n_kv_heads: int  # key and value heads; fewer than n_heads is grouped-query attention
    multiple_of: int  # the hidden size of SwiGLU is 8/3 * D rounded up to this
    hidden_dim: int | None = None  # hidden size of SwiGLU where it does not follow `multiple_of`
    norm_eps: float = 1e-5  # RMSNorm's epsilon
    use_z_pos_emb: bool = True  # whether cross-attention keys are rotated by the latents' positions

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
            _check_size(name, getattr(self, name))
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
        """Build sizes from a `config.json` or released `model_args`; what training alone used is ignored.

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
