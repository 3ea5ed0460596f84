"""De-tokenisers against tables: input and output follow from the rules in the protocols' published description
(arXiv:2406.07524 and its code, kuleshov-group/mdlm `dataloader.py`); the sentences are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltm_eval.data.detokenise import DETOKENISERS, as_it_is, lambada, lm1b, ptb, scientific_papers, wikitext

if TYPE_CHECKING:
    from collections.abc import Callable

PTB = [
    ("the company 's shares", "the company's shares"),
    ("the traders ' opinions", "the traders' opinions"),
    ("it does n't matter", "it doesn't matter"),
    ("about N N of it", "about 1 1 of it"),
    ("N N N N N N x", "N 1 1 1 1 1 x"),  # a number with no space on both sides stays
    ("rose $ N to $ N million", "rose $1 to $1 million"),
    ("pounds # N each", "pounds #1 each"),
    ("a N\\/N share", "a N/N share"),
    ("<unk> said <unk>", "? said ?"),
    ("plain words stay", "plain words stay"),
]
WIKITEXT = [
    (" = Title = \n", " = Title =\n"),
    (" = = Section = = \n", " == Section ==\n"),
    (" = = = Part = = = \n", " === Part ===\n"),
    (" = = = = Piece = = = = \n", " ==== Piece ====\n"),
    ("a well @-@ known 1 @,@ 000 and 3 @.@ 5", "a well-known 1,000 and 3.5"),
    ("one , two ; three : four . five ! six ? seven", "one, two; three: four. five! six? seven"),
    ("seen ( in 1900 ) here", "seen (in 1900) here"),
    ("a [ b ] { c }", "a [b] {c}"),
    ('he said " all is well " twice', 'he said "all is well" twice'),
    ("the boys ' ball", "the boys' ball"),
    ("the ship 's bell", "the ship's bell"),
    ("at 20 ° C", "at 20°C"),
    ("played N games", "played 1 games"),
    ("end \n next", "end\nnext"),
]
LM1B = [
    ("It rained , then it stopped .", "It rained, then it stopped."),
    ("It 's late . We 'll go .", "It's late. We'll go."),
    ("Really ? Yes ! Good ?", "Really? Yes! Good?"),
    ("Well ! No !", "Well! No!"),
    ('He said " good night " softly', 'He said "good night" softly'),
    ("He said ' good night ' softly", "He said 'good night' softly"),
    ("seen ( in May ) and [ in June ]", "seen (in May) and [in June]"),
    ("cost $ 5 or £ 3", "cost $5 or £3"),
    ("see http : / / a and https : / / b", "see http://a and https://b"),
    ("this and / or that ; so : there", "this and/or that; so: there"),
    ("a stop after $ 5 . and", "a stop after $5. and"),
    ("after ) . stays", "after ) . stays"),  # only a word takes the full stop
]
LAMBADA = [
    ("  “ Hello , ” he said .\n", '\n" Hello , " he said .'),
    ("plain", "\nplain"),
    ("it’s", "\nit’s"),  # single quotes stay as they are
]
PAPERS = [
    (
        "we show ( in fig . 1 ) that @xmath0 , i.e. the @xmath1 - norm .",
        "we show (in fig. 1) that @xmath0, i.e. the @xmath1 - norm.",
    ),
    ("one .\ntwo / three .", "one .\ntwo/three."),  # a stop at a line end stays, one at the text's end does not
]


RULES = {
    ptb: PTB,
    wikitext: WIKITEXT,
    lm1b: LM1B,
    lambada: LAMBADA,
    scientific_papers: PAPERS,
    as_it_is: [(" a , b ",) * 2],
}


@pytest.mark.parametrize(
    ("rules", "text", "expected"), [(one, *pair) for one, pairs in RULES.items() for pair in pairs]
)
def test_texts_are_natural_again(rules: Callable[[str], str], text: str, expected: str) -> None:
    assert rules(text) == expected


def test_each_set_has_its_own() -> None:
    papers = dict.fromkeys(("pubmed", "arxiv"), scientific_papers)
    own = {"ptb": ptb, "wikitext": wikitext, "lm1b": lm1b, "lambada": lambada, "ag_news": as_it_is}
    assert own | papers == DETOKENISERS


@given(st.text(alphabet="ab NX1 '\"()[]{}=.,:;!?@-$#£/\\\n°", max_size=60))
def test_letters_are_never_lost(text: str) -> None:
    letters = [c for c in text if c in "abX"]
    for detokenise in DETOKENISERS.values():
        assert [c for c in detokenise(text) if c in "abX"] == letters
