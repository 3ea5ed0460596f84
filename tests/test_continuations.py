"""`probe --prompt`: prompts continued under every combination of groups and every range of layers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_eval import cli
from ltm_eval.inference.decode import Prompt, generate
from ltm_eval.inference.options import GenerationConfig, fit_config
from ltm_eval.inference.posterior import fit_documents
from ltm_eval.inference.windows import Document, Window
from ltm_eval.model.checkpoint import load_with_tokenizer
from ltm_eval.probe import reconstruct
from ltm_eval.probe.files import Probe, explored, group_sets, key_of, layers_of, ranges_of, read_probe
from tests.gang import Gang
from tests.tiny import TINY, tiny_folder, tiny_model

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, NEW = 5, 12
PROMPTS = ("A ferry crossed", "Rain fell on the hills")
WORDS = ("--t_fast", "3", "--n_tokens", str(NEW), "-q")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of five layers, so that groups and layers are not the same."""
    config = replace(TINY, n_layers=LAYERS, max_z_len=2 * LAYERS)
    return tiny_folder(tmp_path_factory.mktemp("deep") / "deep", tiny_model(config, seed=1, scale=20.0))


def words_of(deep: Path, out: Path, *more: str, prompts: tuple[str, ...] = PROMPTS) -> list[str]:
    given = [word for prompt in prompts for word in ("--prompt", prompt)]
    return ["probe", "--model", str(deep), *given, *WORDS, "-o", str(out), *more]


def probe_in(out: Path) -> Probe:
    return read_probe(max(out.rglob("probe_*.json")))


def measured(probe: Probe) -> list[Any]:
    return [probe.texts, probe.explored, probe.groups, probe.settings, probe.model]


