from __future__ import annotations

import json
import pickle
import random
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import ltm_eval
from ltm_eval.model import checkpoint
from ltm_eval.model.checkpoint import canonical_name, convert, load, read, weights_sha256
from ltm_eval.system.errors import (
    CheckpointError,
    InputError,
    LtmEvalError,
    MachineError,
    RefusedError,
    TokenizerError,
    error_line,
)
from tests.tiny import DATA, RELEASED, latent, released, tiny_folder

CONTENT: dict[str, Any] = torch.load(DATA / "released_b" / "ckpt_1000.pt", weights_only=True)


def saved(path: Path, *, model: dict[str, Any] | None = None, **model_args: Any) -> Path:
    """A released file with changes."""
    content = {
        **CONTENT,
        "model": CONTENT["model"] if model is None else model,
        "model_args": {**CONTENT["model_args"], **model_args},
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", RELEASED)
def test_converting_back_and_forth_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    model, _, expected = released(name)
    convert(DATA / name / "ckpt_1000.pt", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back.pt")
    tokens, z = torch.from_numpy(expected["X"]), latent(model, expected["z"])
    for path in (tmp_path / "ours", tmp_path / "back.pt"):
        again = load(path)
        assert torch.equal(again(tokens, z), model(tokens, z))
        assert again.info.weights_sha256 == model.info.weights_sha256
        assert again.info.step == 1000


@pytest.mark.parametrize(
    "wrap",
    ["{}", "module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}", "_fsdp_wrapped_module.{}"],
)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_every_naming_form_loads(wrap: str, fused: bool, inside: bool, tmp_path: Path) -> None:
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"} if fused else {}

    def form(name: str) -> str:
        parts = [names.get(part, part) for part in name.split(".")]
        if inside and len(parts) > 3 and "attention" in parts[2]:
            parts.insert(3, "_orig_mod")
        return wrap.format(".".join(parts))

    path = saved(tmp_path / "c.pt", model={form(name): value for name, value in CONTENT["model"].items()})
    assert load(path).info.weights_sha256 == released("released_b")[0].info.weights_sha256


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
@pytest.mark.parametrize("place", range(4))
def test_wrappers_are_dropped_wherever_they_stand(wrapper: str, place: int, tmp_path: Path) -> None:
    def form(name: str) -> str:
        parts = name.split(".")
        return ".".join([*parts[:place], wrapper, *parts[place:]])

    path = saved(tmp_path / "c.pt", model={form(name): value for name, value in CONTENT["model"].items()})
    assert load(path).info.weights_sha256 == released("released_b")[0].info.weights_sha256


def test_other_prefixes_show_what_is_missing_and_what_is_extra(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", model={f"net.{name}": value for name, value in CONTENT["model"].items()})
    words = r"missing tok_embeddings\.weight.* and \d+ more; extra net\.\S+.* more"
    with pytest.raises(CheckpointError, match=words):
        load(path)
    long = tmp_path / ("long" * 30) / ("path" * 30)
    long.mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        load(path.rename(long / "c.pt"))
    line = error_line(caught.value)
    assert re.search(words, line) and len(line) <= 300 and "path/c.pt: " in line


@pytest.mark.parametrize(
    ("told", "step", "note"),
    [
        (1000, 1000, ""),
        (torch.tensor(1000), 1000, ""),
        (torch.tensor([1000], dtype=torch.int32), 1000, ""),
        (torch.tensor(1000.0), 1000, ""),
        (1000.0, 1000, ""),
        (0, 0, ""),
        (None, None, ""),
        (torch.tensor([1, 2]), None, "iter_num is a Tensor"),
        (1000.5, None, "iter_num is 1000.5"),
        (True, None, "iter_num is True"),
        (-1, None, "iter_num is -1"),
        (float("nan"), None, "iter_num is nan"),
        ("1000", 1000, ""),
        ("1e3", None, "iter_num is '1e3'"),
        ("-1", None, "iter_num is '-1'"),
        ([1000], None, "iter_num is a list"),
    ],
)
def test_the_step_is_told_or_said_to_be_unknown(told: Any, step: int | None, note: str, tmp_path: Path) -> None:
    torch.save({**CONTENT, "iter_num": told}, tmp_path / "c.pt")
    info = load(tmp_path / "c.pt").info
    assert info.step == step and (note in " ".join(info.notes) if note else not info.notes)
    for place in ("folder", "back.pt"):  # what is unknown stays unknown
        convert(tmp_path / "c.pt", tmp_path / place)
        assert load(tmp_path / place).info.step == step


def test_sizes_may_be_tensors_of_one_number(tmp_path: Path) -> None:
    sizes = {name: value for name, value in CONTENT["model_args"].items() if value is not None}
    path = saved(tmp_path / "c.pt", **{name: torch.tensor(value) for name, value in sizes.items()})
    assert load(path).config == released("released_b")[0].config


def test_names_are_reduced_to_one_spelling() -> None:
    assert canonical_name("module.layers.0.attention._orig_mod.wq.weight") == "layers.0.attention.wq.weight"
    assert canonical_name("layers.3.feed_forward.gate_proj.weight") == "layers.3.feed_forward.w1.weight"


def test_an_untied_or_absent_output_is_understood(tmp_path: Path) -> None:
    model = dict(CONTENT["model"])
    output = model.pop("output.weight")
    assert (
        load(saved(tmp_path / "a.pt", model=model)).info.weights_sha256 == released("released_b")[0].info.weights_sha256
    )
    del model["tok_embeddings.weight"]
    load(saved(tmp_path / "b.pt", model={**model, "output.weight": output}))
    with pytest.raises(CheckpointError, match="differs from tok_embeddings"):
        load(saved(tmp_path / "c.pt", model={**CONTENT["model"], "output.weight": output + 1}))


def test_all_disagreements_stand_in_one_error(tmp_path: Path) -> None:
    model = dict(CONTENT["model"])
    del model["layers.0.attention.wq.weight"]
    model["layers.0.extra.weight"] = torch.zeros(2)
    model["norm.weight"] = torch.zeros(3)
    model["layers.1.ffn_norm.weight"] = torch.full((64,), float("nan"))
    with pytest.raises(CheckpointError) as caught:
        load(saved(tmp_path / "c.pt", model=model))
    for words in (
        "4 tensor(s)",
        "missing layers.0.attention.wq",
        "extra layers.0.extra",
        "norm.weight has shape (3,), needs (64,)",
        "64 NaN",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layers": 4, "max_z_len": 8}, "missing layers.2"),
        ({"n_layers": 1}, "extra layers.1"),
        ({"vocab_size": 301}, r"needs \(301, 64\)"),
        ({"n_kv_heads": 4}, "wk.weight has shape"),
        ({"max_z_len": 7}, "7 latents"),
        ({"dim": 10**6}, "does not belong"),
        ({"vocab_size": 10**9}, "does not belong"),
        ({"n_heads": None}, "n_heads"),
    ],
)
def test_a_config_that_does_not_belong_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        load(saved(tmp_path / "c.pt", **change))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_of_other_kinds_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    model = {**CONTENT["model"], "norm.weight": torch.ones(64).to(dtype)}
    with pytest.raises(CheckpointError, match="norm.weight has dtype"):
        load(saved(tmp_path / "c.pt", model=model))


def test_half_precision_weights_load_as_fp32(tmp_path: Path) -> None:
    model = load(saved(tmp_path / "c.pt", model={name: value.half() for name, value in CONTENT["model"].items()}))
    assert all(parameter.dtype == torch.float32 and not parameter.requires_grad for parameter in model.parameters())


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_what_training_saves_beside_the_weights_is_read(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    path = saved(tmp_path / "ckpt.pt")
    whole = torch.load(path, weights_only=True)
    whole |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "generator": random.getstate()}
    whole |= {"torch_generator": torch.get_rng_state(), "dtype": torch.bfloat16, "device": torch.device("cuda:0")}
    whole |= {
        "flags": {True: 1, None: 2},
        "names": {"a", "b"},
        "raw": b"\xff\x00",
        "weight": layer.weight,
        "view": layer.weight[:, 1],
    }
    torch.save(whole, path)
    assert read(path).weights.keys() == read(saved(tmp_path / "other.pt")).weights.keys()


def test_nothing_in_a_pickle_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**CONTENT, "best_val_loss": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"model": Evil()}))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(CheckpointError) as caught:
            load(name)
        assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def impostors(folder: Path) -> dict[str, str]:
    """Files that are no checkpoints, and words their error must hold."""
    whole = (DATA / "released_b" / "ckpt_1000.pt").read_bytes()
    (folder / "lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "page.pt").write_text("<!DOCTYPE html><html>404</html>")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "garbage.pt").write_bytes(bytes(range(256)) * 40)
    torch.save([1, 2], folder / "list.pt")
    torch.save({"weights": {}}, folder / "keys.pt")
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**26)
    return {
        "lfs.pt": "git-lfs",
        "page.pt": "HTML page",
        "empty.pt": "empty",
        "cut.pt": "not a file that torch.save wrote",
        "garbage.pt": "not a file that torch.save wrote",
        "list.pt": "holds a list",
        "keys.pt": "'model' and 'model_args'",
        "bomb.pt": "would inflate",
        "absent.pt": "no such file",
    }


