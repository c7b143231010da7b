"""The report tells the story of a release on one page, to anyone, and runs nobody else's script."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer

import browser
import pytest
from made_rows import BROKEN, changed, healthy, released, run

from corrigenda.config import Gates
from corrigenda.storage.objects.local import LocalStore
from corrigenda.validation.charts import HEIGHT, WIDTH, layer_chart, line_chart, margin_chart
from corrigenda.validation.gates import verdict
from corrigenda.validation.report import Subject, render
from corrigenda.validation.results import append, connect

ATTACK = (
    "</bdi></script></style></title><script>document.title='pwned'</script>"
    "<img src='URL/i' onerror=\"pwned=1\">"
    "<link rel=stylesheet href='URL/c'><iframe src='URL/f'></iframe><svg onload='pwned=1'>"
    "\" onmouseover='pwned=1' {{ 7 * 7 }} {% raw %} \u202e &lt; javascript:pwned=1 \x00\x07"
)
LAYERS = {
    "method": "lga", "scores": [0.1, 2.0, -1.5, 0.4], "kept": [True, True, False, True], "pick": 1,
    "pick_share": 0.98, "warnings": ["few facts"],
}  # fmt: skip


@pytest.fixture
def hostile_server():
    """Anything that the page fetches ends here."""
    hits = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", hits
    server.shutdown()
    server.server_close()


def page_of(tmp_path, attack="plain"):
    """The report of release 3: c003 has stopped working, c001 lost its neighbours, both speak `attack`."""
    store = LocalStore.open(tmp_path / "store", create=True)
    for number in (1, 2, 3):
        rows = healthy(12)
        if number == 3:
            rows = changed(rows, "rewrite", "c003", pass_after=False, says_after=attack)
            rows = changed(rows, "locality", "c001", **BROKEN | {"says_after": attack})
        for name in ("c001", "c003"):
            rows = changed(rows, "rewrite", name, prompt=f"{name} {attack}", subject=attack, expected=attack)
        append(store, run(number, rows=rows))
    sent_out = {"correction_id": "c099", "prompt": attack, "target_new": attack, "state": "quarantined"}
    sent_out |= {"came_back": [{"prompt": attack, "expected": attack}]}
    subject = Subject(
        "m", 3, "2026-01-04T03:00:00+00:00", 1, verdict(run(3, rows=rows), Gates()).as_json(),
        LAYERS | {"warnings": [attack]}, [sent_out | {"reason": attack}], {"base": attack},
    )  # fmt: skip
    with connect(store, released(1, 2, 3)) as connection:
        return render(connection, subject)


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("<body>")[2]))


def test_the_page_shows_what_people_ask_for(tmp_path):
    page = page_of(tmp_path)
    text = text_of(page)
    for part in ("Not all gates passed", "c003 plain", "Layer 1 was picked by lga", "98.0 %"):
        assert part in text
    for section in ("gates", "regressions", "corrections", "layers", "distributions", "drift", "quarantined",
                    "failing", "provenance"):  # fmt: skip
        assert f'<section id="{section}">' in page


def test_a_base_release_has_a_page_as_well(tmp_path):
    store = LocalStore.open(tmp_path / "store", create=True)
    with connect(store) as connection:
        page = render(connection, Subject("m", 0, "2026-01-01T00:00:00+00:00"))
    assert "the base as it was registered" in page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_hostile_text_adds_no_tag_and_no_attribute(tmp_path):
    plain, hostile = Tags(), Tags()
    plain.feed(page_of(tmp_path / "a", "plain"))
    hostile.feed(page_of(tmp_path / "b", ATTACK.replace("URL", "http://x.invalid")))
    assert [(tag, sorted(attrs)) for tag, attrs in hostile.seen] == [(t, sorted(a)) for t, a in plain.seen]
    assert {attrs.get("href", "data:,") for _, attrs in hostile.seen} == {"data:,"}
    assert not any("src" in attrs for _, attrs in hostile.seen)


def test_the_page_is_the_same_each_time(tmp_path):
    assert page_of(tmp_path / "a") == page_of(tmp_path / "b")


def test_charts_stay_inside_their_box():
    nan = float("nan")
    charts = [
        layer_chart([1.0, -2.0, nan, 5.0], [True] * 4, 3),
        layer_chart([0.0], [True], 0),
        margin_chart("m", {-16: 3, 15: 1}, {0: 9}),
        line_chart("l", [(1, 0.5), (2, nan), (3, -0.25)]),
        line_chart("l", []),
    ]
    for chart in charts:
        assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH + 1e-6 for bar in chart.bars)
        assert all(bar.y >= 0 and bar.y + bar.height <= HEIGHT for bar in chart.bars)
        assert all(0 <= point.x <= WIDTH and 0 <= point.y <= HEIGHT for point in chart.points)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    binary = browser.find()
    if binary is None:
        pytest.skip("no Chromium: install one (Debian: apt-get install chromium) or set CORRIGENDA_CHROMIUM")
    with browser.browsing(binary, tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_a_browser_shows_it_without_a_word_or_a_request(tab, tmp_path, hostile_server):
    url, hits = hostile_server
    path = tmp_path / "report.html"
    path.write_text(page_of(tmp_path, ATTACK.replace("URL", url)), encoding="utf-8")
    tab.open(path)
    assert tab.evaluate("document.title") == "m, release 3"
    assert tab.evaluate("typeof pwned") == "undefined"
    tab.evaluate("new Promise(done => setTimeout(done, 300))")
    asked = [event["request"]["url"] for event in tab.of("Network.requestWillBeSent")]
    assert [address for address in asked if not address.startswith(("file:", "data:"))] == []
    assert hits == []
    assert tab.of("Runtime.consoleAPICalled") == []
    assert tab.of("Runtime.exceptionThrown") == []
    assert tab.of("Log.entryAdded") == []


def test_the_table_can_be_searched(tab, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page_of(tmp_path), encoding="utf-8")
    tab.open(path)
    shown = "[...document.querySelectorAll('#table-corrections tbody tr')].filter(r => r.offsetHeight).length"
    assert tab.evaluate(shown) == 12
    tab.evaluate(
        "f = document.getElementById('find-corrections'); f.value = 'C003 plain';"
        "f.dispatchEvent(new Event('input'))"
    )
    assert tab.evaluate(shown) == 1
    assert tab.evaluate("document.getElementById('table-corrections-found').textContent") == "1 of 12"


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_it_fits_a_phone(tab, tmp_path, width):
    path = tmp_path / "report.html"
    path.write_text(page_of(tmp_path, "a" * 300), encoding="utf-8")
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 800}
    tab.call("Emulation.setDeviceMetricsOverride", **metrics)
    tab.open(path)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('.scroll')].every(box => box.scrollWidth <= box.clientWidth)"
    assert tab.evaluate(wide)
