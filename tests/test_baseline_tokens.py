"""Whatever a baseline's tokenizer puts around a text: one prefix token before it, nothing behind it, its own tokens
counted. The right figures are passes of the model over token ids put together here.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from ltm_eval.harness.baseline import JournaledHF, added_tokens, identity_of
from ltm_eval.model.tokenizer import load_gpt2, load_tokenizer
from ltm_eval.system.errors import TokenizerError
from ltm_eval.system.files import assets_dir
from ltm_eval.tasks.perplexity import TextScore, process_results
from tests.tokenizer_kinds import KINDS, byte_tokenizer, gpt2_of

TEXTS = ("Red, green and blue.", "Some Letters in UPPER case. " * 7, "x", "")
"""The second takes four windows of 64 tokens."""
POSITIONS = 64
BOS, EOS, MASK = 256, 257, 258
FRONT = {"bos": [BOS], "bos+eos": [BOS], "two in front": [MASK, BOS], "bos not named": [BOS], "lower": [BOS]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("kinds")
    return {kind: gpt2_of(made / str(place), kind, positions=POSITIONS) for place, kind in enumerate(KINDS)}


def loaded(folder: Path, *, token_nll: int = 0, **options: Any) -> Any:
    return JournaledHF(str(folder), device="cpu", batch_size=2, seed=1, token_nll=token_nll, **options)


def asked(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, own, 0, metadata=("t", place, 1)) for place, own in enumerate(arguments)]


def ids_of(kind: str, text: str) -> list[int]:
    """Ids of the text alone: its bytes in the order of their characters in a byte-level vocabulary."""
    ids: list[int] = byte_tokenizer(kind)(text, add_special_tokens=False)["input_ids"]
    return ids


def nats_of(model: Any, read: list[int], scored: int) -> float:
    """-log p of the last `scored` of the ids, given all before each."""
    with torch.no_grad():
        log_p = model(torch.tensor([read[:-1]])).logits[0].double().log_softmax(-1)
    wanted = torch.tensor(read[1:]).unsqueeze(1)
    return float(-log_p.gather(1, wanted)[-scored:].sum())


def text_nats(model: Any, prefix: int, ids: list[int]) -> float:
    """Each token once: the first window after the prefix token, further ones after as much text as fits."""
    total = 0.0
    for begin in range(0, len(ids), POSITIONS):
        end = min(begin + POSITIONS, len(ids))
        read = [prefix, *ids[:end]][-(POSITIONS + 1) :] if begin else [prefix, *ids[:end]]
        total += nats_of(model, read, end - begin)
    return total


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_a_text_is_scored_after_exactly_one_prefix_token(folders: dict[str, Path], kind: str) -> None:
    lm = loaded(folders[kind], token_nll=9)
    prefix = BOS if KINDS[kind].get("bos") or "<s>" in KINDS[kind].get("single", "") else EOS
    found = lm.loglikelihood_rolling(asked("loglikelihood_rolling", *((text,) for text in TEXTS)))
    for text, score in zip(TEXTS, found, strict=True):
        ids = ids_of(kind, text)
        assert -score == pytest.approx(text_nats(lm.model, prefix, ids), rel=1e-5, abs=1e-4)
        assert isinstance(score, TextScore) and score.tokens == len(ids)
    for record in lm.token_records:  # each token's cost adds up to the same, and no token that was added is among them
        assert math.fsum(record.piece_nats) == pytest.approx(-found[record.doc_id], rel=1e-4)
        assert sum(record.piece_characters) == len(TEXTS[record.doc_id])
    assert {record.doc_id for record in lm.token_records} >= ({0, 1, 2} if kind != "silent" else set())


def test_the_prefix_token_changes_the_figure_and_a_second_one_would_too(folders: dict[str, Path]) -> None:
    """The weights are such that the tests above would fail with none or with two."""
    model = loaded(folders["bos"]).model
    ids = ids_of("bos", TEXTS[0])
    once, other = text_nats(model, BOS, ids), text_nats(model, EOS, ids)
    twice = nats_of(model, [BOS, BOS, *ids], len(ids) + 1)
    assert abs(once - other) > 0.1 and abs(twice - once) > 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"plain", "silent"}])
def test_a_continuation_follows_its_context(folders: dict[str, Path], kind: str) -> None:
    """A context keeps what the tokenizer puts in front; nothing stands between it and what is scored."""
    lm, front = loaded(folders[kind]), FRONT.get(kind, [])
    prefix = BOS if KINDS[kind].get("bos") or front else EOS
    pairs = [
        ("The boy went to", " school"),
        ("The boy went to ", "school"),
        ("", "abc"),
        (" \n", "abc"),
        ("Q: a\n\n", "b"),
    ]
    found = lm.loglikelihood(asked("loglikelihood", *pairs))
    for (context, continuation), (score, _) in zip(pairs, found, strict=True):
        stripped = context.rstrip()
        wanted = ids_of(kind, context[len(stripped) :] + continuation)
        before = [*front, *ids_of(kind, stripped)] if context else []
        assert -score == pytest.approx(nats_of(lm.model, [*(before or [prefix]), *wanted], len(wanted)), rel=1e-5)
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_prompt_is_continued_and_not_what_was_put_behind_it(folders: dict[str, Path], kind: str) -> None:
    lm, front = loaded(folders[kind]), FRONT.get(kind, [BOS] if kind == "silent" else [])
    prompts = ("The boy", "a longer prompt than that", "word " * 30)
    answers = lm.generate_until(
        asked("generate_until", *((text, {"until": ["\n"], "max_gen_toks": 6}) for text in prompts))
    )
    for text, answer, record in zip(prompts, answers, sorted(lm.answer_records, key=lambda r: r.doc_id), strict=True):
        ids = [*front, *ids_of(kind, text)]
        assert (record.prompt_tokens, record.read_tokens) == (len(ids), min(len(ids), POSITIONS - 6))
        read = ids[-(POSITIONS - 6) :]
        for _ in range(6):
            with torch.no_grad():
                read.append(int(lm.model(torch.tensor([read])).logits[0, -1].argmax()))
        new = read[-6:]
        whole = lm.tok_decode(new[: new.index(EOS)] if EOS in new else new)
        assert answer == whole.split("\n")[0]


def test_a_tokenizer_without_named_ends_scores_no_text_and_says_what_to_do(folders: dict[str, Path]) -> None:
    lm = loaded(folders["plain"])
    with pytest.raises(TokenizerError, match="set bos_token or eos_token in its tokenizer_config.json"):
        lm.loglikelihood_rolling(asked("loglikelihood_rolling", ("abc",)))
    with pytest.raises(TokenizerError, match="neither a beginning- nor an end-of-text token"):
        lm.loglikelihood(asked("loglikelihood", ("  ", "abc")))
    (score, _), *_ = lm.loglikelihood(asked("loglikelihood", ("ab", "c")))
    assert -score == pytest.approx(nats_of(lm.model, ids_of("plain", "abc"), 1), rel=1e-5)


def test_a_token_without_a_row_of_the_model_is_refused(tmp_path: Path) -> None:
    """Ids from the file's own special tokens, and from a text that writes one out."""
    short = loaded(gpt2_of(tmp_path / "short", "bos", rows=256))
    with pytest.raises(TokenizerError, match=r"gives token 256, the model has 256 rows"):
        short.loglikelihood_rolling(asked("loglikelihood_rolling", ("abc",)))
    wide = loaded(gpt2_of(tmp_path / "wide", "bos", rows=258))
    for method, arguments in (
        ("loglikelihood_rolling", ("a[m]",)),
        ("loglikelihood", ("a[m]", " b")),
        ("generate_until", ("a[m]", {"until": ["\n"], "max_gen_toks": 3})),
    ):
        with pytest.raises(TokenizerError, match=r"gives token 258, the model has 258 rows"):
            getattr(wide, method)(asked(method, arguments))


