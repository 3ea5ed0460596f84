"""The page server: what it shows of a results folder, and that it shows nothing else."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from html import unescape
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from fake_runs import TASK, write_run
from hostile import STRINGS

from ltm_eval import cli
from ltm_eval.report.view import Viewer
from ltm_eval.system.errors import MachineError, ResultsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Ask = Callable[..., tuple[int, str, http.client.HTTPMessage]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs that compare, a page beside one, and a file that is nobody's business."""
    place = tmp_path / "results"
    write_run(place / "a", model="first", right=lambda index: index % 4 != 2)
    write_run(place / "b", model="second", right=lambda index: index % 4 == 0)
    (place / "a" / "report.html").write_text("<p>the page of a</p>", "utf-8")
    (place / "notes.html").write_text("secret", "utf-8")
    return place


@pytest.fixture
def server(folder: Path) -> Iterator[Viewer]:
    """A server at work."""
    with Viewer(folder, progress=lambda _: ["gsm8k: 3/4 (75 %)"]) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def ask(server: Viewer) -> Ask:
    """Status, text and headers of a request."""

    def asked(path: str, method: str = "GET", host: str = "") -> tuple[int, str, http.client.HTTPMessage]:
        line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        line.request(method, path, headers={"Host": host} if host else {})
        answer = line.getresponse()
        text = answer.read().decode()
        line.close()
        return answer.status, text, answer.headers

    return asked


def names(text: str) -> list[str]:
    return re.findall(r'name="run" value="([^"]*)"', text)


def test_list_names_runs_figures_pages_and_progress(ask: Ask) -> None:
    status, text, headers = ask("/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert len(names(text)) == 2 and "75.0" in text and "25.0" in text and TASK in text
    assert "gsm8k: 3/4 (75 %)" in text and "/page?file=a%2Freport.html" in text
    assert headers["X-Frame-Options"] == "DENY" and "default-src 'none'" in unescape(text)
    assert json.loads(ask("/progress")[1]) == ["gsm8k: 3/4 (75 %)"]


def test_runs_that_come_later_are_listed(ask: Ask, folder: Path) -> None:
    assert len(names(ask("/")[1])) == 2
    write_run(folder / "c", model="third", right=bool)
    assert len(names(ask("/")[1])) == 3


def test_a_run_its_page_and_a_comparison_open(ask: Ask) -> None:
    runs = names(ask("/")[1])
    status, text, _ = ask("/run?run=" + quote(runs[0], safe=""))
    assert status == 200 and TASK in text and "<title>" in text
    assert ask("/page?file=a%2Freport.html")[:2] == (200, "<p>the page of a</p>")
    status, text, _ = ask("/compare?" + "&".join("run=" + quote(one, safe="") for one in runs))
    assert status == 200 and "first" in text and "second" in text and "50.0" in text


@pytest.mark.parametrize(
    "path",
    [
        "/page?file=notes.html",
        "/page?file=a%2Freport.html%00",
        "/page?file=..%2F..%2Fetc%2Fpasswd",
        "/page?file=%2Fetc%2Fpasswd",
        "/page",
        "/run?run=..%2F..%2Fetc%2Fpasswd",
        "/run",
        "/results",
        "/compare?run=nothing&run=here",
    ],
)
def test_nothing_else_is_sent(ask: Ask, path: str) -> None:
    status, text, _ = ask(path)
    assert status in {404, 422} and "secret" not in text and "root:x" not in text


def test_other_hosts_and_methods_are_refused(ask: Ask) -> None:
    assert ask("/", host="evil.example:80")[0] == 403
    assert ask("/", method="POST")[0] == 501
    assert ask("/", method="HEAD")[:2] == (200, "")


def test_one_run_alone_is_no_comparison(ask: Ask) -> None:
    status, text, _ = ask("/compare?run=" + quote(names(ask("/")[1])[0], safe=""))
    assert status == 422 and "two or more runs" in text


def test_runs_that_do_not_compare_say_why(ask: Ask, folder: Path) -> None:
    write_run(folder / "d", model="other", right=bool, shots=3)
    runs = [one for one in names(ask("/")[1]) if one.startswith(("a/", "d/"))]
    status, text, _ = ask("/compare?" + "&".join("run=" + quote(one, safe="") for one in runs))
    assert status == 422 and "shots" in text and "ltm-eval compare" in text


def test_hostile_names_stay_text(ask: Ask, folder: Path) -> None:
    for number, word in enumerate(STRINGS):
        write_run(folder / f"h{number}", model="plain", word=word, right=bool, change={"model_name": word})
    text = ask("/")[1]
    assert "<script>alert" not in text and text.count("<script") == 1


def test_a_broken_results_file_is_listed_as_unreadable(ask: Ask, folder: Path) -> None:
    (folder / "a" / "results_broken.json").write_text("{", "utf-8")
    text = ask("/")[1]
    assert "Unreadable" in text and "results_broken.json" in text


def test_an_empty_folder_waits_for_runs(tmp_path: Path) -> None:
    with Viewer(tmp_path, progress=lambda _: []) as made:
        assert made.runs() == {}


def test_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Viewer) -> None:
    with pytest.raises(ResultsError, match="no such folder"):
        Viewer(tmp_path / "none", progress=lambda _: [])
    with pytest.raises(MachineError, match="leave --port out"):
        Viewer(tmp_path, port=server.server_port, progress=lambda _: [])
    assert cli.main(["view", str(tmp_path / "none")]) == 3
    assert "no such folder" in capsys.readouterr().err
    assert cli.main(["view", str(tmp_path), "--port", "70000"]) == 2


def test_the_command_serves_until_it_is_interrupted(folder: Path) -> None:
    made = subprocess.Popen(
        [sys.executable, "-m", "ltm_eval", "view", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    line = made.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
    assert found is not None, line
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    made.send_signal(signal.SIGINT)
    assert made.communicate(timeout=60)[1] == "" and made.returncode == 0
