"""Features of texts: the last token's final hidden state under a causal `transformers` model, cached on disk.

The values equal those of mauve-text's `featurize_tokens_from_model` (github krishnap25/mauve, `src/mauve/utils.py`); a
test compares them. That function is not used because it keeps the states of all layers (37 of gpt2-large), cannot halve
its batch when memory runs out, and always draws a progress bar. Padding is on the right, where a causal model's last
token does not see it. Cached features are keyed by the content of model and texts and by the maximum length.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ltm_eval.data.readers import file_sha256
from ltm_eval.system.errors import DataError, MachineError, UsageError, spelt
from ltm_eval.system.files import atomic, cache_dir, digest
from ltm_eval.system.hub import why_unserved
from ltm_eval.system.machine import version
from ltm_eval.system.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ltm_eval.system.progress import Progress


log = logging.getLogger(__name__)

Features = NDArray[np.float32]  # (texts, D)

OPTION = '{"mauve_feature_model": "FOLDER"}'
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class FeatureModel:
    """A `transformers` model on disk."""

    name: str  # as the user named it
    folder: Path
    digest: str  # sha256 over its files, or repository and commit of a hub copy
    most_tokens: int | None  # its longest text, if its config says so


def locate(name: str) -> FeatureModel:
    """Find a feature model in a folder, in the hub's cache or on the hub.

    Raises:
        MachineError: transformers is not installed, or the hub lacks the model or does not answer.
        DataError: the folder contains no `transformers` model.
    """
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        raise MachineError("MAUVE's feature model needs extra packages: pip install 'ltm-eval[hf]'")
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        return FeatureModel(name, path, _folder_digest(path), _most_tokens(path))
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise DataError(
            f"feature model {name}: no such folder; give a folder or a hub id with {spelt('metadata', OPTION)}"
        )
    folder = _on_hub(name)
    return FeatureModel(name, folder, f"hub:{name}@{folder.name}", _most_tokens(folder))


def _folder_digest(folder: Path) -> str:
    """Return the sha256 over names and content of config, tokenizer and weights."""
    files = sorted({path for pattern in (*_SMALL_FILES, *_WEIGHTS) for path in folder.glob(pattern)})
    names = [path.name for path in files]
    if "config.json" not in names or not _has_weights(folder):
        raise DataError(
            f"feature model {folder}: expected a transformers folder with config.json, weights and tokenizer; "
            f"found {', '.join(names[:6]) or 'none of them'}"
        )
    return hashlib.sha256("".join(f"{path.name}:{file_sha256(path)}\n" for path in files).encode()).hexdigest()


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _WEIGHTS)


def _most_tokens(folder: Path) -> int | None:
    import json

    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"feature model {folder}: config.json cannot be read ({type(error).__name__})") from error
    found = config.get("n_positions", config.get("max_position_embeddings"))
    return found if isinstance(found, int) and found > 0 else None


def _on_hub(name: str) -> Path:
    """Return the snapshot folder of a hub repository, named by its commit; download it if necessary.

    Raises:
        MachineError: it is not cached, and the hub lacks it or does not answer.
    """
    from huggingface_hub import constants

    found = _snapshot(name, (), offline=True)
    reason = "" if found else why_unserved(name, ["config.json"])
    if not found and not reason:
        found = _snapshot(name, _WEIGHTS[:1], offline=False) or _snapshot(name, _WEIGHTS, offline=False)
        reason = "no config.json and weights that transformers reads"
    if found:
        return found
    raise MachineError(
        f"feature model {name}: not in {constants.HF_HUB_CACHE} and not available from the hub ({reason}); "
        f"give a folder with {spelt('metadata', OPTION)}"
    )


def _snapshot(name: str, weights: Sequence[str], *, offline: bool) -> Path | None:
    """Return the newest snapshot in the cache, or download it; None if config or weights are missing."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, *weights], local_files_only=offline))
    except Exception as error:  # noqa: BLE001  the client's errors have no common class
        log.info("%s: %s", name, error)
        return None
    return folder if (folder / "config.json").is_file() and _has_weights(folder) else None


