"""De-tokenisers of the zero-shot perplexity sets: rules that turn tokenised corpora back into ordinary text.

Each is an ordered list of rules with the effect of those of MDLM, BD3-LM and Duo (arXiv:2406.07524, kuleshov-group/mdlm
`dataloader.py`); the order matters. One of theirs is left out: a pattern for a year after an apostrophe that matches
only between slashes and then writes its own source into the text. AG News needs none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


@dataclass(frozen=True)
class Rule:
    """One substitution over the whole text, with the arguments of `re.sub`."""

    pattern: re.Pattern[str]
    replacement: str
    times: int = 1  # passes; matches that share a space need several

    def __call__(self, text: str) -> str:
        """Apply the rule to a text."""
        for _ in range(self.times):
            text = self.pattern.sub(self.replacement, text)
        return text


def _literal(old: str, new: str, *, times: int = 1) -> Rule:
    return Rule(re.compile(re.escape(old)), new.replace("\\", r"\\"), times)


def _regex(pattern: str, replacement: str) -> Rule:
    return Rule(re.compile(pattern), replacement)


def _joined_left(marks: str) -> list[Rule]:
    """Remove the space before each mark and keep the one after it."""
    return [_literal(f" {mark} ", f"{mark} ") for mark in marks]


def _enclosed(opening: str, closing: str, *, exactly_one_space: bool = False) -> Rule:
    """Remove the space at either end of text between a pair of marks.

    Args:
        opening: first mark.
        closing: last mark; the text between may not hold it.
        exactly_one_space: at both ends, and the text may not hold the opening mark either.
    """
    first, last = re.escape(opening), re.escape(closing)
    inside = f" ([^{first}{last}]+) " if exactly_one_space else rf"\s*([^{last}]*?)\s*"
    return _regex(f"{first}{inside}{last}", rf"{opening}\1{closing}")


# WikiText: number marks, spaces before punctuation and inside brackets and quotes, headings.
WIKITEXT_RULES = (
    _literal("s '", "s'"),
    *(_literal(f" @{mark}@ ", mark) for mark in "-,."),
    *_joined_left(":;.!?,"),
    *(_enclosed(first, last) for first, last in ("()", "[]", "{}", '""', "''")),
    *(_literal(" ".join("=" * depth), "=" * depth) for depth in (4, 3, 2)),
    _literal(" ° ", "°"),
    _literal(" \n", "\n"),
    _literal("\n ", "\n"),
    _literal(" N ", " 1 "),
    _literal(" 's", "'s"),
)

# Penn Treebank as Mikolov prepared it: clitics joined, `N` a 1, `<unk>` a question mark.
PTB_RULES = (
    _literal(" 's", "'s"),
    _literal("s ' ", "s' "),
    _literal(" n't", "n't"),
    _literal(" \n ", "\n"),
    _literal("\\/", "/"),
    _literal(" N ", " 1 ", times=10),
    _literal("$ 1", "$1"),
    _literal("# 1", "#1"),
    _literal("<unk>", "?"),
)

# One billion words.
LM1B_RULES = (
    _literal("http : / / ", "http://"),
    _literal("https : / / ", "https://"),
    _regex(r" '(\w+)", r"'\1"),
    _regex(r" (\w+) \. ", r" \1. "),
    _regex(r" (\w+) \.$", r" \1."),
    _literal(" ? ", "? "),
    _regex(r" \?$", "?"),
    _literal(" ! ", "! "),
    _regex(r" \!$", "!"),
    *_joined_left(",:;"),
    _literal(" / ", "/"),
    *(_enclosed(first, last, exactly_one_space=True) for first, last in ('""', "''", "()", "[]")),
    _literal("$ ", "$"),
    _literal("£ ", "£"),
)


def _rewritten(text: str, rules: Iterable[Rule]) -> str:
    for rule in rules:
        text = rule(text)
    return text


wikitext = partial(_rewritten, rules=WIKITEXT_RULES)  # of a line, with its line end
ptb = partial(_rewritten, rules=PTB_RULES)  # of a sentence, without the spaces around it
lm1b = partial(_rewritten, rules=LM1B_RULES)  # of a sentence


def lambada(text: str) -> str:
    """Return a passage of LAMBADA with straight double quotes, no outer white space and a line end in front."""
    return "\n" + text.replace("“", '"').replace("”", '"').strip()


def scientific_papers(text: str) -> str:
    """Detokenise an article of PubMed or arXiv: WikiText's rules, then those of the one billion words."""
    return lm1b(wikitext(text))


def as_it_is(text: str) -> str:
    """Return ordinary text unchanged."""
    return text


# Set to de-tokeniser.
DETOKENISERS: Mapping[str, Callable[[str], str]] = {
    "ptb": ptb,
    "wikitext": wikitext,
    "lm1b": lm1b,
    "lambada": lambada,
    "ag_news": as_it_is,
    "pubmed": scientific_papers,
    "arxiv": scientific_papers,
}
