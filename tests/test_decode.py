from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ltm_eval.inference.decode import Continuation, Prompt, generate, sample_token
from ltm_eval.inference.options import GenerationConfig
from ltm_eval.inference.windows import generator
from ltm_eval.system.errors import UsageError
from tests.tiny import RELEASED, TINY, latent, released, tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ltm_eval.model.decoder import LatentThoughtModel

GREEDY = GenerationConfig(max_new_tokens=40)


def prompts(lengths: Sequence[int]) -> list[Prompt]:
    source = torch.Generator().manual_seed(1)
    return [
        Prompt(
            tuple(torch.randint(0, 256, (n,), generator=source).tolist()),
            torch.randn(TINY.latent_shape, generator=source),
            generator(0, "token", b"%d" % i),
        )
        for i, n in enumerate(lengths)
    ]


def ordered(found: Sequence[Continuation] | object) -> list[Continuation]:
    return sorted(found, key=lambda c: c.index)  # type: ignore[call-overload,no-any-return]


def without_cache(model: LatentThoughtModel, prompt: Prompt, new_tokens: int) -> list[int]:
    """The loop of the released `generate`, which reads everything again for every token."""
    tokens = list(prompt.tokens)
    while len(tokens) < min(TINY.max_seq_len, len(prompt.tokens) + new_tokens):
        tokens.append(int(model(torch.tensor([tokens]), prompt.z.unsqueeze(0))[0, -1].argmax()))
    return tokens[len(prompt.tokens) :]


@pytest.mark.parametrize("name", RELEASED)
def test_greedy_equals_the_released_tokens(name: str) -> None:
    model, meta, expected = released(name)
    n = meta["prompt_tokens"]
    given = [
        Prompt(tuple(row[:n]), z)
        for row, z in zip(expected["X"].tolist(), latent(model, expected["fit_z"]), strict=True)
    ]
    found = ordered(generate(model, given, GenerationConfig(max_new_tokens=meta["new_tokens"])))
    assert [list(c.tokens) for c in found] == expected["greedy"][:, n:].tolist()


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_cache_equals_no_cache_for_ragged_prompts(batch_size: int) -> None:
    """Shorter and longer than the window of 24, up to the end of the context."""
    model, given = tiny_model(), prompts((1, 7, 23, 24, 25, 60, 100, 170, 191, *range(2, 22, 9)))
    found = ordered(generate(model, given, GREEDY, batch_size=batch_size))
    assert [list(c.tokens) for c in found] == [without_cache(model, prompt, 40) for prompt in given]


@pytest.mark.parametrize("config", [GREEDY, GenerationConfig(max_new_tokens=30, do_sample=True, top_p=0.9, top_k=50)])
def test_batch_and_order_change_nothing(config: GenerationConfig) -> None:
    model, lengths = tiny_model(), [3 + 5 * i for i in range(20)]
    results = []
    for batch_size, backwards in ((1, False), (7, True), (32, False)):
        given = prompts(lengths)
        order = list(range(20))[:: -1 if backwards else 1]
        found = generate(model, [given[i] for i in order], config, batch_size=batch_size)
        results.append({order[c.index]: (c.tokens, c.stop_reason) for c in found})
    assert results[0] == results[1] == results[2]


def test_a_full_context_continues_with_nothing() -> None:
    found = ordered(generate(tiny_model(), prompts((192, 190)), GREEDY))
    assert [(len(c.tokens), c.stop_reason) for c in found] == [(0, "length"), (2, "length")]


def test_nothing_asked_nothing_generated() -> None:
    found = ordered(generate(tiny_model(), prompts((4, 5)), GenerationConfig(max_new_tokens=0)))
    assert [c.tokens for c in found] == [(), ()]


