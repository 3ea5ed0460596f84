"""lm-eval's W&B tables of samples, made by its own code with a stand-in for the package."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from ltm_eval.inference.draws import RollingScore
from ltm_eval.system.files import tasks_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

PERPLEXITY = ["ltm_ptb", "ltm_wikitext", "ltm_lm1b", "ltm_lambada", "ltm_ag_news", "ltm_pubmed", "ltm_arxiv"]
ROWS = {"bound": 9.0, "bound_stderr": 0.5, "nll_given_z": 6.0, "kl": 3.0}
FORMS: dict[str, Sequence[Any]] = {
    "plain": [-8.0],
    "bound": [RollingScore(ROWS, tokens=4)],
    "all rows": [RollingScore({**ROWS, "as_released": 7.0, "prior": 12.0, "iwae": 8.0, "causal": 10.0}, tokens=4)],
    "a document without tokens": [RollingScore(ROWS, tokens=4), 0.0],
}


class Says(LM):  # type: ignore[misc]
    """Answers whole texts with the scores of a form, in turn."""

    def __init__(self, scores: Sequence[Any]) -> None:
        super().__init__()
        self.scores = scores

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return [self.scores[place % len(self.scores)] for place in range(len(requests))]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return [(-1.0, False)] * len(requests)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        return ["The answer is 18.\n#### 18"] * len(requests)


class Run:
    """What a logger writes to."""

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}
        self.config, self.summary = SimpleNamespace(update=lambda *_, **__: None), {}

    def log(self, values: dict[str, Any], step: Any = None) -> None:
        self.logged |= values

    def log_artifact(self, artifact: Any) -> None:
        pass


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    import contextlib
    import io

    made = Run()
    wandb, printer = ModuleType("wandb"), ModuleType("wandb.sdk.lib.printer")
    table = lambda columns: SimpleNamespace(add_data=lambda *row: None)  # noqa: E731
    artifact = lambda *_, **__: SimpleNamespace(new_file=lambda *_, **__: contextlib.nullcontext(io.StringIO()))  # noqa: E731
    vars(wandb).update(__version__="1.0", run=made, Table=table, Artifact=artifact)
    vars(printer).update(new_printer=lambda: None)
    for name, module in {"wandb": wandb, "wandb.sdk": ModuleType("s"), "wandb.sdk.lib": ModuleType("l")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "wandb.sdk.lib.printer", printer)
    return made


def evaluated(tasks: list[str], scores: Sequence[Any], **metadata: Any) -> dict[str, Any]:
    manager = TaskManager(
        include_path=str(tasks_dir()), include_defaults=False, metadata={"data": "sample", **metadata}
    )
    found = simple_evaluate(Says(scores), tasks=tasks, task_manager=manager, limit=3, bootstrap_iters=0)
    assert found is not None
    return dict(found) | {"config": {}}


def tables(found: dict[str, Any], run: Run) -> dict[str, pd.DataFrame]:
    from lm_eval.loggers import WandbLogger

    logger = WandbLogger()
    logger.post_init(found)
    logger.log_eval_result()
    logger.log_eval_samples(found["samples"])
    return {name: table for name, table in run.logged.items() if name.endswith("_eval_results") and "/" not in name}


@pytest.mark.parametrize("form", FORMS)
def test_every_perplexity_set_has_its_table(form: str, run: Run) -> None:
    found = evaluated(PERPLEXITY, FORMS[form])
    made = tables(found, run)
    assert list(made) == [f"{task}_eval_results" for task in PERPLEXITY]
    for task in PERPLEXITY:
        listed = [one["metric"] for one in found["configs"][task]["metric_list"]]
        rows = found["samples"][task]
        assert all(metric in row for metric in listed for row in rows)
        carried = set.intersection(*(set(row["metrics"]) for row in rows))
        assert set(listed) == carried and len(made[f"{task}_eval_results"]) == len(rows) == 3
        for metric in carried - {"bits_per_byte"}:  # which lm-eval takes apart, as its own of that name
            assert list(made[f"{task}_eval_results"][metric]) == [row[metric] for row in rows]


def test_the_sets_asked_for_by_their_tag_have_theirs(run: Run) -> None:
    """A group without figures of its own stands in lm-eval's results as a task without a definition: KeyError."""
    found = evaluated(["ltm_ppl"], FORMS["bound"])
    assert sorted(tables(found, run)) == [f"{task}_eval_results" for task in sorted(PERPLEXITY)]
    assert not found.get("groups") and sorted(found["results"]) == sorted(PERPLEXITY)


OTHERS = ["ltm_lambada_last_word", "ltm_gsm8k", "ltm_gsm8k_pass", "ltm_rules"]


@pytest.mark.parametrize("tasks", [[name] for name in OTHERS])
def test_other_tasks_have_theirs(tasks: list[str], run: Run) -> None:
    assert tables(evaluated(tasks, FORMS["bound"]), run)


def test_samples_of_a_question_have_theirs(run: Run) -> None:
    (table,) = tables(evaluated(["ltm_gsm8k"], [], n=3, k=[1, 3]), run).values()
    assert len(table) > 0


def test_one_model_after_another_lists_its_own(run: Run) -> None:
    """The tasks of a run are made once for all of its models."""
    from lm_eval.evaluator import evaluate

    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata={"data": "sample"})
    tasks = manager.load(["ltm_ptb"])
    listed = []
    for form in ("bound", "plain", "all rows"):
        found = evaluate(Says(FORMS[form]), tasks, limit=2, bootstrap_iters=0)
        assert found is not None
        listed.append([one["metric"] for one in found["configs"]["ltm_ptb"]["metric_list"]])
    assert ["ppl_per_token_bound" in own for own in listed] == [True, False, True]
    assert ["ppl_per_token" in own for own in listed] == [False, True, False]
    assert ["ppl_per_token_causal" in own for own in listed] == [False, False, True]
