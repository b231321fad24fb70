"""The page in headless Chromium: plots hold data, keys and clicks work, and a hostile response stays text."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sample_facts import HOSTILE_ID, Reader, build, everywhere, hostile, nothing_ran, nothing_scored, one_candidate

from pairwright.report.facts import Facts
from pairwright.report.page import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROME = next(filter(None, map(shutil.which, BROWSERS)), None)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
    "--dump-dom",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROME is None, reason=f"needs a browser on PATH: one of {', '.join(BROWSERS)}"),
]

Opener = Callable[..., str]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens HTML text as a file and returns the DOM that came of it."""

    def open_page(text: str, *, fragment: str = "", width: int = 1400) -> str:
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        options = [*QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"]
        ran = subprocess.run(
            [CHROME, *options, f"{path.as_uri()}{fragment}"], capture_output=True, timeout=60, check=True
        )
        return ran.stdout.decode()

    return open_page


def probed(text: str, script: str) -> str:
    """The page without its policy and with a last script, whose result lands in data-probe of the root element."""
    without = re.sub("<meta http-equiv=.*?>", "", text, count=1)
    assert without != text
    failed = "addEventListener('error', (e) => { document.documentElement.dataset.failed = e.message; });"
    save = f"document.documentElement.dataset.probe = JSON.stringify((() => {{ {script} }})());"
    without = without.replace("<script>", f"<script>{failed}</script><script>", 1)
    return without.replace("</body>", f"<script>{save}</script></body>")


def result(dom: str) -> object:
    root = Reader(dom).inside("html")[0]
    assert "data-failed" not in root, root["data-failed"]
    return json.loads(root["data-probe"])


def dots(dom: str) -> list[dict[str, str]]:
    return [told for told in Reader(dom).inside("circle") if told["class"].split()[0] == "dot"]


def n_scored(facts: Facts, i: int) -> int:
    return sum(candidate["score"] is not None for candidate in facts["prompts"][i]["candidates"])


@contextmanager
def listener() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that writes down who asks."""
    asked: list[str] = []

    class Note(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Note)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestPlots:
    def test_every_scored_candidate_is_a_dot_and_every_count_a_bar(self, opened: Opener):
        facts = build()
        dom = opened(page(facts))
        bars = [int(told["data-count"]) for told in Reader(dom).inside("rect", **{"class": "bin"})]
        assert Reader(dom).inside("html")[0]["data-ready"] == "yes"
        assert len(dots(dom)) == n_scored(facts, 0) == 15
        assert bars == [
            *facts["raters"][0]["counts"],
            *facts["raters"][1]["counts"],
            *facts["pairs"]["margin"]["counts"],
        ]

    def test_dots_stand_in_the_order_of_their_scores_and_inside_the_drawing(self, opened: Opener):
        dom = opened(page(build()), fragment="#prompt=1111111111111111")
        x = [float(told["cx"]) for told in dots(dom)]
        assert len(x) == 14
        assert x == sorted(x)
        width = float(Reader(dom).inside("svg", **{"class": "strip"})[0]["viewbox"].split()[2])
        assert 0 < x[0] < x[-1] < width

    def test_levels_and_picks_are_labelled(self, opened: Opener):
        said = Reader(opened(page(build()), fragment=f"#prompt={HOSTILE_ID}")).text["svg"]
        for label in (
            "mean 0.",
            "−1σ 0.",
            "−2σ 0.",
            "min 0.",
            "max 0.",
            "chosen: max",
            "rejected: mu-2sigma",
            "rejected: min",
        ):
            assert label in said


class TestReading:
    def test_keys_and_clicks_show_the_text_of_a_dot(self, opened: Opener):
        script = """
          const all = [...document.querySelectorAll(".dot")];
          const said = () => document.querySelector("#reading .text").textContent;
          const down = (key) => new KeyboardEvent("keydown", { key, bubbles: true });
          const press = (key) => document.activeElement.dispatchEvent(down(key));
          all[0].focus(); const first = said();
          press("ArrowRight"); const second = said();
          press("End"); const last = said();
          all[3].dispatchEvent(new MouseEvent("click", { bubbles: true })); const clicked = said();
          const marked = all.map((dot) => dot.getAttribute("aria-selected")).indexOf("true");
          return { told: [first, second, last, clicked].map((t) => t.match(/\\[(\\d+)\\]/)[1]), marked };
        """
        facts = build()
        order = sorted((c["score"], c["id"]) for c in facts["prompts"][0]["candidates"] if c["score"] is not None)
        told = result(opened(probed(page(facts), script)))
        assert told == {"told": [str(int(order[i][1])) for i in (0, 1, -1, 3)], "marked": 3}

    def test_search_previous_and_next_move_among_the_matches(self, opened: Opener):
        script = """
          const $ = (id) => document.getElementById(id), where = () => [$("position").textContent, $("choice").value];
          const type = (words) => { $("search").value = words; $("search").dispatchEvent(new Event("input")); };
          const seen = [where()];
          $("next").click(); seen.push(where());
          type("LIGHTHOUSE poem"); seen.push(where());
          type("zero_variance"); seen.push(where());
          type("no such words"); seen.push(where());
          type(""); $("previous").click(); seen.push(where());
          return { seen, hash: location.hash };
        """
        told = result(opened(probed(page(build()), script)))
        assert told["seen"] == [
            ["1 of 5", "0"],
            ["2 of 5", "1"],
            ["1 of 1, 5 in all", "1"],
            ["1 of 1, 5 in all", "3"],
            ["no prompt matches", ""],
            ["3 of 5", "2"],
        ]
        assert told["hash"] == "#prompt=2222222222222222"

    @pytest.mark.parametrize("width", [360, 800])
    def test_no_page_scrolls_sideways(self, opened: Opener, width: int):
        """In a frame, for a headless window is at least 500 pixels wide."""
        facts = everywhere(build(), lambda text: f"{text}{'_' * 300}")
        script = """
          const frame = document.querySelector("iframe"), inner = frame.contentDocument, view = frame.contentWindow;
          for (const details of inner.querySelectorAll("details")) details.open = true;
          const free = (node) => !node.parentElement.closest(".scroll, .text, select, svg");
          const wide = [...inner.querySelectorAll("body *")]
            .filter((node) => free(node) && node.getBoundingClientRect().right > view.innerWidth + 0.5)
            .map((node) => node.outerHTML.slice(0, 90));
          const said = { ready: inner.documentElement.dataset.ready, window: view.innerWidth, wide };
          document.documentElement.dataset.probe =
            JSON.stringify({ ...said, page: inner.documentElement.scrollWidth - inner.documentElement.clientWidth });
        """
        frame = f'<iframe width="{width}" height="800" style="border:0" srcdoc="{html.escape(page(facts))}"></iframe>'
        told = result(opened(f"<!doctype html>{frame}<script>onload = () => {{ {script} }};</script>"))
        assert told == {"ready": "yes", "window": width, "wide": [], "page": 0}

    @pytest.mark.parametrize("without", [nothing_ran, nothing_scored, one_candidate], ids=lambda f: f.__name__)
    def test_missing_pieces_stop_no_script(self, opened: Opener, without):
        facts = build()
        without(facts)
        dom = opened(probed(page(facts), "return document.documentElement.dataset.ready;"), fragment="#prompt=%")
        assert result(dom) == "yes"
        assert len(dots(dom)) == (n_scored(facts, 0) if facts["prompts"] else 0)

    def test_a_prompt_without_spread_shows_all_its_dots(self, opened: Opener):
        dom = opened(page(build()), fragment="#prompt=3333333333333333")
        assert len(dots(dom)) == 16
        width = float(Reader(dom).inside("svg", **{"class": "strip"})[0]["viewbox"].split()[2])
        assert {float(told["cx"]) for told in dots(dom)} == {width / 2}
        assert len({float(told["cy"]) for told in dots(dom)}) == 16
        assert "sd is 0" in Reader(dom).text["main"]
        assert "No rule picked a candidate here (dropped: zero_variance)." in Reader(dom).text["main"]


class TestHostileText:
    def test_runs_nothing_and_asks_nobody(self, opened: Opener):
        with listener() as (address, asked):
            facts = everywhere(build(hostile(address)), lambda text: f"{text}{hostile(address)}")
            dom = opened(page(facts))
        found = Reader(dom)
        assert asked == []
        assert "data-owned" not in found.inside("html")[0]
        assert found.text["title"].startswith(facts["title"][:30])
        assert [tag for tag, _ in found.elements if tag in ("img", "iframe", "textarea")] == []
        assert len(found.inside("script")) == 2
        assert len(found.inside("style")) == 1

    def test_stays_there_to_be_read(self, opened: Opener):
        dom = opened(page(build()), fragment=f"#prompt={HOSTILE_ID}")
        texts = Reader(dom).text["p"]
        assert f"Say something in HTML. {hostile()}".replace("\0", "\ufffd") in texts.replace("\0", "\ufffd")
        assert len(dots(dom)) == 16
        assert f"<title>{build()['title']}</title>" in dom

    def test_would_have_run_and_asked_where_it_is_markup(self, opened: Opener):
        """The negative control: these tests can fail."""
        with listener() as (address, asked):
            dom = opened(f"<!doctype html><title>calm</title><body>{hostile(address)}")
        assert "/img" in asked
        assert 'data-owned="1"' in dom
        assert "<title>owned</title>" in dom

    def test_is_stopped_by_the_policy_even_as_markup(self, opened: Opener):
        with listener() as (address, asked):
            text = page(build()).replace("<main>", f"<main>{hostile(address)}", 1)
            dom = opened(text)
        assert "<iframe" in dom
        assert asked == []
        assert "<title>owned</title>" not in dom
        assert 'data-owned="1"' not in dom