def test_end_of_text_and_stop_strings_end_a_continuation() -> None:
    model, given = tiny_model(), prompts((9,))
    whole = ordered(generate(model, given, GREEDY))[0].tokens
    cut = ordered(generate(model, given, GREEDY, eot_id=whole[5]))[0]
    assert cut.stop_reason == "end_of_text" and cut.tokens == whole[: whole.index(whole[5])]
    text = {token: chr(97 + i % 26) * 2 for i, token in enumerate(dict.fromkeys(whole))}
    spelt = "".join(text[t] for t in whole)
    stop = spelt[7:10]
    stopped = ordered(
        generate(
            model,
            given,
            replace(GREEDY, until=(stop,)),
            to_bytes=lambda ids: "".join(text.get(i, "?") for i in ids).encode(),
        )
    )[0]
    assert stopped.stop_reason == "stop_string"
    assert stop in "".join(text[t] for t in stopped.tokens)
    assert stop not in "".join(text[t] for t in stopped.tokens[:-1])


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20_000, 1)
    uniform = torch.arange(20_000, dtype=torch.float64) / 20_000
    for config, kept in (
        (GenerationConfig(do_sample=True), 4),
        (GenerationConfig(do_sample=True, top_k=2), 2),
        (GenerationConfig(do_sample=True, top_p=0.7), 2),
        (GenerationConfig(do_sample=True, top_p=0.6), 1),
        (GenerationConfig(do_sample=True, temperature=0.5), 4),
    ):
        found = torch.bincount(sample_token(logits, uniform, config), minlength=4) / 20_000
        truth = (logits[0] / config.temperature).softmax(0)
        truth[kept:] = 0
        torch.testing.assert_close(found, truth / truth.sum(), atol=2e-4, rtol=0)


def test_the_largest_uniform_draw_stays_inside() -> None:
    almost = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert int(sample_token(torch.tensor([[5.0, 0.0, -200.0]]), almost, GenerationConfig(do_sample=True, top_k=2))) == 1


@pytest.mark.parametrize("tokens", [(), tuple(range(193))])
def test_prompts_that_cannot_be_read_are_named(tokens: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="1 to 192 tokens"):
        list(generate(tiny_model(), [Prompt(tokens, torch.zeros(TINY.latent_shape))], GREEDY))


@pytest.mark.parametrize(
    "options",
    [{"top_p": 0.0}, {"top_k": -1}, {"do_sample": True, "temperature": 0.0}, {"until": ("",)}, {"max_new_tokens": -1}],
)
def test_wrong_options_are_named(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        GenerationConfig(**options)  # type: ignore[arg-type]


def test_a_finished_place_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 prompts with room for 2 tokens among 16 that go on for 40: two batches would take 80 steps."""
    from ltm_eval.inference import decode

    steps: list[int] = []
    step = decode._Stepper.step

    def counting(self: decode._Stepper, tokens: Sequence[int]) -> None:
        steps.append(1)
        step(self, tokens)

    monkeypatch.setattr(decode._Stepper, "step", counting)
    found = ordered(generate(tiny_model(), prompts([190, 20] * 16), GREEDY, batch_size=16))
    assert [len(c.tokens) for c in found] == [2, 40] * 16
    assert len(steps) < 60


def test_prompts_are_taken_as_places_become_free() -> None:
    taken: list[int] = []

    def given() -> Iterator[Prompt]:
        for i, prompt in enumerate(prompts([5] * 6)):
            taken.append(i)
            yield prompt

    found = generate(tiny_model(), given(), replace(GREEDY, max_new_tokens=4), batch_size=2)
    assert taken == []
    assert len(next(found).tokens) == 4 and len(taken) <= 3
    assert len(list(found)) == 5 and len(taken) == 6


def test_greedy_prompts_among_samples_are_greedy() -> None:
    model, given = tiny_model(), prompts([4, 9, 30, 50])
    mixed = [replace(prompt, stream=None) if i % 2 else prompt for i, prompt in enumerate(given)]
    sampling = replace(GREEDY, do_sample=True, temperature=1.5)
    found = ordered(generate(model, mixed, sampling))
    assert [list(c.tokens) for c in found[1::2]] == [without_cache(model, prompt, 40) for prompt in given[1::2]]
    alone = ordered(generate(model, prompts([4, 9, 30, 50])[::2], sampling))
    assert [c.tokens for c in found[::2]] == [c.tokens for c in alone]


def test_time_is_shared_out_over_what_is_decoded() -> None:
    found = list(generate(tiny_model(), prompts([5, 9, 12]), replace(GREEDY, max_new_tokens=6)))
    assert all(0 < c.seconds < 60 for c in found)