def test_impostors_are_recognised(tmp_path: Path) -> None:
    for name, words in impostors(tmp_path).items():
        with pytest.raises(CheckpointError, match=words):
            load(tmp_path / name)


def test_damaged_folders_are_explained(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    damages = {
        "no weights": (folder / "model.safetensors").unlink,
        "expected config.json": (folder / "config.json").unlink,
        "not valid JSON": lambda: (folder / "config.json").write_text("{"),
        "occurs twice": lambda: (folder / "config.json").write_text('{"model": {}, "model": {}}'),
        "not a complete safetensors": lambda: (folder / "model.safetensors").write_bytes(b"\x10\0\0\0"),
        "differs from": lambda: flip(folder / "model.safetensors"),
        "update ltm-eval": lambda: edit(folder / "config.json", format="ltm_eval/9"),
    }
    for words, damage in damages.items():
        shutil.rmtree(folder)
        tiny_folder(folder)
        damage()
        with pytest.raises(CheckpointError, match="found" if words == "no weights" else words):
            load(folder)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_training_took_lies_beside_a_released_file_and_is_converted(tmp_path: Path) -> None:
    for name in ("ckpt_1000.pt", "ckpt_2000.pt"):
        shutil.copy(DATA / "released_b" / "ckpt_1000.pt", tmp_path / name)
    beside = tmp_path / "training_compute.json"
    assert load(tmp_path / "ckpt_1000.pt").info.training is None
    beside.write_text('{"tokens": 3e9, "flops": 4e18, "formula": "6 P"}')
    told = {"tokens": 3e9, "flops": 4e18, "formula": "6 P"}
    assert load(tmp_path / "ckpt_1000.pt").info.training == told
    beside.write_text('{"ckpt_2000.pt": {"tokens": 7, "other": 1}, "ckpt_1000.pt": {"tokens": 5}}')
    convert(tmp_path / "ckpt_2000.pt", tmp_path / "folder")
    assert load(tmp_path / "folder").info.training == {"tokens": 7}
    for content, message in (
        ("[]", "expected an object with tokens and flops"),
        ("{", "cannot be read as JSON"),
        ('{"tokens": "many"}', "tokens must be a positive number, got 'many'"),
        ('{"flops": true}', "flops must be a positive number, got True"),
        ('{"step": 1.5}', "step must be a whole number of at least 0"),
        ('{"formula": 6}', "formula must be text"),
    ):
        beside.write_text(content)
        with pytest.raises(InputError, match=message):
            load(tmp_path / "ckpt_1000.pt")


def test_a_folder_of_released_files_says_what_to_do(tmp_path: Path) -> None:
    shutil.copy(DATA / "released_b" / "ckpt_1000.pt", tmp_path)
    with pytest.raises(CheckpointError, match="convert"):
        load(tmp_path)


def test_conversion_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").touch()
    with pytest.raises(RefusedError, match="already exists"):
        convert(DATA / "released_b" / "ckpt_1000.pt", tmp_path / "target")
    (tmp_path / "file").touch()
    with pytest.raises(LtmEvalError):
        convert(DATA / "released_b" / "ckpt_1000.pt", tmp_path / "file" / "below")


def test_the_tokenizer_travels_and_must_fit(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    model, tokenizer = checkpoint.load_with_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("Ölü ☃")) == "Ölü ☃"
    with pytest.raises(CheckpointError, match="which tokenizer"):
        checkpoint.load_with_tokenizer(DATA / "released_b" / "ckpt_1000.pt")
    small = dict(CONTENT["model"])
    for name in ("tok_embeddings.weight", "output.weight"):
        small[name] = small[name][:200].clone()
    with pytest.raises(TokenizerError, match="embedding 200 rows"):
        checkpoint.load_with_tokenizer(saved(tmp_path / "small.pt", model=small, vocab_size=200), tokenizer=str(folder))


def test_hub_ids_offline_fail_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError, match="pass the folder"):
        load("nobody/nothing-here")


