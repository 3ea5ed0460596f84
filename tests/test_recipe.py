"""Recipes: read strictly, every wrong key or value named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import yaml

from ltm_eval.system.errors import InputError, UsageError
from ltm_eval.training.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from pathlib import Path

RULES = {"name": "rules", "kind": "rules", "weight": 1, "length": 32, "batch": 2, "rows": 3, "files": ["rules.jsonl"]}
PLAIN = {"model": {"dim": 16}, "steps": 5, "sources": [RULES]}


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf-8")
    return path


@pytest.mark.parametrize("name", ["ltm-demo.yaml", "gpt2-demo.yaml"])
def test_the_recipes_of_the_bundled_pair_read(root: Path, name: str) -> None:
    recipe = read_recipe(root / "demo" / name)
    assert {source.name for source in recipe.sources} == {"prose", "long_prose", "problems", "rules"}


def test_the_pair_sees_the_same_batches(root: Path) -> None:
    ltm, gpt2 = (read_recipe(root / "demo" / name) for name in ("ltm-demo.yaml", "gpt2-demo.yaml"))
    assert ltm.sources == gpt2.sources
    assert (ltm.steps, ltm.seed, ltm.ranks) == (gpt2.steps, gpt2.seed, gpt2.ranks)
    assert ltm.data_digest == gpt2.data_digest


def test_values_arrive(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, {**PLAIN, "lr": 1, "fast_lr": 0.2}), steps=9)
    assert (recipe.steps, recipe.lr, recipe.fit.lr, recipe.sources[0].rows) == (9, 1.0, 0.2, 3)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({**PLAIN, "stepz": 4}, UsageError, "unknown option 'stepz'. Did you mean 'steps'"),
        ({**PLAIN, "steps": "many"}, UsageError, "steps must be a whole number of at least 1, got 'many'"),
        ({**PLAIN, "steps": True}, UsageError, "steps must be a whole number of at least 1, got True"),
        ({**PLAIN, "steps": 0}, UsageError, "steps must be a whole number of at least 1, got 0"),
        ({**PLAIN, "architecture": "rnn"}, UsageError, "architecture must be one of ltm, gpt2, got 'rnn'"),
        ({**PLAIN, "preset": "bond"}, UsageError, "Did you mean 'bound'"),
        ({**PLAIN, "sources": [{**RULES, "kind": "poem"}]}, UsageError, "source rules: kind must be one of"),
        ({**PLAIN, "sources": [{**RULES, "lenght": 3}]}, UsageError, "Did you mean 'length'"),
        ({**PLAIN, "sources": [{**RULES, "files": []}]}, UsageError, "`files` must name at least one file"),
        ({**PLAIN, "sources": [RULES, RULES]}, UsageError, "with distinct names"),
        ({**PLAIN, "sources": [{**RULES, "from_step": 1}]}, UsageError, "no source is active at step 0"),
        ({**PLAIN, "sources": ["rules"]}, InputError, "expected a mapping, got str"),
        ({**PLAIN, "sources": [{**RULES, "files": "a.txt"}]}, UsageError, "files must be a list, each item text"),
        ({"steps": 5}, InputError, "a list of `sources`"),
        ({"sources": [RULES], "steps": 3}, UsageError, "model is missing"),
        ("a: [", InputError, "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", InputError, "not valid YAML"),
        ("", InputError, "a list of `sources`"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        read_recipe(written(tmp_path, content))
    assert message in str(caught.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_recipe(tmp_path / "absent.yaml")


def test_the_digest_covers_what_changes_weights(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, PLAIN))
    assert replace(recipe, save_every=3, validate_every=1).digest == recipe.digest
    others: list[dict[str, object]] = [{"lr": 0.1}, {"steps": 6}, {"t_fast": 9}, {"seed": 1}, {"coded_steps": 2}]
    assert len({replace(recipe, **change).digest for change in others} | {recipe.digest}) == len(others) + 1  # type: ignore[arg-type]
    assert isinstance(recipe, Recipe)
