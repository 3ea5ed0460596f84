"""The perplexity part of a page: which figure may carry "≤", where its interval is from, what is paired."""

from __future__ import annotations

import json
import math
import os
import re
import time
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Any

import pytest
from fake_runs import AUDIT, DATE, FACTS, FLOORS, LTM_ROWS, PPL_TASK, write_ppl_run
from hostile import HOSTILE, Structure, assert_inert
from scipy import stats

from ltm_eval.report.page import build, render
from ltm_eval.results.files import find_runs
from ltm_eval.results.scores import published_for
from ltm_eval.results.statistics import FROM_STDERR, STUDENT, mean_interval, ppl, rate_interval

if TYPE_CHECKING:
    from ltm_eval.report.page import ReportData
    from ltm_eval.results.views import PerplexityLine, PerplexitySection

SNAPSHOT = Path(__file__).parent / "data" / "report" / "perplexity_data.json"
RENEW = "RENEW_SNAPSHOTS" in os.environ
DATA = {"choice": "auto", "sets": {PPL_TASK: {"blocks": FACTS}}}
N = 12


def of_ltm(index: int) -> float:
    return 30.0 + 2 * index + (index % 3)


def of_gpt2(index: int) -> float:
    return 40.0 + 2 * index


def write_two(folder: Path, *, audit: dict[str, Any] | None = AUDIT, **options: Any) -> None:
    extra = {"data": DATA, "audit": audit, "floors": {PPL_TASK: FLOORS}}
    options = {"extra": {"floors": {PPL_TASK: FLOORS}}, **options}
    write_ppl_run(folder, model="ltm-x", nats=of_ltm, n=N, kind="ltm", extra=extra)
    write_ppl_run(folder, model="gpt2-x", nats=of_gpt2, n=N, **options)


def data_of(folder: Path) -> ReportData:
    return build(find_runs([folder]))


def section_of(folder: Path) -> PerplexitySection:
    (task,) = data_of(folder).tasks
    assert task.perplexity is not None
    return task.perplexity


def lines(section: PerplexitySection) -> dict[tuple[str, str], PerplexityLine]:
    return {(row.name, line.label): line for row in section.rows for line in row.lines}


def text_of(page: str) -> str:
    """What a reader of the main part sees, with single spaces."""
    main = page.split("<main>")[1].split("<footer>", maxsplit=1)[0]
    return " ".join(re.sub(r"<[^>]*>", " ", main).split()).replace("\xa0", " ")


def test_every_row_stands_under_its_name(tmp_path: Path) -> None:
    write_two(tmp_path)
    assert [(row.name, [line.label for line in row.lines]) for row in section_of(tmp_path).rows] == [
        ("bound", ["ltm-x"]),
        ("exact", ["gpt2-x"]),
        *((name, ["ltm-x"]) for name in ("iwae", "prior", "causal", "as_released", "as_released, mean of blocks")),
        ("nll_given_z", ["ltm-x"]),
        ("kl", ["ltm-x"]),
    ]


def test_the_sign_stands_on_bounds_and_nowhere_else(tmp_path: Path) -> None:
    write_two(tmp_path)
    section = section_of(tmp_path)
    assert {name for (name, _), line in lines(section).items() if line.bound} == {"bound", "iwae", "prior"}
    page = render(data_of(tmp_path))
    table = page[page.index('aria-label="Perplexity and bits per byte"') :].split("</table>")[0]
    groups = dict(re.findall(r'<span class="held">([^<]+?) <span class="unit">(.*?)</tbody>', table, flags=re.DOTALL))
    assert len(groups) == 10
    assert {name for name, cells in groups.items() if "≤" in cells} == {"bound", "iwae", "prior"}
    assert all(groups[name].count("≤") == 3 for name in ("iwae", "prior"))
    for words in ("not a bound: the released evaluator", "a real next-token figure", "not a perplexity"):
        assert words in table


def test_reference_rows_stand_once_below_the_models_and_are_none(tmp_path: Path) -> None:
    write_two(tmp_path)
    data = data_of(tmp_path)
    section = section_of(tmp_path)
    assert [(line.label, line.documents) for line in section.floors] == [("uniform, gpt2", N), ("unigram, gpt2", N)]
    unigram = section.floors[1]
    assert unigram.bits_per_byte is not None
    low = 3.17 * math.exp(-stats.t.ppf(0.975, 11) * 0.25 / 3.17)  # twelve documents, logarithmic scale
    assert (unigram.bits_per_byte.value, unigram.bits_per_byte.low) == (3.17, pytest.approx(low))
    assert unigram.per_word is None
    assert {label for _, label in lines(section)} == {model.label for model in data.models} == {"ltm-x", "gpt2-x"}
    table = render(data).split('aria-label="Perplexity and bits per byte"')[1].split("</table>")[0]
    head, rows = table.split("reference rows")
    assert "uniform" not in head
    assert "no models that were evaluated" in rows
    assert "50,257" in rows
    assert "≤" not in rows


