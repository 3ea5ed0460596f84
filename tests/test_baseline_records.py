"""What a baseline records beside lm-eval's `hf`: it adds up to what that returns, and changes nothing of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from ltm_eval.harness.baseline import Generated, JournaledHF, token_bytes, token_offsets
from ltm_eval.harness.evaluation import seed_generators
from ltm_eval.system.files import assets_dir
from tests.tiny import tiny_gpt2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS = ("Red, green and blue.", "Ça coûte 5 € à Łódź. 語 👩‍🚀", "ab " * 900, "", "One<|endoftext|>two\n")
"""The third is longer than the context; the last holds the end-of-text token."""
UNTIL = ["\n", "e", "it"]


@pytest.fixture(scope="module", params=["tiny", "gpt2-demo"])
def pretrained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "tiny":
        return str(tiny_gpt2(tmp_path_factory.mktemp("baseline") / "gpt2"))
    return str(assets_dir() / "gpt2-demo")


def plain(pretrained: str, **options: Any) -> HFLM:
    return HFLM(pretrained=pretrained, device="cpu", batch_size=3, **options)


def kept(pretrained: str, token_nll: int, **options: Any) -> Any:
    return JournaledHF(pretrained, device="cpu", batch_size=3, seed=1, token_nll=token_nll, **options)


def rolling() -> list[Instance]:
    return [Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("t", i, 1)) for i, text in enumerate(TEXTS)]


def prompts() -> list[str]:
    shown = "".join(f"Question: {n} plus two?\nAnswer: {n + 2}\n\n" for n in range(8))
    return [f"{shown}Question: {n} plus {'one ' * n}?\nAnswer:" for n in range(5)]


def generating(**options: Any) -> list[Instance]:
    told = {"max_gen_toks": 12, "until": UNTIL, **options}
    return [
        Instance("generate_until", {}, (prompt, told), 0, metadata=("t", i, 1)) for i, prompt in enumerate(prompts())
    ]


def test_tokens_add_up_to_the_log_likelihood_that_lm_eval_tells(pretrained: str) -> None:
    truth = plain(pretrained).loglikelihood_rolling(rolling(), disable_tqdm=True)
    lm = kept(pretrained, 9)
    assert lm.loglikelihood_rolling(rolling()) == truth
    assert [one.doc_id for one in lm.token_records] == [0, 1, 2, 4]
    for one in lm.token_records:
        assert sum(one.piece_characters) == len(TEXTS[one.doc_id])
        assert one.nats == -truth[one.doc_id]
        assert math.fsum(one.piece_nats) == pytest.approx(one.nats, rel=1e-4)
        assert (one.draws, one.kl_nats) == (0, None)
    assert kept(pretrained, 0).loglikelihood_rolling(rolling()) == truth


def test_single_tokens_cost_what_one_pass_says(pretrained: str) -> None:
    lm = kept(pretrained, 1)
    lm.loglikelihood_rolling(rolling())
    (record,) = lm.token_records
    ids = lm.tok_encode(TEXTS[0])
    logits = lm.model(torch.tensor([[lm.prefix_token_id, *ids[:-1]]])).logits[0].log_softmax(-1)
    truth = -logits.gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)
    assert record.piece_nats == pytest.approx(truth.tolist(), abs=1e-3)
    assert record.piece_characters == tuple(len(lm.tok_decode([i])) for i in ids)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 0.8}])
def test_generation_is_left_as_it_is(pretrained: str, options: dict[str, Any]) -> None:
    """The same answers from the same random numbers, watched or not, with tokens or without."""
    seed_generators(3)
    truth = plain(pretrained).generate_until(generating(**options), disable_tqdm=True)
    for number in (0, 3):
        lm = kept(pretrained, 0)
        lm._watch(prompts=prompts()[:number])
        seed_generators(3)
        assert HFLM.generate_until(lm, generating(**options), disable_tqdm=True) == truth
        seen = [lm.generated(prompt, answer) for prompt, answer in zip(prompts(), truth, strict=True)]
        assert [one is not None and one.text for one in seen] == truth
        assert [one is not None and one.pieces is not None for one in seen] == [i < number for i in range(5)]
    journals = [kept(pretrained, number).generate_until(generating(**options)) for number in (0, 3)]
    assert journals[0] == journals[1]


def test_beams_are_not_followed(pretrained: str) -> None:
    """An answer that a search puts together has no tokens chosen one after the other."""
    lm, truth = kept(pretrained, 2), plain(pretrained)
    options = {"num_beams": 2}
    assert lm.generate_until(generating(**options)) == truth.generate_until(generating(**options), disable_tqdm=True)
    assert [one.part for one in lm.token_records] == []
    assert [one.doc_id for one in lm.answer_records] == list(range(5))


def test_an_answers_tokens_cost_what_one_pass_says(pretrained: str) -> None:
    lm = kept(pretrained, 2)
    answers = lm.generate_until(generating())
    assert [one.doc_id for one in lm.token_records] == [0, 1]
    for one in lm.token_records:
        answer, prompt = answers[one.doc_id], lm.tok_encode(prompts()[one.doc_id])
        assert sum(one.piece_characters) == len(answer)
        ids = lm.tok_encode(answer)
        if not ids or lm.tok_decode(ids) != answer or len(ids) != len(one.piece_nats):
            continue
        logits = lm.model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
        truth = -logits.gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)
        assert one.piece_nats[:-1] == pytest.approx(truth.tolist()[:-1], abs=2e-3)
        assert one.nats == pytest.approx(math.fsum(one.piece_nats), abs=0.01)


def test_the_wanted_answers_tokens_cost_what_lm_eval_scores(pretrained: str) -> None:
    lm, told = kept(pretrained, 2), plain(pretrained)
    requests = generating()
    for request in requests:
        request.reference = " two and two is 4 €"  # type: ignore[attr-defined]
    answers = lm.generate_until(requests)
    found = [one for one in lm.token_records if one.part == "target"]
    assert [one.doc_id for one in found] == [0, 1]
    asked = [Instance("loglikelihood", {}, (prompt, " two and two is 4 €"), 0) for prompt in prompts()[:2]]
    truth = [score for score, _ in told.loglikelihood(asked, disable_tqdm=True)]
    for one, nats in zip(found, truth, strict=True):
        assert one.nats == pytest.approx(-nats, rel=1e-5)
        assert sum(one.piece_characters) == len("two and two is 4 €")
        assert math.fsum(one.piece_nats) == pytest.approx(one.nats, rel=1e-4)
    assert answers == kept(pretrained, 0).generate_until(generating())


class Fake(JournaledHF):
    """A model whose tokens are the letters of the alphabet, `.` ends a text, and what it says is settled."""

    backend, max_length, eot_token_id = "causal", 40, ord(".")

    def __init__(self, says: Sequence[str]) -> None:
        self.says, self.think_end_token, self.tokenizer = list(says), None, None
        self._model: Any = type("Model", (), {"generation_config": type("Config", (), {"eos_token_id": [ord(".")]})})()
        self._watch()

    def tok_encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:  # type: ignore[override]
        return list(map(ord, text))

    def tok_decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids)).replace(".", "")

    def _encode_batch(self, strings: list[str], padding_side: str, limit: int | None, truncation: bool) -> Any:
        width = max(map(len, strings))
        ids = torch.tensor([[0] * (width - len(one)) + self.tok_encode(one) for one in strings])
        cut = slice(-(limit or width), None)
        return ids[:, cut], (ids != 0).long()[:, cut]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(self: Any, context: Any, max_length: int, stop: Sequence[str]) -> Any:
        width = max(map(len, self.says))
        return torch.cat([context, torch.tensor([self.tok_encode(one.ljust(width, ".")) for one in self.says])], dim=1)

    monkeypatch.setattr(HFLM, "_model_generate", generate)


def seen_of(prompts: Sequence[str], says: Sequence[str], *, stop: Sequence[str]) -> list[Generated]:
    fake = Fake(says)
    context, _ = fake.tok_batch_encode(list(prompts), left_truncate_len=10)
    fake._model_generate(context=context, max_length=99, stop=[*stop, "."])
    found = [fake.generated(prompt, "?") for prompt in prompts]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


@pytest.mark.usefixtures("settled")
def test_why_an_answer_ended_and_after_how_many_tokens() -> None:
    """A batch goes on until all of it have ended: what follows a stop string or end-of-text is not the answer's."""
    says = ("yes STOP and on", "no.", "on and on and o", "so.STOP", "STOP")
    seen = seen_of([f"p{i}" for i in range(5)], says, stop=["STOP", "zzz"])
    assert [(one.stop_reason, one.new_tokens, one.text) for one in seen] == [
        ("stop_string", 8, "yes "),
        ("end_of_text", 2, "no"),
        ("length", 15, "on and on and o"),
        ("end_of_text", 2, "so"),
        ("stop_string", 4, ""),
    ]