def test_what_a_reader_must_know_of_texts_that_tokens_do_not_spell(folders: dict[str, Path]) -> None:
    caveats = {kind: loaded(folder).text_caveats(TEXTS[:3]) for kind, folder in folders.items()}
    assert [kind for kind, found in caveats.items() if found] == ["lower", "silent"]
    (unspelt,) = caveats["lower"]
    assert "the tokens of 2 of 3 documents do not spell the text" in unspelt
    (silent,) = caveats["silent"]
    assert "3 scored tokens of 3 of 3 documents stand for no character of the text" in silent
    (marked,) = loaded(folders["bos"]).text_caveats([f"{TEXTS[0]}<|endoftext|>", TEXTS[2]])
    assert "<|endoftext|> at the end of 1 of 2 documents is scored as plain text" in marked


def test_added_tokens_are_seen_and_are_no_part_of_a_tokenizers_identity() -> None:
    expected = {"bos": ((BOS,), ()), "bos+eos": ((BOS,), (EOS,)), "eos": ((), (EOS,)), "plain": ((), ())}
    assert {kind: added_tokens(byte_tokenizer(kind)) for kind in expected} == expected
    digests = {kind: identity_of(byte_tokenizer(kind))["sha256"] for kind in KINDS}
    assert len({digests[kind] for kind in ("plain", "bos", "bos+eos", "eos", "two in front", "bos not named")}) == 1
    assert len({digests[kind] for kind in ("bos", "lower", "silent")}) == 3