def test_reference_rows_of_other_documents_or_tokenizers_stand_apart(tmp_path: Path) -> None:
    other = [{**FLOORS[0], "tokenizer": "tokenizer.tiktoken", "n_vocab": 2_048}, {**FLOORS[1], "documents": 3}]
    write_two(tmp_path, extra={"floors": {PPL_TASK: other, "ltm_absent": FLOORS}})
    found = [(line.label, line.documents) for line in section_of(tmp_path).floors]
    assert found == [
        ("uniform, gpt2", N),
        ("unigram, gpt2", N),
        ("uniform, tokenizer.tiktoken", N),
        ("unigram, gpt2", 3),
    ]


def test_figures_are_those_of_the_documents_with_intervals_over_them(tmp_path: Path) -> None:
    write_two(tmp_path)
    found = lines(section_of(tmp_path))
    nats = [of_ltm(i) for i in range(N)]
    tokens = [10 + i for i in range(N)]
    value, interval = ppl([*zip(nats, tokens, strict=True)]), rate_interval(nats, tokens, positive=True)
    head = found["bound", "ltm-x"].per_token
    assert head is not None
    assert (head.value, head.low, head.high) == (value, math.exp(interval.low), math.exp(interval.high))
    # Monte-Carlo part by hand: ppl * sqrt(n * 0.5^2) / sum of tokens.
    assert head.mc_se == pytest.approx(value * math.sqrt(N * 0.25) / sum(10 + i for i in range(N)))
    total_bytes = sum(40 + i for i in range(N))
    for name, share in (("bound", 1.0), ("iwae", 0.9), ("prior", 1.5), ("causal", 1.1)):
        figure = found[name, "ltm-x"].bits_per_byte
        assert figure is not None
        assert figure.value == pytest.approx(share * sum(nats) / total_bytes / math.log(2))
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high
    for name, metric in (("nll_given_z", "nll_per_token_given_z"), ("kl", "kl_per_token")):
        figure = found[name, "ltm-x"].per_token
        assert figure is not None
        assert figure.value == pytest.approx(LTM_ROWS[metric] * sum(nats) / sum(10 + i for i in range(N)))
        assert found[name, "ltm-x"].bits_per_byte is None
    assert found["as_released", "ltm-x"].bits_per_byte is None


