"""The probe against plain computations on a tiny random model, its file, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F

from ltm_eval import cli
from ltm_eval.inference.windows import Window
from ltm_eval.model.tokenizer import Tokenizer
from ltm_eval.probe.files import (
    Probe,
    ProbeConfig,
    downward,
    explored,
    find_probes,
    group_sets,
    groups_of,
    key_of,
    layers_of,
    ranges_of,
    read_probe,
    upward,
    words_of,
)
from ltm_eval.probe.reconstruct import (
    ProbeText,
    Subject,
    curve_keys,
    encode,
    explored_of,
    probed,
    scored,
    similarity,
)
from ltm_eval.system.errors import DataError, ResultsError, UsageError
from ltm_eval.system.files import write_json_atomic
from tests.tiny import RELEASED, TINY, released, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from ltm_eval.model.decoder import LatentThoughtModel
    from ltm_eval.probe.files import Explored, ProbedText

LAYERS = 5
DEEP = replace(TINY, n_layers=LAYERS, max_z_len=2 * LAYERS)
TEXT = ProbeText("story", "", "A ferry crossed the river until the flood.")
QUICK = ProbeConfig(t_fast=6, max_tokens=30, prompt_tokens=5)


@cache
def deep_model() -> LatentThoughtModel:
    return tiny_model(DEEP, seed=1, scale=20.0)


def subject_of(tokenizer: Tokenizer, config: ProbeConfig = QUICK, *, text: ProbeText = TEXT) -> Subject:
    return Subject(deep_model(), encode(text, tokenizer, config, context=DEEP.max_seq_len), tokenizer, config)


def probe_text(
    tokenizer: Tokenizer, config: ProbeConfig = QUICK, *, text: ProbeText = TEXT, explore: bool = True
) -> tuple[ProbedText, Explored]:
    """A text as probed and as the explorer shows it; the latter of no use without `explore`."""
    subject = subject_of(tokenizer, config, text=text)
    keys = explored(LAYERS, config.groups) if explore else [key_of(range(1, LAYERS + 1))]
    ended = dict(subject.continued(keys))
    made = {
        key: {
            "tokens": ended[key].tokens,
            "nll_nats": subject.continuation_nats(key, ended[key].tokens),
            "stop_reason": ended[key].stop_reason,
        }
        for key in keys
    }
    shown = explored_of(subject.encoded, tokenizer, made, index=0, until=())
    return probed(subject, text, explore=explore), shown


def naive(tokens: tuple[int, ...], eot: int, z: torch.Tensor | None) -> tuple[float, int]:
    """-log p and top-1 hits from the whole logits."""
    logits = deep_model()(torch.tensor([[eot, *tokens[:-1]]]), None if z is None else z.unsqueeze(0))[0]
    targets = torch.tensor(tokens)
    return float(F.cross_entropy(logits, targets, reduction="sum")), int((logits.argmax(-1) == targets).sum())


def without_cache(eot: int, z: torch.Tensor | None, new: int, read: tuple[int, ...] = ()) -> list[int]:
    tokens = [eot, *read]
    for _ in range(new):
        logits = deep_model()(torch.tensor([tokens]), None if z is None else z.unsqueeze(0))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[1 + len(read) :]


# Sets of layers


@pytest.mark.parametrize(
    ("layers", "key"), [((), "none"), ((2,), "2"), ((1, 2, 3), "1-3"), ((1, 2, 3, 7, 9, 10), "1-3,7,9-10")]
)
def test_keys_go_both_ways(layers: tuple[int, ...], key: str) -> None:
    assert key_of(layers) == key
    assert layers_of(key) == layers


@pytest.mark.parametrize("key", ["", "0", "3-1", "1-1", "2,1", "1,2", "1-999999999", "a", "1-3,", "01"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="a set of layers"):
        layers_of(key)


def test_groups_are_quarters_or_single_layers() -> None:
    assert groups_of(12) == ((1, 3), (4, 6), (7, 9), (10, 12))
    assert groups_of(3) == ((1, 1), (2, 2), (3, 3))
    assert groups_of(1) == ((1, 1),)
    for n_layers in (5, 6, 7, 30):
        sizes = [last - first + 1 for first, last in groups_of(n_layers)]
        assert sum(sizes) == n_layers
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("n_layers", "ranges", "combinations", "all_of_them"), [(3, 6, 8, 8), (12, 78, 16, 84)])
def test_the_explorers_sets(n_layers: int, ranges: int, combinations: int, all_of_them: int) -> None:
    """12 layers: 78 ranges, none, and the five combinations of quarters that are no range."""
    assert len(ranges_of(n_layers)) == ranges
    assert len(group_sets(n_layers)) == combinations
    assert len(explored(n_layers)) == len(set(explored(n_layers))) == all_of_them


def test_curves_begin_with_none_and_end_with_all() -> None:
    assert upward(3) == ["none", "1", "1-2", "1-3"]
    assert downward(3) == ["none", "3", "2-3", "1-3"]
    assert curve_keys(3, "both") == ["none", "1", "1-2", "1-3", "3", "2-3"]
    assert words_of("1-3,7") == "layers 1–3, 7"


# Figures


def test_all_layers_equal_the_full_z_and_none_equals_no_z_exactly(tokenizer: Tokenizer) -> None:
    subject = subject_of(tokenizer)
    assert torch.equal(subject.z(f"1-{LAYERS}"), subject.posterior.mu[0])
    assert not subject.z("none").any()
    assert subject.teacher_forced(subject.z("none")) == subject.teacher_forced(None)
    (zero,) = subject.free_running([subject.z("none")])
    assert list(zero) == without_cache(tokenizer.eot_id, None, len(zero))


@pytest.mark.parametrize("key", ["none", "1", "3-5", "1-2,5", "1-5"])
def test_one_set_of_layers_against_a_plain_computation(tokenizer: Tokenizer, key: str) -> None:
    subject = subject_of(tokenizer)
    z = torch.zeros_like(subject.posterior.mu[0])
    for layer in layers_of(key):
        z[layer - 1] = subject.posterior.mu[0, layer - 1]
    assert torch.equal(subject.z(key), z)
    nll, hits = subject.teacher_forced(subject.z(key))
    wanted = naive(subject.encoded.tokens, tokenizer.eot_id, z)
    assert (nll, hits) == (pytest.approx(wanted[0], rel=1e-5), wanted[1])


def test_free_running_equals_greedy_decoding_without_a_cache(tokenizer: Tokenizer) -> None:
    subject, keys = subject_of(tokenizer), ["none", "1", "2-4", "1-5"]
    found = subject.free_running([subject.z(key) for key in keys])
    assert [list(one) for one in found] == [without_cache(tokenizer.eot_id, subject.z(key), 30) for key in keys]
    assert len(set(found)) > 1, "the model is too insensitive to show anything"


def test_cells_count_what_they_say(tokenizer: Tokenizer) -> None:
    text, _ = probe_text(tokenizer)
    subject = subject_of(tokenizer)
    assert set(upward(LAYERS)) | set(downward(LAYERS)) | set(explored(LAYERS)) == set(text.cells)
    for key in (*upward(LAYERS), *downward(LAYERS)):
        mine = without_cache(tokenizer.eot_id, subject.z(key), 30)
        right = [a == b for a, b in zip(mine, subject.encoded.tokens, strict=True)]
        prefix = next((place for place, hit in enumerate(right) if not hit), 30)
        assert (text.cells[key].greedy, text.cells[key].prefix) == (sum(right), prefix)
    assert text.no_z == text.cells["none"]
    assert text.cells["2-4"].greedy is None
    assert (text.tokens, text.cut, text.t_fast) == (30, True, 6)
    assert sum(text.kl_per_layer_nats) == pytest.approx(text.kl_nats, rel=1e-5)
    assert len(text.mean_log_var_per_layer) == LAYERS


def test_a_perfect_reconstruction_has_no_first_error(tokenizer: Tokenizer) -> None:
    """The text is what the model itself generates without z, so no layer reconstructs it whole."""
    own = without_cache(tokenizer.eot_id, None, 12)
    text = ProbeText("own", "", tokenizer.decode(own))
    if tokenizer.encode(text.rest) != own:
        pytest.fail("the tiny model generates no text")
    found, _ = probe_text(tokenizer, text=text, explore=False)
    assert (found.no_z.greedy, found.no_z.prefix, found.no_z.top1) == (12, 12, 12)


def test_explored_texts_likelihoods_and_similarities(tokenizer: Tokenizer) -> None:
    _, found = probe_text(tokenizer)
    subject = subject_of(tokenizer)
    assert found.prompt + found.rest == TEXT.rest[:30]
    assert len(found.prompt) == 5
    assert len(set(found.texts)) == len(found.texts)
    read = subject.encoded.tokens[:5]
    for key in ("none", "1", "2-3", "1-5"):
        cell, z = found.cells[key], subject.z(key)
        tokens = without_cache(tokenizer.eot_id, z, 25, read)
        tokens = tokens[: tokens.index(tokenizer.eot_id)] if tokenizer.eot_id in tokens else tokens
        assert cell.tokens == len(tokens)
        assert found.texts[cell.text] == tokenizer.decode(tokens)
        logits = deep_model()(torch.tensor([[tokenizer.eot_id, *read, *tokens]]), z.unsqueeze(0))[0, 5:-1]
        nll = float(F.cross_entropy(logits, torch.tensor(tokens), reduction="sum")) if tokens else 0.0
        assert cell.nll_nats == pytest.approx(nll, rel=1e-4, abs=1e-4)
    assert found.cells["1-5"].similarity == 1


def test_the_rest_can_be_a_draw_of_the_prior_and_the_kept_one_of_the_posterior(tokenizer: Tokenizer) -> None:
    subject = subject_of(tokenizer, replace(QUICK, rest="prior", latents="draw"))
    z, mu = subject.z("2-3"), subject.posterior.mu[0]
    assert torch.equal(z[[0, 3, 4]], subject.rest[[0, 3, 4]])
    assert torch.equal(z[[1, 2]], subject.kept[[1, 2]])
    assert not torch.equal(subject.kept, mu)
    assert 0.5 < float(subject.rest.std()) < 1.5
    text, _ = probe_text(tokenizer, replace(QUICK, rest="prior"), explore=False)
    assert text.cells["none"].nll_nats != text.no_z.nll_nats


def test_positions_that_are_not_scored_do_not_count() -> None:
    window = Window((1, 2, 3), (-1, -1, 4))
    logits = deep_model()(torch.tensor([[1, 2, 3]]))[0, 2]
    nll, hits = scored(deep_model(), window, None)
    assert nll == pytest.approx(float(F.cross_entropy(logits, torch.tensor(4))), rel=1e-5)
    assert hits == int(logits.argmax() == 4)


def test_a_likelihood_that_is_no_number_is_refused() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="no finite likelihood"):
        scored(model, Window((1, 2), (2, 3)), None)


def test_the_same_probe_twice_has_the_same_bits_whatever_else_is_probed(tokenizer: Tokenizer) -> None:
    first, second = probe_text(tokenizer), probe_text(tokenizer)
    assert first == second
    alone, _ = probe_text(tokenizer, replace(QUICK, direction="down"), explore=False)
    assert alone.cells == {key: first[0].cells[key] for key in downward(LAYERS)}


@pytest.mark.parametrize("name", RELEASED)
def test_released_checkpoints_are_probed(name: str, tokenizer: Tokenizer) -> None:
    model, _, _ = released(name)
    text = Subject(model, encode(TEXT, tokenizer, QUICK, context=64), tokenizer, QUICK)
    assert text.teacher_forced(text.z("none")) == text.teacher_forced(None)
    n_layers = model.config.n_layers
    assert torch.equal(text.z(key_of(tuple(range(1, n_layers + 1)))), text.posterior.mu[0])


# Texts


def test_a_question_is_the_prompt_unless_it_leaves_no_room(tokenizer: Tokenizer) -> None:
    text = ProbeText("sum", "Question: 2+2?\nAnswer:", " 4")
    assert encode(text, tokenizer, replace(QUICK, max_tokens=128), context=192).prompt == 22
    cut = encode(text, tokenizer, replace(QUICK, max_tokens=10), context=192)
    assert (len(cut.tokens), cut.prompt, cut.cut) == (10, 5, True)
    assert len(encode(text, tokenizer, replace(QUICK, max_tokens=500), context=16).tokens) == 15


def test_an_empty_text_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="gone: the text is empty"):
        encode(ProbeText("gone", "", ""), tokenizer, QUICK, context=192)


def test_a_text_of_one_token_has_no_prompt(tokenizer: Tokenizer) -> None:
    text, found = probe_text(tokenizer, text=ProbeText("x", "", "x"))
    assert text.tokens == 1
    assert found.prompt == ""


@pytest.mark.parametrize(
    ("a", "b", "wanted"), [("kitten", "sitting", 1 - 3 / 7), ("", "", 1.0), ("abc", "", 0.0), ("ab", "ab", 1.0)]
)
def test_similarity(a: str, b: str, wanted: float) -> None:
    """Levenshtein's own example: 3 edits from kitten to sitting."""
    assert similarity(a.encode(), b.encode()) == pytest.approx(wanted)
    assert similarity(b.encode(), a.encode()) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"rest": "mean"},
        {"latents": "mu"},
        {"direction": "sideways"},
        {"max_tokens": 1},
        {"explore": -1},
        {"groups": 9},
        {"n_tokens": 0},
        {"t_fast": -1},
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(QUICK, **change)  # type: ignore[arg-type]