def test_hub_ids_load_from_a_pinned_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = tiny_folder(tmp_path / "0123abc")
    asked: dict[str, Any] = {}

    def snapshot(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(folder)

    class Api:
        def model_info(self, repo: str, *, revision: str | None, timeout: float) -> Any:
            return type("Info", (), {"sha": "0123abc"})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    info = load("owner/name", revision="main").info
    assert asked["revision"] == info.revision == "0123abc"


def test_weights_are_the_models_own_and_lie_in_order() -> None:
    found = read(DATA / "released_a" / "ckpt_1000.pt")
    name = "layers.0.attention.wq.weight"
    found.weights[name] = found.weights[name].float().T.contiguous().T
    model = checkpoint.build(found)
    weight = model.get_parameter(name)
    assert torch.equal(weight, found.weights[name]) and weight.is_contiguous() and not weight.requires_grad
    found.weights[name].zero_()
    assert weight.abs().sum() > 0
    assert model.rope.device == torch.device("cpu") and model.rope.isfinite().all()


def test_neither_loading_nor_fitting_imports_a_compiler() -> None:
    """torch's takes a second."""
    look = (
        "import sys, torch, ltm_eval\n"
        "model = ltm_eval.load('demo')\n"
        "ones = torch.ones(1, 20, dtype=torch.long)\n"
        "ltm_eval.fit(model, ones, ones, t_fast=1)\n"
        "print(*sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_digest_sees_names_shapes_and_values() -> None:
    a = {"x": torch.tensor([1.0, 2.0])}
    variants = [a, {"y": a["x"]}, {"x": a["x"].view(1, 2)}, {"x": a["x"] + 1}, {"x": a["x"].double()}]
    assert len({weights_sha256(v) for v in variants}) == len(variants)


def test_public_names() -> None:
    assert ltm_eval.load is load
    assert read(DATA / "released_a" / "ckpt_1000.pt").config.n_latents == 2


def one(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **changes}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": one(0, 4), "b": one(5, 8)},  # a hole
        {"a": one(0, 4), "b": one(3, 8)},  # an overlap
        {"a": one(1, 8)},
        {"a": one(0, 7)},  # the file is longer
        {"a": one(0, 9)},  # and shorter
        {"a": one(0, 8, shape=[7])},
        {"a": one(0, 8, shape=[-8])},
        {"a": one(0, 8, dtype="U9")},
        {"a": 5},
        [1],
    ],
)
def test_a_header_that_is_wrong_is_refused(entries: Any, tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "tiny")
    head = json.dumps(entries).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(8))
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a complete safetensors file .*copy it again"):
        read(folder)