def test_the_mean_of_blocks_has_an_interval_of_its_own(tmp_path: Path) -> None:
    """The very average that published figures are; its blocks' spread is not that of the corpus figure."""
    write_two(tmp_path)
    figure = lines(section_of(tmp_path))["as_released, mean of blocks", "ltm-x"].per_token
    blocks = [math.exp(LTM_ROWS["ppl_per_token_as_released"] * of_ltm(i) / (10 + i)) for i in range(N)]
    expected = mean_interval(blocks, positive=True)
    assert figure is not None
    assert figure.value == pytest.approx(sum(blocks) / N)
    assert (figure.low, figure.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (figure.interval, figure.stderr) == (STUDENT, pytest.approx(stdev(blocks) / math.sqrt(N)))


def test_without_samples_the_standard_error_gives_the_interval(tmp_path: Path) -> None:
    write_two(tmp_path, samples=False)
    section = section_of(tmp_path)
    line = lines(section)["exact", "gpt2-x"]
    assert line.bits_per_byte is not None
    assert line.bits_per_byte.interval == FROM_STDERR
    assert line.bits_per_byte.stderr is not None
    # Student's t, n - 1 degrees of freedom, on the logarithmic scale.
    half = stats.t.ppf(0.975, N - 1) * line.bits_per_byte.stderr / line.bits_per_byte.value
    assert line.bits_per_byte.low == pytest.approx(line.bits_per_byte.value * math.exp(-half))
    assert line.bits_per_byte.high == pytest.approx(line.bits_per_byte.value * math.exp(half))
    assert section.differences == ()
    assert {(one.word, one.why) for one in data_of(tmp_path).findings} == {
        ("Not comparable", ("no per-document figures to pair",))
    }


def test_samples_that_tell_another_figure_are_pointed_out(tmp_path: Path) -> None:
    write_two(tmp_path)
    (file,) = tmp_path.glob("gpt2-x/results_*")
    content = json.loads(file.read_text(encoding="utf-8"))
    content["results"][PPL_TASK]["bits_per_byte,none"] = 9.5
    file.write_text(json.dumps(content), encoding="utf-8")
    line = lines(section_of(tmp_path))["exact", "gpt2-x"]
    assert line.note == "bits_per_byte: results and samples disagree, so there is no interval"
    assert line.bits_per_byte is not None
    assert (line.bits_per_byte.value, line.bits_per_byte.low, line.bits_per_byte.high) == (9.5, None, None)
    assert section_of(tmp_path).differences == ()


@pytest.mark.parametrize("change", ["doubled", "cut"])
def test_samples_of_other_documents_give_no_interval_and_no_difference(tmp_path: Path, change: str) -> None:
    """Doubled lines keep every mean, so only their number tells them."""
    write_ppl_run(tmp_path, model="ltm-x", nats=lambda _: 30.0, n=N, kind="ltm")
    write_ppl_run(tmp_path, model="gpt2-x", nats=of_gpt2, n=N)
    (file,) = tmp_path.glob("gpt2-x/samples_*")
    rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(rows * 2 if change == "doubled" else rows[: N // 2]), encoding="utf-8")
    section = section_of(tmp_path)
    line, count = lines(section)["exact", "gpt2-x"], 2 * N if change == "doubled" else N // 2
    assert line.note == f"{count} samples for {N} documents: results and samples disagree, so there is no interval"
    for figure in (line.bits_per_byte, line.per_token, line.per_word, line.per_byte):
        assert figure is not None and (figure.low, figure.high) == (None, None)
    assert section.differences == ()
    whole = lines(section)["bound", "ltm-x"].bits_per_byte
    assert whole is not None and whole.low is not None


def test_whose_tokens_another_models_figure_counts(tmp_path: Path) -> None:
    """A plain log-likelihood is divided by the block tokenizer's tokens; a run of ours brings its model's own count."""
    facts = {"data": {"sets": {PPL_TASK: {"blocks": {**FACTS, "block_tokenizer": "demo"}}}}}
    write_two(tmp_path / "ours", extra=facts)
    found = lines(section_of(tmp_path / "ours"))
    assert [found[key].note for key in (("exact", "gpt2-x"), ("bound", "ltm-x"))] == ["", ""]
    write_two(tmp_path / "theirs", extra=facts, change={"config": {"model": "hf", "model_args": {}, "limit": None}})
    found = lines(section_of(tmp_path / "theirs"))
    assert [found[key].note for key in (("exact", "gpt2-x"), ("bound", "ltm-x"))] == ["", ""]
    assert found["bound", "ltm-x"].own_tokens == "own token (gpt2)"
    # A name alone, so they are nobody's but its own
    assert found["exact", "gpt2-x"].own_tokens == "token of the task's blocks (demo of gpt2-x)"


def test_difference_is_in_bits_per_byte_paired_by_document(tmp_path: Path) -> None:
    write_two(tmp_path)
    (samples,) = tmp_path.glob("gpt2-x/samples_*")
    rows = samples.read_text(encoding="utf-8").splitlines(keepends=True)
    samples.write_text("".join(reversed(rows)), encoding="utf-8")
    (line, first), (_, second) = section_of(tmp_path).differences
    assert line.label == "gpt2-x"
    gap = sum(of_ltm(i) - of_gpt2(i) for i in range(N)) / sum(40 + i for i in range(N)) / math.log(2)
    assert (first.ours, first.theirs, first.n) == ("bound", "exact", N)
    assert first.estimate == pytest.approx(gap)
    assert first.low < gap < first.high < 0
    assert first.verdict == "better"
    # Twelve documents that all fall on one side: sign flips give 2 / 2^12.
    assert first.p_value == pytest.approx(2 / 4096)
    assert first.caveat == "Bound against exact NLL: LTM better is certain, LTM worse is not."
    assert (second.ours, second.theirs, second.caveat) == ("causal", "exact", "")
    head, next_token = data_of(tmp_path).findings
    assert head.sentence.startswith(
        f"ltm-x is better than gpt2-x on ltm_ptb (bits per byte, bound minus exact): difference −{abs(gap):.3f}, "
        "95 % interval −"
    )
    assert (head.word, head.why, head.gap) == ("Better", (first.caveat,), f"−{abs(gap):.3f} bits per byte")
    assert "(bits per byte, next token, causal minus exact)" in next_token.sentence
    assert (next_token.word, next_token.why) == ("Better", ())


def test_lower_is_better(tmp_path: Path) -> None:
    write_ppl_run(tmp_path, model="ltm-x", nats=lambda index: 60.0 + index, n=N, kind="ltm")
    write_ppl_run(tmp_path, model="gpt2-x", nats=of_gpt2, n=N)
    row, _ = data_of(tmp_path).findings
    assert (row.kind, row.word) == ("unproven", "Not proven")
    assert row.sentence.startswith("The bound of ltm-x is worse than the exact figure of gpt2-x on ltm_ptb (")
    assert "LTM worse is not" in row.why[0]


def test_documents_of_one_run_only_are_left_out_and_counted(tmp_path: Path) -> None:
    write_ppl_run(tmp_path, model="ltm-x", nats=of_ltm, n=N, kind="ltm")
    write_ppl_run(tmp_path, model="gpt2-x", nats=of_gpt2, n=N - 2)
    data = data_of(tmp_path)
    assert "10 documents" in data.findings[0].sentence
    assert "2 documents were scored by one of the two only" in data.findings[0].why[0]


def test_a_single_document_has_no_interval(tmp_path: Path) -> None:
    write_ppl_run(tmp_path, model="ltm-x", nats=of_ltm, n=1, kind="ltm")
    write_ppl_run(tmp_path, model="gpt2-x", nats=of_gpt2, n=1)
    data = data_of(tmp_path)
    figure = lines(section_of(tmp_path))["bound", "ltm-x"].bits_per_byte
    assert figure is not None
    assert (figure.low, figure.high, figure.interval) == (None, None, "")
    assert data.findings[0].kind == "open"
    assert "1 document." in data.findings[0].sentence
    assert "∞" not in text_of(render(data))


def test_a_document_without_a_number_leaves_the_results_file_to_tell(tmp_path: Path) -> None:
    write_ppl_run(tmp_path, model="ltm-x", nats=lambda index: math.nan if index == 3 else 20.0, kind="ltm")
    line = lines(section_of(tmp_path))["bound", "ltm-x"]
    assert line.bits_per_byte is None
    assert line.note.startswith("no finite number in the results file")
    assert not re.search(r"\bnan\b", text_of(render(data_of(tmp_path))), flags=re.IGNORECASE)


def test_an_overflowing_perplexity_is_infinite(tmp_path: Path) -> None:
    write_ppl_run(tmp_path, model="ltm-x", nats=lambda index: 9000.0, kind="ltm")
    assert "≤ ∞" in text_of(render(data_of(tmp_path)))


def test_worst_documents_and_their_distribution(tmp_path: Path) -> None:
    write_two(tmp_path)
    section = section_of(tmp_path)
    bits = {i: of_ltm(i) / (40 + i) / math.log(2) for i in range(N)}
    assert [one["doc_id"] for one in section.worst] == sorted(bits, key=lambda i: -bits[i])[:5]
    assert section.worst[0]["bits_per_byte"] == pytest.approx(max(bits.values()))
    assert section.worst[0]["text"] == f"Text {section.worst[0]['doc_id']} of apples."
    assert [(one.label, len(one.bits)) for one in section.documents] == [("ltm-x", N), ("gpt2-x", N)]


def test_the_parts_add_up_to_the_bound(tmp_path: Path) -> None:
    write_two(tmp_path)
    section = section_of(tmp_path)
    found = section.stacks
    bound = lines(section)["bound", "ltm-x"].per_token
    assert bound is not None
    assert sum(found["ltm-x"].values()) == pytest.approx(math.log(bound.value))
    assert list(found["gpt2-x"]) == ["exact NLL"]


def test_the_protocol_is_what_the_task_says_of_itself(tmp_path: Path) -> None:
    write_two(tmp_path, extra={"data": {"sets": {PPL_TASK: {"blocks": {**FACTS, "block_tokens": 512}}}}})
    rows = {key: (values, differs) for key, values, differs in section_of(tmp_path).protocol}
    assert rows["protocol"] == (("mdlm", "mdlm"), False)
    assert rows["block_tokens"] == (("1024", "512"), True)
    assert rows["text_set_name"][0] == ("ptb", "ptb")
    assert "Different preparations of ltm_ptb: block_tokens: 1024, 512." in alarms(tmp_path)[0]


def test_lm_evals_own_rolling_task_gives_an_ltm_bounds(tmp_path: Path) -> None:
    """Its metrics know no bounds, and it logs log-likelihoods."""
    for model, kind in (("ltm-x", "ltm"), ("gpt2-x", "hf")):
        path = write_ppl_run(tmp_path, model=model, nats=of_gpt2, n=N, kind="hf", task="wikitext")
        content = json.loads(path.read_text(encoding="utf-8"))
        content["config"]["model"] = kind
        bits = content["results"]["wikitext"]["bits_per_byte,none"]
        content["results"]["wikitext"] = {"bits_per_byte,none": bits, "word_perplexity,none": 20.0}
        path.write_text(json.dumps(content), encoding="utf-8")
        samples = path.parent / f"samples_wikitext_{DATE}.jsonl"
        rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["metrics"] = ["bits_per_byte"]
            row["bits_per_byte"][0] *= -1
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = data_of(tmp_path)
    found = lines(section_of(tmp_path))
    assert found.keys() == {("bound", "ltm-x"), ("exact", "gpt2-x")}
    assert found["bound", "ltm-x"].bound
    assert [row.bound for row in data.tasks[0].tables[0].rows] == [True, False]
    assert data.findings[0].kind == "open"


# Published figures


def test_published_figures_of_the_set_with_the_sign_where_they_are_bounds() -> None:
    shown = {(row.model, row.value): row for row in published_for("ltm_ptb") if row.metric == "zero-shot perplexity"}
    ltm = shown["LTM-Large", 4.43]
    assert not ltm.bound
    assert "released evaluator’s protocol" in ltm.protocol
    assert any(row.bound for row in shown.values())
    assert {row.dataset for row in published_for("ltm_ptb")} == {"PTB", "PTB validation"}


@pytest.mark.parametrize(
    ("task", "sets"),
    [
        ("ltm_wikitext", {"WikiText", "WikiText-103"}),
        ("ltm_ag_news", {"AG News"}),
        ("ltm_lambada", {"LAMBADA"}),
        ("ltm_svamp", {"SVAMP"}),
        ("ltm_multiarith", {"MultiArith"}),
        ("ltm_openwebtext", {"OpenWebText"}),
        ("ltm_ptbx", set()),
        ("sums", set()),
    ],
)
def test_published_figures_are_of_the_matching_set(task: str, sets: set[str]) -> None:
    assert {row.dataset for row in published_for(task)} == sets


def test_last_words_and_whole_passages_of_lambada_are_kept_apart() -> None:
    whole = {row.metric for row in published_for("ltm_lambada")}
    last = {row.metric for row in published_for("ltm_lambada_last_word")}
    assert whole == {"zero-shot perplexity"}
    assert last
    assert all("last-word" in metric for metric in last)


# Audit


def alarms(folder: Path) -> list[str]:
    return [banner.text for banner in data_of(folder).banners if banner.kind == "alarm"]


def test_the_audit_stands_in_one_line(tmp_path: Path) -> None:
    write_two(tmp_path)
    line = (
        "Audit on random tokens: preset bound, 64 fast steps: bound lies 51.4 nats per block above T ln V (± 1.5): "
        "passes"
    )
    assert [model.audit for model in data_of(tmp_path).models] == [line, ""]
    assert text_of(render(data_of(tmp_path))).count(line) == 1
    assert alarms(tmp_path) == []


def test_a_preset_that_is_no_bound_gets_a_red_banner(tmp_path: Path) -> None:
    failed = {"preset": "released", "deficit_nats_per_block": 165.0, "caught": True, "is_bound": False}
    write_two(tmp_path, audit={**AUDIT, **failed, "figure": "as_released"})
    (text,) = alarms(tmp_path)
    assert text.startswith("Not a bound: ltm-x. Audit on random tokens: preset released, 64 fast steps: figure ")
    assert "165.0 nats per block below T ln V (± 1.5): not a bound." in text
    # The row `bound` is scored with fresh noise whatever the fit used, so its sign stays.
    assert lines(section_of(tmp_path))["bound", "ltm-x"].bound


def test_where_fresh_noise_itself_fails_the_audit_no_sign_is_shown(tmp_path: Path) -> None:
    write_two(tmp_path, audit={**AUDIT, "deficit_nats_per_block": None, "caught": True, "is_bound": False})
    assert "No figure of this run may be called a bound." in alarms(tmp_path)[0]
    section = section_of(tmp_path)
    assert not any(line.bound for line in lines(section).values())
    assert lines(section)["bound", "ltm-x"].note == "the audit failed: not a bound"
    assert "nothing about the models is certain" in section.differences[0][1].caveat
    page = text_of(render(data_of(tmp_path)))
    assert "≤" not in page.split("Perplexity and bits per byte")[1].split("Only figures with")[0]


# The page


def test_data_digests_are_in_the_provenance(tmp_path: Path) -> None:
    sets = {PPL_TASK: {"source": "hub", "sha256": {"test": "ab12"}, "rows": {"test": 77}}}
    write_two(tmp_path, extra={"data": {"choice": "hub", "sets": sets}})
    text = text_of(render(data_of(tmp_path)))
    for words in ("choice auto hub", f"sets.{PPL_TASK}.sha256.test – ab12", f"sets.{PPL_TASK}.rows.test – 77"):
        assert words in text


def page_with(folder: Path, word: str) -> Structure:
    """The page of two runs of a perplexity set with `word` wherever a text, a data set or a setting can bring it in."""
    facts = {**FACTS, f"k {word}": word, "source": word, "split": word}
    audit = {**AUDIT, "preset": word, "figure": f"x {word}", "is_bound": False, "caught": True}
    for model, kind, nats in (("ltm-x", "ltm", of_ltm), ("other", "hf", of_gpt2)):
        extra = {"data": {"sets": {PPL_TASK: {word: facts}}}, "audit": audit, "warnings": [word]}
        path = write_ppl_run(folder, model=model, nats=nats, kind=kind, word=word, extra=extra)
        content = json.loads(path.read_text(encoding="utf-8"))
        content["model_name"] = f"{model} {word}"
        content["config"] |= {"model_sha": word, "fit": {"preset": word}}
        content["configs"][PPL_TASK]["metadata"] = {"block_tokens": f"{model} {word}", f"m {word}": [word]}
        content["results"][PPL_TASK][f"ppl {word},none"] = 2.5
        content["results"][PPL_TASK]["ppl_per_word_bound,none"] = word
        path.write_text(json.dumps(content), encoding="utf-8")
    return Structure(render(data_of(folder)))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Structure:
    return page_with(tmp_path_factory.mktemp("harmless"), "pears")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_inert_in_every_place_of_the_section(tmp_path: Path, harmless: Structure, name: str) -> None:
    assert_inert(page_with(tmp_path, HOSTILE[name]), harmless, name=name)


def test_a_large_set_renders_soon_and_small(tmp_path: Path) -> None:
    """Three models, 1,319 long documents."""
    begun = time.process_time()
    for model, kind in (("ltm-x", "ltm"), ("gpt2-a", "hf"), ("gpt2-b", "hf")):
        write_ppl_run(tmp_path, model=model, nats=of_ltm, n=1319, kind=kind, word="<&" * 3000)
    data = data_of(tmp_path)
    assert len(render(data).encode()) < 5_000_000
    assert len(data.tasks[0].perplexity.worst if data.tasks[0].perplexity else ()) == 5
    assert time.process_time() - begun < 20  # four times what it takes


def test_documents_that_are_scored_stand_in_the_browser_with_their_cost(tmp_path: Path) -> None:
    write_two(tmp_path)
    (task,) = data_of(tmp_path).tasks
    assert task.browser is not None and task.tables == ()
    assert task.browser.scored and task.browser.documents == len(task.browser.samples)
    for sample in task.browser.samples:
        ours, theirs = sample.answers
        assert ours.bits_per_byte is not None and theirs.bits_per_byte is not None
        assert (ours.responses, ours.extracted, ours.bound, theirs.bound) == ((), (), True, False)
        assert sample.gap == ours.bits_per_byte - theirs.bits_per_byte


def test_snapshot_of_the_perplexity_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RENEW_SNAPSHOTS=1 pytest tests/test_ppl_tables.py` writes it anew; read the difference before committing it."""
    monkeypatch.chdir(tmp_path)
    write_two(Path("runs"))
    figures = [one.record() for one in data_of(Path("runs")).tasks[0].figures if one.source == ""]
    found = json.loads(json.dumps(figures), parse_float=lambda text: round(float(text), 3))
    for one in found:  # the values of differences are tested above
        for name in ("first_minus_this_low", "first_minus_this_high", "p", "p_holm"):
            one[name] = one[name] is not None
    if RENEW:
        SNAPSHOT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8"))