# The file


def probe_of(tokenizer: Tokenizer) -> Probe:
    text, found = probe_text(tokenizer)
    return Probe(
        model_name="tiny",
        n_layers=LAYERS,
        model={},
        settings={"preset": "bound", "source": {"files": ["a"]}},
        texts=(text,),
        explored=(found,),
        warnings=("a",),
        demo_model=False,
        command="ltm-eval probe",
        provenance={},
        seconds=1.5,
        groups=groups_of(LAYERS),
    )


def test_the_file_is_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    probe, path = probe_of(tokenizer), tmp_path / "tiny" / "probe_2026-01-02T03-04-05.000006.json"
    write_json_atomic(path, probe)
    found = read_probe(path)
    assert found == replace(probe, date_id="2026-01-02T03-04-05.000006", path=path)
    assert find_probes([tmp_path]) == find_probes([path]) == [found]


def test_of_one_folder_the_newest_probe_of_the_same_settings_is_taken(tokenizer: Tokenizer, tmp_path: Path) -> None:
    probe = probe_of(tokenizer)
    for hour, own in ((1, probe), (2, probe), (3, replace(probe, settings={"preset": "released"}))):
        write_json_atomic(tmp_path / f"probe_2026-01-02T0{hour}-00-00.json", own)
    assert [found.date_id[11:13] for found in find_probes([tmp_path])] == ["02", "03"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "ltm_eval/probe/9"}, "expected a probe of format"),
        ({"n_layers": 0}, "field n_layers: expected a whole number from 1"),
        ({"texts": 3}, "field texts: expected a list"),
        ({"model_name": None}, "field model_name: expected text"),
        ({"n_layers": 2}, "expected sets of 2 layers, got"),
        ({"seconds": "x"}, "field seconds: expected a finite number"),
        ({"demo_model": 1}, "field demo_model: expected true or false"),
        ({"groups": [[1, 2], [2, 5]]}, "field groups: expected 1 to 8 groups of 5 layers"),
        ({"groups": [[1, 2, 3]]}, "field groups"),
    ],
)
def test_a_malformed_file_names_its_field(
    tokenizer: Tokenizer, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "probe_x.json"
    write_json_atomic(path, probe_of(tokenizer))
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(ResultsError, match=words):
        read_probe(path)


def test_a_wrong_number_deep_inside_is_named_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "probe_x.json"
    write_json_atomic(path, probe_of(tokenizer))
    content = json.loads(path.read_text("utf-8"))
    content["texts"][0]["cells"]["1-2"]["top1"] = 31
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ResultsError, match=r"field texts\[0\]\.cells\.1-2\.top1: expected a whole number from 0 to 30"):
        read_probe(path)
    content["texts"][0]["cells"]["1-2"]["top1"] = 30
    content["explored"][0]["cells"]["1"]["text"] = 99
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ResultsError, match=r"explored\[0\]\.cells\.1\.text"):
        read_probe(path)