@pytest.fixture(scope="module")
def plain(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an undisturbed command."""
    out = tmp_path_factory.mktemp("plain")
    assert cli.main(words_of(deep, out)) == 0
    return out


def fitted(deep: Path, prompt: str) -> tuple[Any, Any, tuple[int, ...], torch.Tensor]:
    """Model, tokenizer, what is read and mu of a prompt, without the probe."""
    model, tokenizer = load_with_tokenizer(str(deep))
    read = (tokenizer.eot_id, *tokenizer.encode(prompt))
    document = Document((Window(read[:-1], read[1:]),))
    posterior = fit_documents(model, [document], fit_config("bound", t_fast=3), seed=1234)
    return model, tokenizer, read, posterior.mu[0]


@pytest.mark.parametrize("index", [0, 1])
def test_every_set_is_what_generate_makes_of_its_latents(deep: Path, plain: Path, index: int) -> None:
    """All layers: `generate` on the fitted z. None: without cross-attention, by plain forward passes."""
    one = probe_in(plain).explored[index]
    model, tokenizer, read, mu = fitted(deep, PROMPTS[index])
    keys = explored(LAYERS)
    assert list(one.cells) == keys and one.prompt == PROMPTS[index] and one.rest == ""
    assert len(keys) == len({*map(key_of, group_sets(LAYERS)), *map(key_of, ranges_of(LAYERS)), "none"})
    for key, cell in one.cells.items():
        z = torch.zeros_like(mu)
        for layer in layers_of(key):
            z[layer - 1] = mu[layer - 1]
        config = GenerationConfig(max_new_tokens=NEW)
        (alone,) = generate(model, [Prompt(read, z, by_token=True)], config, eot_id=tokenizer.eot_id)
        assert one.texts[cell.text] == tokenizer.decode(alone.tokens)
        assert (cell.tokens, cell.stop_reason) == (len(alone.tokens), alone.stop_reason)
        assert cell.nll_nats == pytest.approx(sum(alone.token_nats), rel=1e-4)
    tokens = list(read)
    for _ in range(one.cells["none"].tokens):
        tokens.append(int(model(torch.tensor([tokens]), None)[0, -1].argmax()))
    assert tokenizer.decode(tokens[len(read) :]) == one.texts[one.cells["none"].text]
    assert len(one.texts) > 2, "the model is too insensitive to show anything"


def test_the_other_layers_can_hold_a_draw_of_the_prior(deep: Path, plain: Path, tmp_path: Path) -> None:
    assert cli.main(words_of(deep, tmp_path, "--rest", "prior")) == 0
    zero, prior = probe_in(plain).explored[0], probe_in(tmp_path).explored[0]
    whole = f"1-{LAYERS}"
    assert prior.texts[prior.cells[whole].text] == zero.texts[zero.cells[whole].text]
    assert prior.texts[prior.cells["none"].text] != zero.texts[zero.cells["none"].text]


def test_the_file_the_table_and_the_page_say_the_same(
    deep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words_of(deep, tmp_path)) == 0
    said = capsys.readouterr()
    count = len(explored(LAYERS))
    assert f"2 prompts, 37 tokens: 3 fast steps, then {count} continuations each of at most {NEW} tokens" in said.err
    assert "(16 combinations of groups and 15 ranges of layers; equal sets once)" in said.err
    probe = probe_in(tmp_path)
    assert probe.settings["source"] == {"prompts": list(PROMPTS)}
    assert probe.settings["n_tokens"] == NEW and "direction" not in probe.settings
    assert [text.name for text in probe.texts] == ["prompt 1", "prompt 2"]
    for text, prompt in zip(probe.texts, PROMPTS, strict=True):
        assert text.tokens == len(prompt) and not text.cut and set(text.cells) == set(explored(LAYERS))
        assert text.cells["none"] == text.no_z
    lines = said.out.splitlines()
    assert lines[0] == f"prompt 1: {PROMPTS[0]}" and lines[count + 3] == f"prompt 2: {PROMPTS[1]}"
    cell = probe.explored[0].cells["none"]
    assert lines[2].startswith("no layer") and f"{cell.nll_nats / cell.tokens:.3f}" in lines[2]
    page = (tmp_path / "report.html").read_text("utf-8")
    data = json.loads(re.findall(r'id="explorer-data-1">(.*?)</script>', page)[0])
    assert [list(item["sets"]) for item in data["items"]] == [explored(LAYERS)] * 2
    assert data["groups"] == [[1, 1], [2, 2], [3, 4], [5, 5]]
    assert cli.main(["report", str(tmp_path), "-o", str(tmp_path / "again.html")]) == 0


@pytest.mark.parametrize("kept", [0, 1, 4, 40])
def test_an_interrupted_probe_goes_on_with_the_same_bytes(
    deep: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Cut off after so many continuations; those are not made again."""
    made: list[str] = []
    continued = reconstruct.Subject.continued

    def counted(self: Any, keys: Any) -> Any:
        for key, one in continued(self, keys):
            if len(made) == kept and limited:
                raise KeyboardInterrupt
            yield key, one
            made.append(key)

    monkeypatch.setattr(reconstruct.Subject, "continued", counted)
    limited = kept < 2 * len(explored(LAYERS))
    assert cli.main(words_of(deep, tmp_path)) == (130 if limited else 0)
    assert not list(tmp_path.rglob("probe_*.json")) or not limited
    limited = False
    assert cli.main(words_of(deep, tmp_path)) == 0
    assert len(made) == 2 * len(explored(LAYERS))
    assert measured(probe_in(tmp_path)) == measured(probe_in(plain))
    again = cli.main(words_of(deep, tmp_path))
    assert again == 0 and len(made) == 2 * len(explored(LAYERS))


def test_texts_go_on_too(deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"{name}: rain fell on the hills.", "utf-8")
    texts = [word for name in ("a", "b", "c") for word in ("--text", str(tmp_path / name))]
    words = ["probe", "--model", str(deep), *texts, "--t_fast", "2", "--explore", "1", "-q", "--no_report", "-o"]
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    probed, done = reconstruct.probed, []

    def cut(*args: Any, **options: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(probed(*args, **options))
        return done[-1]

    monkeypatch.setattr(reconstruct, "probed", cut)
    assert cli.main([*words, str(tmp_path / "cut")]) == 130
    done.clear()
    assert cli.main([*words, str(tmp_path / "cut")]) == 0
    assert len(done) == 1
    assert measured(probe_in(tmp_path / "cut")) == measured(probe_in(tmp_path / "whole"))


def test_one_prompt_alone_and_two_processes_have_the_same_bits(deep: Path, plain: Path, tmp_path: Path) -> None:
    assert cli.main(words_of(deep, tmp_path / "alone", prompts=PROMPTS[1:])) == 0
    whole, alone = probe_in(plain), probe_in(tmp_path / "alone")
    assert alone.explored[0].cells == whole.explored[1].cells and alone.explored[0].texts == whole.explored[1].texts
    assert replace(alone.texts[0], name="prompt 2") == whole.texts[1]
    with Gang() as gang:
        job = gang.start(2, "tests.gang:command", words_of(deep, tmp_path / "two"))
        assert job.wait() == [0, 0], job.err(0) + job.err(1)
        assert "prompt 1" in job.out(0) and not job.out(1)
    assert len(list((tmp_path / "two").rglob("probe_*.json"))) == 1
    assert len(list((tmp_path / "two").rglob("journal/*.jsonl"))) == 2, "one process did it all"
    assert measured(probe_in(tmp_path / "two")) == measured(whole)


def test_the_number_of_groups_is_an_option(deep: Path, tmp_path: Path) -> None:
    assert cli.main(words_of(deep, tmp_path, "--groups", "2", prompts=PROMPTS[:1])) == 0
    probe = probe_in(tmp_path)
    assert probe.groups == ((1, 2), (3, 5))
    assert list(probe.explored[0].cells) == explored(LAYERS, 2)
    assert len(explored(LAYERS, 2)) == 16 and len(explored(LAYERS, 5)) == 2**LAYERS


def test_sampling_is_seeded_and_differs_by_z_alone(deep: Path, plain: Path, tmp_path: Path) -> None:
    sampled = ("--gen_kwargs", "do_sample=true,temperature=2.0")
    for name, more in (("a", ()), ("b", ()), ("c", ("--seed", "7"))):
        assert cli.main(words_of(deep, tmp_path / name, *sampled, *more, prompts=PROMPTS[:1])) == 0
    first, second, other = (probe_in(tmp_path / name).explored for name in ("a", "b", "c"))
    assert first == second
    assert first[0].texts != other[0].texts and first[0].texts != probe_in(plain).explored[0].texts


def test_a_stop_string_ends_a_continuation(deep: Path, plain: Path, tmp_path: Path) -> None:
    one = probe_in(plain).explored[0]
    stop = next(letter for letter in one.texts[one.cells["none"].text][2:] if letter.isalnum())
    assert cli.main(words_of(deep, tmp_path, "--gen_kwargs", f"until={stop}", prompts=PROMPTS[:1])) == 0
    ended = probe_in(tmp_path).explored[0]
    for key, cell in ended.cells.items():
        text = one.texts[one.cells[key].text]
        assert ended.texts[cell.text] == text.split(stop)[0]
        assert (cell.stop_reason == "stop_string") == (stop in text)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--prompt", ""], 2, "prompt is empty"),
        (["--prompt", "a", "--prompt", " \n"], 2, "prompt is empty"),
        (["--prompt", "a" * 192], 2, "prompt 1 has 192 tokens; with end-of-text and n_tokens 64 that exceeds"),
        (["--prompt", "a", "--prompt", "ab", "--n_tokens", "190"], 2, "prompt 2 has 2 tokens; with end-of-text"),
        (["--prompt", "ab", "--n_tokens", "190"], 2, "set --n_tokens to at most 189"),
        (["--prompt", "a" * 191, "--n_tokens", "1"], 2, "context of 192; shorten it"),
        (["--prompt", "a", "--n_tokens", "0"], 2, "n_tokens must be a whole number of at least 1"),
        (["--prompt", "a", "--groups", "9"], 2, "groups must be a whole number from 1 to 8"),
        (["--prompt", "a", "--task", "gsm8k"], 2, "give either --prompt or texts"),
        (["--prompt", "a", "--metadata", "{}"], 2, "metadata applies to --task only"),
        (["--prompt", "a", "--direction", "up"], 2, "direction applies to texts only"),
        (["--task", "gsm8k", "--n_tokens", "3"], 2, "n_tokens applies to prompts only"),
        (["--prompt", "a", "--gen_kwargs", "max_gen_toks=3"], 2, "max_gen_toks is set by --n_tokens"),
        (["--prompt", "a", "--gen_kwargs", "top_p=0.5"], 2, "top_p=0.5 has no effect"),
        (["--prompt", "a", "--gen_kwargs", "rethink=1"], 2, "generation option 'rethink' is not known"),
        (["--prompt", "a", "--tokenizer", "absent.ranks"], 3, "tokenizer absent.ranks: cannot be read"),
    ],
)
def test_what_cannot_be_continued_is_said_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert cli.main(["probe", "--model", str(folder), *words, "--t_fast", "1", "-o", str(tmp_path), "-q"]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and lines[-1].startswith(f"ltm-eval: error[{code}]: ")
    assert not list(tmp_path.rglob("*.json*"))


def test_a_prompt_that_just_fits_is_continued(folder: Path, tmp_path: Path) -> None:
    words = ["probe", "--model", str(folder), "--prompt", "a" * 189, "--n_tokens", "2", "--t_fast", "0", "-q"]
    assert cli.main([*words, "-o", str(tmp_path)]) == 0
    cells = probe_in(tmp_path).explored[0].cells.values()
    assert max(cell.tokens for cell in cells) == 2


@pytest.mark.parametrize(
    "prompt",
    ["</script><img src=x onerror=alert(1)>", "a\udcff\udc80b", "\x1b[31mred\u202e\u2028", "{{7*7}}<|endoftext|>"],
)
def test_hostile_prompts_are_only_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    words = ["probe", "--model", str(folder), "--prompt", prompt, "--n_tokens", "3", "--t_fast", "1", "-q"]
    for _ in range(2):  # the second time from the journal
        assert cli.main([*words, "-o", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", said.out)
    assert probe_in(tmp_path).settings["source"]["prompts"] == [re.sub("[\ud800-\udfff]", "\ufffd", prompt)]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<img" not in page and not re.search("[\x1b\u202e]", page) and "<pre>49" not in page