@pytest.mark.usefixtures("settled")
def test_what_is_cut_from_the_left_is_counted() -> None:
    prompts = ("short", "Q: aa?\n\nQ: b?", "exactly 10", "Q: a\n\nQ: b\n\nQ: c")
    seen = seen_of(prompts, ["a.", "b.", "c.", "d."], stop=[])
    assert [(one.prompt_tokens, one.read_tokens) for one in seen] == [(5, 5), (13, 10), (10, 10), (16, 10)]
    requests = [Instance("generate_until", {}, (prompt, {}), 0, metadata=("t", 0, 1)) for prompt in prompts]
    fake = Fake([])
    records = [fake.answer_record(request, 0, one) for request, one in zip(requests, seen, strict=True)]
    assert [(one.demonstrations, one.demonstrations_read, one.truncated) for one in records] == [
        (0, 0, False),
        (1, 0, True),
        (0, 0, False),
        (2, 1, True),
    ]


@pytest.mark.usefixtures("settled")
def test_of_equal_prompts_each_answer_is_told_once() -> None:
    fake = Fake(["one.", "STOP", "two."])
    context, _ = fake.tok_batch_encode(["p"] * 3, left_truncate_len=10)
    fake._model_generate(context, 9, stop=["STOP"])
    told = [fake.generated("p", text) for text in ("two", "one", "")]
    assert [one and one.stop_reason for one in told] == ["end_of_text", "end_of_text", "stop_string"]
    assert fake.generated("p", "one") is None


def test_bytes_and_offsets_of_tokens(tmp_path: Path, pretrained: str) -> None:
    tokenizer = plain(pretrained).tokenizer
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        each = token_bytes(tokenizer, ids)
        assert each is not None and b"".join(each) == text.encode()
        offsets = token_offsets(tokenizer, text, ids)
        assert offsets is not None and max([end for _, end in offsets], default=0) == len(text)
    assert token_offsets(tokenizer, "one", [0, 0]) is None
    words = type("Words", (), {"convert_ids_to_tokens": lambda self, ids: ["▁語" for _ in ids]})()
    assert token_bytes(words, [1]) is None and token_offsets(words, "a", [1]) is None