# The command


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_folder(tmp_path / "tiny")
    (tmp_path / "a.txt").write_text("Rain fell on the hills.", "utf-8")
    (tmp_path / "b.txt").write_text("</script><b>Bells & bread</b>", "utf-8")
    return tmp_path


def test_the_command_writes_file_and_page(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["probe", "--model", "tiny", "--text", "a.txt", "--text", "b.txt", "--t-fast", "3", "-o", "out", "-q"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    (file,) = (at / "out" / "tiny").glob("probe_*.json")
    page = (at / "out" / "report.html").read_text("utf-8")
    assert f"results: {file}" in said
    assert f"report: {at / 'out' / 'report.html'}" in said
    assert "top1 up" in said and "no z" in said
    assert "What the layers carry" in page and "<b>Bells" not in page
    probe = read_probe(file)
    assert [text.name for text in probe.texts] == ["a.txt", "b.txt"]
    assert probe.command == "ltm-eval " + " ".join(words)
    assert probe.settings["t_fast"] == 3
    assert cli.main(["report", str(at / "out"), "-o", "again.html"]) == 0
    assert (at / "again.html").read_text("utf-8").replace(f">{file}<", ">out<") == page.replace(f">{file}<", ">out<")
    assert cli.main(["report", str(file), "-o", "file.html"]) == 0


def test_a_task_gives_questions_with_their_answers(at: Path) -> None:
    words = ["probe", "--model", "tiny", "--task", "gsm8k", "--data", "sample", "--limit", "1", "--t_fast", "1"]
    assert cli.main([*words, "--max_tokens", "190", "--direction", "up", "-o", "out", "-q", "--no_report"]) == 0
    (file,) = (at / "out" / "tiny").glob("probe_*.json")
    probe = read_probe(file)
    assert probe.explored[0].prompt.startswith("Question:")
    assert probe.settings["source"]["task"] == "ltm_gsm8k"
    assert set(upward(2)) <= set(probe.texts[0].cells)
    assert not (at / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--text", "a.txt", "--task", "gsm8k"], 2, "either --text or --task"),
        (["--text", "a.txt", "--rest", "noise"], 2, "rest must be one of zero, prior"),
        (["--text", "empty.txt"], 3, "empty.txt: the text is empty"),
        (["--text", "latin.txt"], 3, "not UTF-8 at byte 1"),
        (["--task", "gsm9k"], 2, "is not known"),
    ],
)
def test_what_cannot_be_probed_is_said_in_one_line(
    at: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    (at / "empty.txt").write_bytes(b"")
    (at / "latin.txt").write_bytes(b"a\xe9b")
    assert cli.main(["probe", "--model", "tiny", *words, "--t_fast", "1", "-o", "out", "-q"]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
    assert not list((at / "out").rglob("probe_*.json"))