def test_what_answers_are_kept_under_knows_what_is_added(folders: dict[str, Path]) -> None:
    kinds = ("bos", "bos+eos", "bos only named", "eos only named")
    found = [loaded(folders[kind]).settings for kind in kinds]
    assert len({str(sorted(one.items())) for one in found}) == len(kinds)


def test_the_same_tokens_have_the_same_identity_in_both_forms() -> None:
    """A tokenizer of `transformers` and the ranks it was made from."""
    from transformers import AutoTokenizer

    demo = AutoTokenizer.from_pretrained(assets_dir() / "gpt2-demo")
    assert identity_of(demo)["sha256"] == load_tokenizer(str(assets_dir() / "ltm-demo")).digest
    spaced = copy.deepcopy(demo)
    spaced.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    assert identity_of(spaced)["sha256"] != identity_of(demo)["sha256"]
    more = copy.deepcopy(demo)
    more.add_tokens([" company said"])
    marked = copy.deepcopy(demo)
    marked.add_special_tokens({"additional_special_tokens": ["<unk>"]})
    for one, text in ((more, "the company said so"), (marked, "the <unk> of it")):
        assert one.encode(text) != demo.encode(text)
        assert identity_of(one)["sha256"] != identity_of(demo)["sha256"]


def test_gpt2s_tokenizer_has_one_identity() -> None:
    from transformers import AutoTokenizer

    from ltm_eval.results.signature import GPT2_DIGEST

    folder = Path(os.environ.get("LTM_EVAL_DATA_DIR", "")) / "gpt2_tokenizer_hf"
    cache = folder.parent / "tiktoken_cache"
    if not os.environ.get("LTM_EVAL_DATA_DIR") or not folder.is_dir() or not cache.is_dir():
        pytest.skip("needs GPT-2's vocabulary in LTM_EVAL_DATA_DIR")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        assert load_gpt2().digest == GPT2_DIGEST == identity_of(AutoTokenizer.from_pretrained(folder))["sha256"]


def test_a_texts_score_keeps_its_count() -> None:
    score = TextScore(-6.0, tokens=4)
    for one in (copy.deepcopy(score), pickle.loads(pickle.dumps(score)), TextScore.from_json(score.to_json())):  # noqa: S301
        assert (one, one.tokens) == (-6.0, 4)
    doc = {"n_tokens_block": 9, "n_words": 2, "n_bytes": 5}
    assert process_results(doc, [score])["ppl_per_token"] == (6.0, 4)
    assert process_results(doc, [-6.0])["ppl_per_token"] == (6.0, 9)
    assert process_results(doc, [score])["bits_per_byte"] == (6.0, 5)
