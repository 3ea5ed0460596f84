"""Serve the pages of a results folder to a browser on this machine: the list of runs, their progress, comparisons.

Loopback only, reading only, HTTP only: nothing is written, no other file of the folder is sent, and requests that name
another host (DNS rebinding) are refused. Pages are made when they are asked for, from the files as they are then.
"""

from __future__ import annotations

import html
import json
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from ltm_eval.report import comparison, page
from ltm_eval.report.index import digest_of, index, settings_of, warnings_of
from ltm_eval.report.layout import assets, environment, markup, policy
from ltm_eval.report.tables import as_html, metric_text, value_cell
from ltm_eval.results.compare import compare_paths
from ltm_eval.results.files import read_run, result_files
from ltm_eval.system.errors import LtmEvalError, MachineError, ResultsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ltm_eval.report.index import Index, Listed

R = TypeVar("R")
HOST = "127.0.0.1"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Viewer(HTTPServer):
    """The server; `serve_forever` answers requests one after the other.

    Args:
        folder: the results folder. Runs that come into it later are listed when the page is loaded again.
        port: a free one by default.
        progress: the lines that say how far the runs of a folder are, none if no run has a journal there.

    Attributes:
        url: address of the list of runs.

    Raises:
        ResultsError: there is no such folder.
        MachineError: the port is taken or not allowed.
    """

    def __init__(self, folder: Path, *, port: int = 0, progress: Callable[[Path], list[str]]) -> None:
        if not folder.is_dir():
            raise ResultsError(f"{folder}: no such folder; give one that holds results_*.json files")
        self.folder, self.progress = folder, progress
        self._read: tuple[list[tuple[str, int, int]], Index | None] = ([], None)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise MachineError(
                f"port {port} of {HOST} cannot be used ({error}); leave --port out for a free one"
            ) from None
        self.url = f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show what went wrong with a request, but not that a browser went away."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def runs(self) -> dict[str, Listed]:
        """Return the runs by their file's path below the folder, newest first; files are read again if any changed."""
        files = result_files(self.folder)
        seen = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()]
        if seen != self._read[0]:
            self._read = (seen, index(self.folder) if files else None)
        found = self._read[1]
        return {one.run.path.relative_to(self.folder).as_posix(): one for one in found.runs} if found else {}


class _AbsentError(Exception):
    """There is no such page, or no such run."""


def _named(known: Mapping[str, R], asked: Mapping[str, list[str]], key: str) -> R:
    """Return what a request names under `key`, which must be one of those known."""
    name = asked.get(key, [""])[0]
    if name not in known:
        raise _AbsentError
    return known[name]


class _Handler(BaseHTTPRequestHandler):
    server: Viewer
    server_version, sys_version = "ltm-eval", ""

    def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
        """Answer one request; whatever is wrong with a run becomes one line on a page."""
        port = self.server.server_port
        if self.headers.get("Host") not in {f"{HOST}:{port}", f"localhost:{port}"}:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "This server answers to its own address only.\n")
            return
        address = urlsplit(self.path)
        asked = parse_qs(address.query)
        try:
            kind, text = self._answer(address.path, asked)
        except _AbsentError:
            self._send(HTTPStatus.NOT_FOUND, "text/html", _error_page("There is no such page or run here.", []))
        except LtmEvalError as error:
            command = ["ltm-eval compare", *asked.get("run", [])] if address.path == "/compare" else []
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, "text/html", _error_page(str(error), command))
        else:
            self._send(HTTPStatus.OK, kind, text)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _answer(self, path: str, asked: dict[str, list[str]]) -> tuple[str, str]:
        """Return kind and text of the answer.

        Raises:
            _AbsentError: there is no such page, or no such run.
            LtmEvalError: the page cannot be made.
        """
        if path == "/":
            return "text/html", _runs_page(self.server)
        if path == "/progress":
            return "application/json", json.dumps(self.server.progress(self.server.folder))
        runs = self.server.runs()
        if path == "/run":
            data = page.build([read_run(_named(runs, asked, "run").run.path)])
            return "text/html", page.render(data)
        if path == "/page":
            known = {
                place.relative_to(self.server.folder).as_posix(): place for one in runs.values() for place in one.pages
            }
            return "text/html", _named(known, asked, "file").read_text("utf-8")
        if path == "/compare":
            chosen = [str(_named(runs, {"run": [name]}, "run").run.path) for name in asked.get("run", [])]
            if len(chosen) < 2:
                raise UsageError(
                    f"two or more runs are needed for a comparison, got {len(chosen)}; tick them in the list"
                )
            mismatch = asked.get("allow_mismatch") == ["1"]
            return "text/html", as_html(comparison.document(compare_paths(chosen, allow_mismatch=mismatch)))
        raise _AbsentError

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in {
            **HEADERS,
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing: the terminal shows the address only."""


def _runs_page(server: Viewer) -> str:
    runs = server.runs()
    rows = [
        {
            "name": name,
            "label": one.label,
            "kind": one.run.model_kind,
            "date": one.run.date_id.partition(".")[0].replace("T", " "),
            "digest": digest_of(one.run)[:12],
            "settings": settings_of(one.run),
            "figures": [
                (task, metric_text(figure), value_cell(figure))
                for task, figure in {figure.task: figure for figure in reversed(one.figures)}.items()
            ][::-1],
            "warnings": warnings_of(one.run),
            "status": one.run.extra.status,
            "pages": [
                (place.name, "/page?file=" + quote(place.relative_to(server.folder).as_posix(), safe=""))
                for place in one.pages
            ],
            "href": "/run?run=" + quote(name, safe=""),
        }
        for name, one in runs.items()
    ]
    made = assets("report.css", "document", "view.js")
    rule = policy(style=made["style"], script=made["script"]).replace("form-action 'none'", "form-action 'self'")
    made["policy"] = f"{rule}; connect-src 'self'"
    return (
        environment()
        .get_template("view.html.jinja2")
        .render(
            folder=str(server.folder.resolve()),
            rows=rows,
            unreadable=[] if server._read[1] is None else server._read[1].unreadable,
            progress=server.progress(server.folder),
            whole=lambda text: markup(html.escape(text)),  # a name that comes back in a request must not be cut
            **made,
        )
    )


def _error_page(line: str, command: list[str]) -> str:
    return (
        environment()
        .get_template("view_error.html.jinja2")
        .render(line=line, command=command, **assets("report.css", "document"))
    )
