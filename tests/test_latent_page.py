"""What the page says of latents: probe, explorer, heat maps, test-time compute; complete without script, inert text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_runs import LATENT, TASK, write_ppl_run, write_run
from hostile import HOSTILE, MARKUP, Structure, assert_inert

from ltm_eval.probe.files import (
    Cell,
    Explored,
    Generated,
    Probe,
    ProbedText,
    downward,
    explored,
    key_of,
    layers_of,
    upward,
    words_of,
)
from ltm_eval.probe.view import explorer_json, marked_changes, measures_of, probe_view, text_table
from ltm_eval.report.page import build, gather, render
from ltm_eval.report.plots import inline_svg, reconstruction
from ltm_eval.results.diagnostics import latent_summary, layer_maps, layers_view, step_map
from ltm_eval.results.views import LEVELS
from ltm_eval.system.errors import ResultsError
from ltm_eval.system.files import reports_dir, write_json_atomic, write_jsonl_atomic
from ltm_eval.system.machine import flops_of, flops_per_token

if TYPE_CHECKING:
    from collections.abc import Iterator

DATE = "2026-01-02T03-04-05.000006"
TOKENS = 20
CHROMIUM = Path("/usr/bin/chromium")


def cell(layers: int, *, bonus: int = 0, free: bool = True) -> Cell:
    """A text under so many layers: each makes 2 tokens right and saves 10 nats."""
    hits = min(TOKENS, 4 + 2 * layers + bonus)
    return Cell(100.0 - 10 * layers - bonus, hits, hits - 1 if free else None, layers if free else None)


def text_of(name: str, n_layers: int, *, bonus: int = 0, direction: str = "both") -> ProbedText:
    curves = [*(upward(n_layers) if direction != "down" else []), *(downward(n_layers) if direction != "up" else [])]
    cells = {key: cell(len(layers_of(key)), bonus=bonus, free=key in curves) for key in (*curves, *explored(n_layers))}
    return ProbedText(
        name=name,
        sha256="0" * 64,
        tokens=TOKENS,
        cut=False,
        t_fast=64,
        kl_nats=6.0,
        kl_per_layer_nats=tuple(float(layer) for layer in range(1, n_layers + 1)),
        mean_log_var_per_layer=tuple(-0.5 * layer for layer in range(1, n_layers + 1)),
        cells=cells,
        no_z=cell(0, bonus=bonus),
    )


def explored_of(n_layers: int, word: str, *, index: int = 0) -> Explored:
    """One text for each number of active layers, so that many sets share one."""
    keys = explored(n_layers)
    cells = {
        key: Generated(len(layers_of(key)), 8, 16.0 + len(layers_of(key)), len(layers_of(key)) / n_layers)
        for key in keys
    }
    texts = tuple(f"{word} made by {count}" for count in range(n_layers + 1))
    return Explored(index, f"{word} begins", f"{word} goes on", texts, cells)


def probe_of(word: str = "pears", *, n_layers: int = 3, texts: int = 2, **changes: Any) -> Probe:
    probe = Probe(
        model_name=f"ltm {word}",
        n_layers=n_layers,
        model={"sizes": {"n_layers": n_layers}, f"k {word}": word},
        settings={"preset": "bound", "t_fast": 64, "rest": "zero", "seed": 1, "source": {"files": [word]}},
        texts=tuple(text_of(f"{word} {index}", n_layers, bonus=index) for index in range(texts)),
        explored=tuple(explored_of(n_layers, f"{word} {index}", index=index) for index in range(texts)),
        warnings=(word,),
        demo_model=True,
        command=f"ltm-eval probe {word}",
        provenance={f"x {word}": word},
        seconds=1.0,
        date_id=DATE,
        path=Path("probe.json"),
    )
    return replace(probe, **changes)


def prompts_of(word: str = "pears", *, n_layers: int = 3, texts: int = 2) -> Probe:
    """Prompts that were continued."""
    probe = probe_of(word, n_layers=n_layers, texts=texts)
    return replace(
        probe,
        settings={"t_fast": 64, "rest": "zero", "n_tokens": 8, "source": {"prompts": [word] * texts}},
        explored=tuple(replace(one, rest="") for one in probe.explored),
    )


def page_of(*probes: Probe) -> str:
    return render(build([], probes))


def words_in(page: str) -> str:
    return " ".join(" ".join(Structure(page).text).replace("\xa0", " ").split())


def data_in(page: str) -> Any:
    (data,) = re.findall(r'<script type="application/json" id="explorer-data-1">(.*?)</script>', page)
    return json.loads(data)


# Means over texts


def test_means_are_over_texts_and_differences_are_paired() -> None:
    measures = {measure.key: measure for measure in measures_of(probe_of())}
    assert list(measures) == ["top1", "nll", "saved", "greedy", "prefix"]
    up, down = measures["top1"].ladders
    assert (up.name, up.layers, down.layers) == ("upward", ("none", "1", "1-2", "1-3"), ("none", "3", "2-3", "1-3"))
    # 4, 6, 8, 10 of 20 tokens in the first text, one more in the second.
    assert [point.mean for point in up.points] == pytest.approx([0.225, 0.325, 0.425, 0.525])
    # Two texts, 2.5 points either side of their mean: Student's t with one degree of freedom (12.7062), cut at 0.
    assert (up.points[0].low, up.points[0].high) == pytest.approx((0.0, 0.225 + 12.7062047 * 0.025))
    saved = measures["saved"].ladders[0].points
    assert [(point.mean, point.low, point.high) for point in saved] == [
        (0.0, 0.0, 0.0),  # compared with itself
        *((0.5 * layers, None, None) for layers in range(1, 4)),  # equal texts show no spread
    ]
    assert measures["saved"].no_z.mean == 0
    assert measures["nll"].no_z.mean == pytest.approx(4.975)
    assert [point.mean for point in measures["prefix"].ladders[0].points] == [0, 1, 2, 3]


def test_a_single_text_has_no_interval() -> None:
    measure = measures_of(probe_of(texts=1))[0]
    assert (measure.no_z.mean, measure.no_z.low, measure.no_z.high) == (0.2, None, None)
    assert "Mean over texts." in words_in(page_of(probe_of(texts=1)))


def test_a_direction_that_was_not_run_is_left_out() -> None:
    texts = tuple(replace(text, cells={key: text.cells[key] for key in upward(3)}) for text in probe_of().texts)
    probe = probe_of(explored=())
    probe = replace(probe, texts=texts)
    assert {len(measure.ladders) for measure in measures_of(probe)} == {1}
    page = words_in(page_of(probe))
    assert "layers 1 to l" in page and "the last l layers" not in page
    assert "Layer explorer" not in page


def test_the_terminals_table_has_a_line_for_each_number_of_layers() -> None:
    lines = text_table(probe_of()).splitlines()
    assert [line.split()[0] for line in lines] == ["layers", "0", "1", "2", "3", "no"]
    assert lines[2].split()[1] == "32.5"


# The page


def test_everything_is_readable_without_script() -> None:
    probe = probe_of()
    page = page_of(probe)
    shown = words_in(re.sub("<script.*?</script>", "", page, flags=re.S))
    for part in ("What the layers carry", "Progressive reconstruction", "What the fits put into each layer"):
        assert part in shown
    for item in probe.explored:
        for part in (item.prompt, item.rest, *item.texts):
            assert part in shown
    for key in explored(3):
        assert words_of(key) in shown
    for part in ("l = 0", "l = 3", "no z", "52.5", "20.7 to 84.3", "ltm-eval probe pears", "1.00", "−1.500"):
        assert part in shown
    # 7 ranges or none, and layers 1 and 3 together; equal texts are named, not repeated.
    assert page.count('<span class="made">') == 2 * 4
    assert "as layer 1" in shown


def test_the_explorer_needs_script_and_is_hidden_without() -> None:
    page = Structure(page_of(probe_of()))
    boxes = [dict(attributes) for tag, attributes in page.elements if dict(attributes).get("class") == "explorer"]
    assert boxes == [{"class": "explorer", "data-explorer": "explorer-data-1", "hidden": None}]
    sliders = [dict(attributes) for tag, attributes in page.elements if tag == "input"]
    assert [slider["aria-label"] for slider in sliders] == ["First layer", "Last layer"]
    assert {(slider["type"], slider["min"], slider["max"]) for slider in sliders} == {("range", "1", "3")}
    buttons = [dict(attributes) for tag, attributes in page.elements if tag == "button"]
    assert sum("data-group" in button for button in buttons) == 3
    presets = [button["data-layers"] for button in buttons if "data-layers" in button]
    assert presets == ["1-3", "1", "2", "3", "none"]


@pytest.mark.parametrize(
    ("text", "whole", "parts"),
    [
        ("a b c", "a b c", ("a b c",)),
        ("a x c", "a b c", ("a", " x", " c")),
        ("x y", "a b", ("", "x y", "")),
        ("a b\n", "a", ("a", " b\n", "")),
        ("a", "a b c", ("a",)),
        ("", "a", ("",)),
    ],
)
def test_words_that_changed_are_told_apart(text: str, whole: str, parts: tuple[str, ...]) -> None:
    assert marked_changes(text, whole) == parts
    assert "".join(parts) == text


def test_continued_prompts_are_readable_without_script_and_have_no_curves() -> None:
    probe = prompts_of()
    shown = words_in(re.sub("<script.*?</script>", "", page_of(probe), flags=re.S))
    assert "Continuations" in shown and "Layer explorer" not in shown
    assert "Progressive reconstruction" not in shown and "Original" not in shown
    for item in probe.explored:
        assert all(part in shown for part in (item.prompt, *item.texts))
    assert all(words_of(key) in shown for key in explored(3))
    assert page_of(probe).count('<mark class="changed">') == 2 * 3 + 1  # all but all layers', and the caption
    lines = text_table(probe).splitlines()
    assert lines[0] == "pears 0: pears 0 begins"
    assert [line.split("  ")[0] for line in lines[2:10]] == [words_of(key) for key in explored(3)]
    assert lines[2].endswith("pears 0 made by 0") and lines[9].endswith("as layers 1–2")


def test_the_explorers_data_hold_every_set_and_each_text_once() -> None:
    data = data_in(page_of(probe_of(n_layers=12)))
    assert data["layers"] == 12
    assert data["groups"] == [[1, 3], [4, 6], [7, 9], [10, 12]]
    for item in data["items"]:
        assert sorted(item["sets"]) == sorted(explored(12))
        assert len(item["sets"]) == 84
        assert len(item["texts"]) == len(set(map(tuple, item["texts"]))) == 13
        whole = item["texts"][item["sets"]["1-12"][0]]
        assert len(whole) == 1 and all(len(text) == 3 for text in item["texts"] if text != whole)
        for key, (text, nll, similarity, _, _) in item["sets"].items():
            count = len(layers_of(key))
            assert "".join(item["texts"][text]).endswith(f"made by {count}")
            assert float(nll) == pytest.approx((16 + count) / 8, abs=1e-3)
            assert similarity == f"{100 * count / 12:.1f} %"


def test_a_page_of_twelve_layers_stays_small() -> None:
    long = tuple(f"{index} " + "word " * 100 for index in range(13))
    probe = probe_of(n_layers=12, texts=3)
    page = page_of(replace(probe, explored=tuple(replace(one, texts=long) for one in probe.explored)))
    assert len(page.encode()) < 400_000


def test_probes_of_one_model_are_told_apart() -> None:
    page = words_in(page_of(probe_of(), probe_of(date_id="2026-02-03T00-00-00")))
    assert f"probe of ltm pears ({DATE})" in page
    assert "probe of ltm pears (2026-02-03T00-00-00)" in page


def test_same_probe_same_bytes() -> None:
    assert page_of(probe_of()) == page_of(probe_of())


@pytest.fixture(scope="module")
def harmless() -> Structure:
    return Structure(page_of(probe_of("pears"), prompts_of("pears")))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_inert_in_every_field(harmless: Structure, name: str) -> None:
    assert_inert(Structure(page_of(probe_of(HOSTILE[name]), prompts_of(HOSTILE[name]))), harmless, name=name)


@pytest.mark.parametrize("word", [*MARKUP, "</script><script>alert(1)</script>", "<!--<script>", "\u2028\ud800\x00"])
def test_the_explorers_json_cannot_end_its_element(word: str) -> None:
    text = explorer_json(probe_view("m", probe_of(word)))
    assert not re.search("[<>&\x00-\x1f\x7f-\uffff]", text)
    assert json.loads(text)["items"][0]["texts"]


# Beside runs


def right(index: int) -> bool:
    return index % 2 == 0


def test_a_folder_of_runs_and_probes_gives_one_page(tmp_path: Path) -> None:
    write_run(tmp_path, model="ltm-x", right=right, kind="ltm", latents=True)
    write_json_atomic(tmp_path / "ltm-x" / f"probe_{DATE}.json", probe_of(model_name="ltm-x"))
    runs, probes = gather([tmp_path])
    assert (len(runs), len(probes)) == (1, 1)
    page = words_in(render(build(runs, probes)))
    assert "What the layers carry" in page and "What ran" in page and TASK in page


def test_a_folder_of_probes_alone_is_enough_and_an_empty_one_is_not(tmp_path: Path) -> None:
    probes, runs, nothing = (tmp_path / name for name in ("probes", "runs", "nothing"))
    nothing.mkdir()
    write_json_atomic(probes / f"probe_{DATE}.json", probe_of())
    write_run(runs, model="m", right=right)
    assert [len(found) for found in gather([probes])] == [0, 1]
    assert [len(found) for found in gather([probes, runs])] == [1, 1]
    assert [len(found) for found in gather([probes / f"probe_{DATE}.json", runs])] == [1, 1]
    with pytest.raises(ResultsError, match="no results"):
        gather([probes, nothing])
    with pytest.raises(ResultsError, match="nothing to report"):
        build([], [])


# Layers


def test_heat_maps_order_documents_by_kl_and_colour_by_layer() -> None:
    pairs = [((4.0, 8.0), (-1.0, 0.5)), ((0.0, 2.0), (0.0, -2.0))]
    kl, var = layer_maps(pairs, ["much", "little"])
    assert kl.rows == (("little", (("0.00", 0), ("2.00", 2))), ("much", (("4.00", 4), ("8.00", LEVELS))))
    assert [cells for _, cells in var.rows] == [(("0.000", 0), ("−2.000", LEVELS)), (("−1.000", 4), ("0.500", 0))]


def test_many_documents_stand_in_tenths() -> None:
    pairs = [((float(index),), (0.0,)) for index in range(1000)]
    kl, _ = layer_maps(pairs[::-1], [str(index) for index in range(1000)])
    assert len(kl.rows) == 10
    assert (kl.rows[0][0], kl.rows[-1][0]) == ("tenth 1 (least KL)", "tenth 10 (most KL)")
    assert [text for _, ((text, _),) in kl.rows] == [f"{49.5 + 100 * tenth:.2f}" for tenth in range(10)]


def test_layers_that_cannot_be_compared_make_no_map() -> None:
    assert layer_maps([], []) == ()
    assert layer_maps([((1.0,), (1.0,)), ((1.0, 2.0), (1.0, 2.0))], ["a", "b"]) == ()
    assert layer_maps([((float("nan"),), (1.0,))], ["a"]) == ()
    assert layers_view("m", [replace(LATENT, kl_nats=None)]) is None


def test_fits_that_ended_higher_than_they_began_are_counted() -> None:
    worse = replace(LATENT, doc_id=1, objective_nats=(100.0, 90.0, 101.0))
    view = layers_view("m", [LATENT, worse, replace(LATENT, objective_nats=())])
    assert view is not None
    assert (view.fits, view.traced, view.worse) == (3, 2, 1)


def test_the_worst_fit_is_the_one_that_gained_least() -> None:
    second = replace(LATENT, objective_nats=(200.0, 199.0, 198.0, 197.0))
    curve = latent_summary("m", [LATENT, second])["curve"]
    assert curve is not None
    assert curve.worst == (0.0, -1.0, -2.0, -3.0)
    alone = latent_summary("m", [LATENT])["curve"]
    assert alone is not None and alone.worst == ()


def _mixed(style: str, level: int, theme: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A heat cell's background and ink in a theme (0 light, 1 dark), as 0 to 1."""

    def colour(name: str) -> tuple[float, ...]:
        found = re.findall(rf"--{name}: #([0-9a-f]{{6}});", style)[theme]
        return tuple(int(found[place : place + 2], 16) / 255 for place in (0, 2, 4))

    match = re.search(rf"\.heat-{level} {{ background: color-mix\(in srgb, var\(--series-1\) (\d+)%", style)
    share = int(match[1]) / 100 if match else 0.0
    pairs = zip(colour("series-1"), colour("paper"), strict=True)
    return tuple(share * mark + (1 - share) * paper for mark, paper in pairs), colour("ink")


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("level", range(LEVELS + 1))
def test_numbers_on_colour_can_be_read_in_both_themes(level: int, theme: int) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 to 1."""
    style = "".join((reports_dir() / name).read_text("utf-8") for name in ("report.css", "explorer.css"))
    low, high = sorted(map(_luminance, _mixed(style, level, theme)))
    assert (high + 0.05) / (low + 0.05) >= 4.5


# Test-time compute


@pytest.mark.parametrize(
    ("millions", "layers", "t_fast", "published"), [(38.37, 3, 16, 4.07), (51.01, 6, 16, 5.52), (76.28, 12, 64, 32.2)]
)
def test_published_flops_per_token(millions: float, layers: int, t_fast: int, published: float) -> None:
    """arXiv:2502.01567, LTM-S, M and L, in units of 1e9."""
    found = flops_per_token(round(millions * 1e6), layers=layers, width=512, t_fast=t_fast) / 1e9
    assert found == pytest.approx(published, rel=2e-3)


def test_flops_are_unknown_where_sizes_are() -> None:
    assert flops_of({"model_num_parameters": 5, "sizes": {"n_layers": 2}}, t_fast=1) is None
    assert flops_of({}, t_fast=1) is None
    assert flops_of({"model_num_parameters": 5, "sizes": {"n_layers": 1, "dim": 1}}, t_fast=0) == 30 + 12 * 512


def config_of(t_fast: int, *, condition: str = "prompt") -> dict[str, Any]:
    return {
        "model": "ltm",
        "model_args": {"pretrained": "ltm-x"},
        "model_sha": "abc",
        "model_num_parameters": 1000,
        "sizes": {"n_layers": 2, "dim": 8},
        "fit": {"preset": "bound", "t_fast": t_fast},
        "condition": condition,
    }


def test_runs_that_differ_in_fast_steps_make_a_curve(tmp_path: Path) -> None:
    for t_fast, n in ((16, 12), (4, 12), (64, 12)):
        good = {4: 4, 16: 3, 64: 2}[t_fast]
        write_run(
            tmp_path / str(t_fast),
            model="ltm-x",
            right=lambda index, good=good: index % good == 0,
            kind="ltm",
            n=n,
            change={"config": config_of(t_fast)},
        )
    write_run(tmp_path / "gpt2", model="gpt2", right=right)
    data = build(*gather([tmp_path]))
    strict, flexible = data.tasks[0].compute
    assert (strict.metric, flexible.metric) == ("exact_match, strict-match", "exact_match, flexible-extract")
    assert all(one.share and one.higher_is_better for _, _, one in strict.points)
    assert [(t_fast, one.value) for t_fast, _, one in strict.points] == [(4, 0.25), (16, 1 / 3), (64, 0.5)]
    assert strict.points[0][1] == 5 * (6 * 1000 + 12 * 2 * 8 * 512)
    page = words_in(render(data))
    assert "Test-time compute" in page and "fast steps" in page and "GFLOPs per token" in page


def test_bounds_make_a_curve_too_and_other_conditions_none(tmp_path: Path) -> None:
    for t_fast in (4, 16):
        write_ppl_run(
            tmp_path / str(t_fast),
            model="ltm-x",
            nats=lambda index, t_fast=t_fast: 40.0 - t_fast / 4 + index,
            kind="ltm",
            change={"config": config_of(t_fast)},
        )
    (curve,) = build(*gather([tmp_path])).tasks[0].compute
    (_, _, first), (_, _, second) = curve.points
    assert (curve.metric, first.bound, first.share) == ("perplexity per token, bound", True, False)
    assert first.value is not None and second.value is not None and first.value > second.value
    assert first.low is not None and first.low < first.value
    for folder, condition in (("a", "prompt"), ("b", "demos")):
        change = {"config": config_of(4 if folder == "a" else 8, condition=condition)}
        write_run(tmp_path / "o" / folder, model="ltm-x", right=right, kind="ltm", change=change)
    assert build(*gather([tmp_path / "o"])).tasks[0].compute == ()


def test_curves_say_where_no_z_lies() -> None:
    measure = measures_of(probe_of())[0]
    svg = inline_svg(reconstruction(measure), name="f")
    for part in ("layers 1 to l", "the last l layers", "no z", "active layers l", "percent of tokens"):
        assert f">{part}</text>" in svg
    assert svg == inline_svg(reconstruction(measure), name="f")


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("no chromium")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[tuple[Any, list[str]]]:
    """A page of 12 layers with hostile texts, and what it complained of or asked the network for."""
    (tmp_path / "page.html").write_text(page_of(probe_of(" ".join(MARKUP), n_layers=12)), "utf-8")
    page, troubles = browser.new_page(), []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.on("request", lambda request: troubles.append(request.url) if not request.url.startswith("file:") else None)
    page.goto((tmp_path / "page.html").as_uri())
    yield page, troubles
    page.close()


def test_groups_and_range_choose_what_is_shown(opened: tuple[Any, list[str]]) -> None:
    page, troubles = opened
    state, made = page.locator("[data-shown=state]"), page.locator("[data-shown=made]")
    assert state.inner_text() == "Active: layers 1–12: the text of all layers"
    assert made.locator("mark").count() == 0
    page.click("button[data-group='1']")
    assert state.inner_text() == "Active: layers 1–3, 7–12: similarity to all layers 75.0 %"
    assert made.inner_text().endswith("made by 9")
    assert made.locator("mark.changed").all_inner_texts() == [" 9"]
    assert page.locator("button[data-group='1']").get_attribute("aria-pressed") == "false"
    page.click("button[data-layers=none]")
    assert made.inner_text().endswith("made by 0")
    page.focus("button[data-group='0']")
    page.keyboard.press("Space")
    assert state.inner_text().startswith("Active: layers 1–3:")
    page.click("button[data-layers='5-8']")
    assert state.inner_text().startswith("Active: layers 5–8:")
    pressed = [button.get_attribute("aria-pressed") for button in page.locator("button[data-group]").all()]
    assert pressed == ["false", "mixed", "mixed", "false"]
    page.click("button[data-layers='1-12']")
    page.focus("input[data-end=first]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.focus("input[data-end=last]")
    page.keyboard.press("ArrowLeft")
    assert state.inner_text().startswith("Active: layers 3–11:")
    assert page.locator("input[data-end=last]").get_attribute("aria-valuetext") == "layer 11; active: layers 3–11"
    assert page.locator(".stack .on").count() == 9
    page.keyboard.press("Home")
    assert state.inner_text().startswith("Active: layer 1:")
    page.keyboard.press("End")
    assert state.inner_text().startswith("Active: layers 1–12:")
    page.locator(".stack [data-layer='9']").click()
    assert state.inner_text().startswith("Active: layers 1–9:")
    page.locator(".stack [data-layer='3']").click()
    assert state.inner_text().startswith("Active: layers 3–9:")
    page.select_option(".explorer select", "1")
    assert "1 begins" in page.locator("[data-shown=prompt]").inner_text()
    assert page.locator(".explorer script, .explorer img, .explorer h1").count() == 0
    assert troubles == []


def test_a_handle_is_dragged_by_the_mouse(opened: tuple[Any, list[str]]) -> None:
    page, troubles = opened
    page.locator(".handles").scroll_into_view_if_needed()
    box, thumb = page.locator(".handles").bounding_box(), 12  # half of a handle's width
    step = (box["width"] - 2 * thumb) / 11
    page.mouse.move(box["x"] + box["width"] - thumb, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + thumb + 4 * step, box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    assert page.locator("[data-shown=state]").inner_text().startswith("Active: layers 1–5:")
    assert troubles == []


def test_every_set_of_groups_and_every_range_is_found(opened: tuple[Any, list[str]]) -> None:
    page, troubles = opened
    shown = page.evaluate(
        """() => {
          const said = [], state = document.querySelector("[data-shown=state]");
          const ends = ["first", "last"].map((end) => document.querySelector(`input[data-end=${end}]`));
          for (let first = 1; first <= 12; first++) for (let last = first; last <= 12; last++) {
            ends[0].value = first; ends[1].value = last;
            ends[1].dispatchEvent(new Event("input"));
            said.push(state.textContent);
          }
          return said;
        }"""
    )
    wanted = [tuple(range(first, last + 1)) for first in range(1, 13) for last in range(first, 13)]
    assert [re.split(": (?=similarity|the text)", one)[0] for one in shown] == [
        f"Active: {words_of(key_of(one))}" for one in wanted
    ]
    assert troubles == []


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_does_not_scroll_sideways(opened: tuple[Any, list[str]], width: int) -> None:
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_stop_reasons_are_told_only_of_what_was_generated(tmp_path: Path) -> None:
    scored = [replace(LATENT, doc_id=i, stop_reason="") for i in range(3)]
    assert latent_summary("a", scored)["stop_reasons"] == ()
    mixed = [*scored, replace(LATENT, doc_id=3)]
    assert latent_summary("a", mixed)["stop_reasons"] == (("nothing generated", 3), ("stop_string", 1))
    write_ppl_run(tmp_path, model="ltm-x", nats=lambda i: 30.0, kind="ltm")
    (folder,) = (path.parent for path in tmp_path.rglob("results_*"))
    write_jsonl_atomic(folder / f"latents_ltm_ptb_{DATE}.jsonl", [replace(one, task="ltm_ptb") for one in scored])
    page = render(build(*gather([tmp_path])))
    assert "Time fitting" in page and "Generation ended by" not in page and "Time fitting, decoding" not in page


def test_kl_over_the_fit_is_a_mean_over_documents_at_doubling_steps() -> None:
    traces = [tuple((float(step * of), 8.0) for step in range(10)) for of in (1, 3)]
    (found,) = step_map([*traces, ((1.0, 1.0),), ((1.0, math.nan),) * 10, ((0.0, 0.0),) * 4])
    assert [name for name, _ in found.rows] == ["0", "1", "2", "4", "8", "9"]
    assert found.rows[-1][1] == (("18.00", LEVELS), ("8.00", round(LEVELS * 8 / 18))) and found.rows[0][1][0][1] == 0
    assert "Means over 2 documents" in found.note
    assert step_map([]) == () and step_map([((1.0,),)]) == () and step_map([((), ()), ((), ())]) == ()
