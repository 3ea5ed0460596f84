"""What a reader must know of documents and prompts: no alarm where nothing is wrong."""

from __future__ import annotations

from types import SimpleNamespace

from ltm_eval.harness.evaluation import copies, in_windows, shown_too


def test_a_question_that_is_shown_is_counted_however_it_is_spaced() -> None:
    documents = [{"question": "What is 2 + 2?"}, {"question": "And 3 + 3?"}]
    pool = [{"question": "what is  2 + 2?\n"}, {"question": "Another?"}]
    assert shown_too(documents, pool) == ["1 of 2 documents are also among the demonstrations drawn from"]
    assert shown_too(documents, []) == []


def test_the_same_words_in_another_episode_are_another_question() -> None:
    documents = [{"question": "4 7", "episode": "a"}]
    assert shown_too(documents, [{"question": "4 7", "episode": "b"}]) == []
    assert len(shown_too(documents, [{"question": "4 7", "episode": "a"}])) == 1


def test_copies_are_counted() -> None:
    assert copies([{"page": "x"}, {"page": "x"}, {"page": "y"}]) == ["1 of 3 documents are copies of others"]


def test_texts_that_a_baseline_scored_in_windows_are_counted() -> None:
    lm = SimpleNamespace(max_length=4, tok_encode=list)
    rows = [{"arguments": [(text,)]} for text in ("abcd", "abcde", "abcdefgh", "abcde")]
    (found,) = in_windows(rows, lm)
    assert found.startswith("2 of 3 texts exceed the context of 4 tokens and were scored in lm-eval's windows")
    assert "an LTM's causal row" in found
    assert in_windows(rows[:1], lm) == []
    assert in_windows([{"arguments": [("a context", " and more")]}, {"arguments": [("a prompt", {})]}], lm) == []