@dataclass
class Featuriser:
    """A feature model with its settings; loaded only for texts whose features are not cached."""

    model: FeatureModel
    max_tokens: int  # per text; the rest is ignored
    batch_size: int  # texts; halved if memory runs out
    device: str = "auto"
    progress: Callable[[int, str], Progress] = silent
    cache: Path | None = field(default_factory=lambda: cache_dir() / "features")  # None disables the cache
    _loaded: Any = None

    def __post_init__(self) -> None:
        if self.model.most_tokens is not None and self.max_tokens > self.model.most_tokens:
            raise UsageError(
                f"feature model {self.model.name} reads at most {self.model.most_tokens} tokens, "
                f"mauve_max_text_length is {self.max_tokens}; lower it"
            )

    def features(self, texts: Sequence[str]) -> Features:
        """Return features (texts, D), from the cache if the same code and libraries featurised the same texts before.

        Raises:
            DataError: transformers cannot load the model, or its features are not finite.
        """
        distinct = list(dict.fromkeys(texts))
        place = {text: index for index, text in enumerate(distinct)}
        known = self._kept(distinct)
        if known is None:
            known = self._computed(distinct)
            self._keep(distinct, known)
        return known[[place[text] for text in texts]]

    def _file(self, texts: Sequence[str]) -> Path | None:
        content = hashlib.sha256()
        made_by = [str(version(name)) for name in ("torch", "transformers")] + [Path(__file__).read_text("utf-8")]
        for text in (self.model.digest, str(self.max_tokens), *made_by, *texts):
            content.update(digest(text).encode())
        return None if self.cache is None else self.cache / f"{content.hexdigest()}.npy"

    def _kept(self, texts: Sequence[str]) -> Features | None:
        file = self._file(texts)
        if file is None or not file.is_file():
            return None
        try:
            found = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            log.warning("%s: cannot be read; recomputing its features", file)
            return None
        whole = found.ndim == 2 and len(found) == len(texts) and found.dtype == np.float32
        return found if whole and np.isfinite(found).all() else None

    def _keep(self, texts: Sequence[str], features: Features) -> None:
        """Write the cache file; only warn if that fails."""
        file = self._file(texts)
        if file is None:
            return
        try:
            with atomic(file, binary=True) as whole:
                np.save(whole, features)
        except MachineError as error:
            log.warning("%s: features cannot be cached (%s)", file.parent, error)

    def _computed(self, texts: Sequence[str]) -> Features:
        """Return features (texts, D), batching texts of similar length."""
        tokenizer, network, device = self._parts()
        encoded = tokenizer(list(texts), truncation=True, max_length=self.max_tokens)["input_ids"]
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
        ids = [row or [end] for row in encoded]  # an empty text is featurised as the end-of-text token
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        rows: dict[int, Features] = {}
        bar = self.progress(len(ids), f"features of {self.model.name}")
        start = 0
        while start < len(order):
            batch = order[start : start + self.batch_size]
            found = self._last_states(network, [ids[i] for i in batch], device)
            if found is None:
                continue
            rows |= dict(zip(batch, found, strict=True))
            bar.advance(len(batch), sum(len(ids[i]) for i in batch))
            start += len(batch)
        bar.close()
        features = np.stack([rows[i] for i in range(len(ids))]).astype(np.float32)
        if not np.isfinite(features).all():
            raise DataError(f"feature model {self.model.name}: its features are not finite; use another model")
        return features

    def _last_states(self, network: Any, ids: Sequence[Sequence[int]], device: Any) -> Features | None:
        """Return (batch, D) at each row's last token; None if memory ran out and the batch size was halved."""
        import torch

        longest = max(map(len, ids))
        tokens = torch.zeros(len(ids), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, found in enumerate(ids):
            tokens[row, : len(found)] = torch.tensor(found)
            mask[row, : len(found)] = 1
        try:
            with torch.no_grad():
                states = network(input_ids=tokens.to(device), attention_mask=mask.to(device)).last_hidden_state
            last = torch.tensor([len(found) - 1 for found in ids], device=states.device)
            chosen = states[torch.arange(len(ids), device=states.device), last]  # (batch, D)
            return np.asarray(chosen.float().cpu().numpy())
        except torch.OutOfMemoryError as error:
            if self.batch_size == 1:
                raise MachineError(
                    f"not enough memory for one text under feature model {self.model.name}; use a smaller one or "
                    "another device by " + spelt("metadata", '{"mauve_feature_device": "cpu"}')
                ) from error
            torch.cuda.empty_cache()
            self.batch_size //= 2
            return None

    def _parts(self) -> tuple[Any, Any, Any]:
        """Load tokenizer, network in float32 and device."""
        if self._loaded is None:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging as host_logging

            from ltm_eval.system.device import resolve_device

            device = resolve_device(self.device)
            host_logging.disable_progress_bar()
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.model.folder, local_files_only=True)
                network = AutoModel.from_pretrained(self.model.folder, local_files_only=True)
            except Exception as error:  # transformers raises many types; all mean that it cannot be loaded
                cause = str(error).strip().splitlines()
                raise DataError(
                    f"feature model {self.model.name}: transformers could not load it ({type(error).__name__}: "
                    f"{cause[0] if cause else ''})"
                ) from error
            finally:
                host_logging.enable_progress_bar()
            self._loaded = tokenizer, network.float().eval().to(device), device
        return self._loaded  # type: ignore[no-any-return]
