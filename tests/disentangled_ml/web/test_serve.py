"""A real server: what strangers send, killed in the middle, and the page in headless Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import soundfile
from servers import ARTISTS, CONDITIONS, HOSTILE_IDS, IDS, NEW, RATE, Made, Served, grow, make_catalogue, sound

from datamodules.triplet_lists.lists import read_triplets
from disentangled_ml.structures import AudioSettings
from disentangled_ml.web.listening.answer_file import read_answers

CHROMIUM = shutil.which("chromium")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return make_catalogue(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(made) -> Iterator[Served]:
    """Run one server for all tests that leave it as it is; at the end it must still be up."""
    server = Served(
        made, made.folder / "log", "max_upload_mb=1", f"listening_test={made.folder}/test", "decode_seconds=60"
    )
    yield server
    still_up = server.process.poll() is None
    server.end()
    assert still_up, server.said()


def ask(server: Served, path: str, content: dict | bytes | None = None, kind: str = "application/json", **headers: str):
    """Give the status and the JSON of an answer."""
    data = json.dumps(content).encode() if isinstance(content, dict) else content
    request = urllib.request.Request(server.address + path, data, {"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def talk(server: Served, *parts: bytes) -> bytes:
    """Send bytes as they are; give what comes back until the server closes, or has no more to say."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
        try:
            for part in parts:
                line.sendall(part)
        except OSError:  # it has hung up already
            pass
        line.settimeout(5)
        said = b""
        try:
            while part := line.recv(65_536):
                said += part
        except OSError:
            pass
    return said


def test_every_answer_is_of_one_state_while_the_index_is_replaced(tmp_path):
    """Rows and lines of all tracks move on by one, since the new track comes first."""
    made = make_catalogue(tmp_path / "catalogue")
    server, ended, answers = Served(made, tmp_path / "log"), threading.Event(), []

    def nearest(upload: str) -> tuple[str, str]:
        question = {"upload": upload, "weights": dict.fromkeys(CONDITIONS, 1.0), "k": 1, "fold_duplicates": False}
        _, answer = ask(server, "api/v1/similar", question)
        track = answer["results"][0]["track"]
        return track["id"], track["artist"]

    def upload(path: Path) -> str:
        return ask(server, "api/v1/upload", path.read_bytes(), "audio/wav")[1]["upload"]

    def keep_asking(name: str) -> None:
        while not ended.is_set():
            answers.append(nearest(name))

    try:
        asking = threading.Thread(target=keep_asking, args=(upload(made.folder / "audio/8.wav"),))
        asking.start()
        grow(made)
        assert nearest(upload(made.folder / "new.wav")) == (NEW, "New")
        ended.set()
        asking.join()
    finally:
        ended.set()
        server.end()
    assert answers
    assert set(answers) == {(IDS[8], ARTISTS[0])}


POST = b"POST /api/v1/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: audio/wav\r\n"


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ([b"\0\xff\xfe" * 100 + b"\r\n\r\n"], b"400 Bad Request"),
        ([b"GET / HTTP/9.9\r\n\r\n"], b"400 Bad Request"),
        ([b"GET / HTTP/1.1\r\n\r\n"], b"400 Bad Request"),
        ([b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"], b"421 "),
        ([b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"], b"400 Bad Request"),
        ([b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"], b"404 Not Found"),
        ([POST + b"Content-Length: -5\r\n\r\n"], b"400 Bad Request"),
        ([POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"], b"400 Bad Request"),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\nzzz\r\n"], b"HTTP/1.1 4"),
        ([POST + b"Content-Length: 99999999999\r\n\r\n"], b"413 "),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\n", *[b"10000\r\n" + b"x" * 65_536 + b"\r\n"] * 200], b"413 "),
        ([POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 10], b""),  # and gone
    ],
    ids=[
        *("binary", "unknown version", "no host", "foreign host", "huge header", "path traversal"),
        *("negative length", "two lengths", "broken chunk", "huge length", "endless", "cut off"),
    ],
)  # fmt: skip
def test_broken_requests(served, parts, answer):
    assert answer in talk(served, *parts)
    assert ask(served, "api/v1/catalogue")[0] == 200


def test_a_track_is_asked_for_by_any_id(served):
    for track_id in HOSTILE_IDS:
        assert ask(served, f"api/v1/tracks/{quote(track_id, safe='')}")[1]["id"] == track_id


def test_many_uploads_at_one_time(served, tmp_path):
    """Some are told to come again, none is lost without a word."""
    soundfile.write(tmp_path / "a.wav", sound(3), RATE)
    data, answers = (tmp_path / "a.wav").read_bytes(), []
    senders = [
        threading.Thread(target=lambda: answers.append(ask(served, "api/v1/upload", data, "audio/wav")))
        for _ in range(24)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert {status for status, _ in answers} == {200, 503}
    assert all("error" in content for status, content in answers if status == 503)
    assert ask(served, "api/v1/upload", data, "audio/wav")[0] == 200


def test_the_server_keeps_no_file_of_an_upload(served, tmp_path):
    soundfile.write(tmp_path / "a.wav", sound(3), RATE)
    for data in ((tmp_path / "a.wav").read_bytes(), b"no sound"):
        ask(served, "api/v1/upload", data, "audio/wav")
    opened = [os.readlink(link) for link in Path(f"/proc/{served.process.pid}/fd").iterdir() if link.is_symlink()]
    assert opened
    assert not [path for path in opened if path.startswith(tempfile.gettempdir()) and "deleted" in path]


def test_a_multipart_form_is_told_what_to_send(served):
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="../../../tmp/evil.wav"\r\n\r\nRIFF'
    status, content = ask(served, "api/v1/upload", body, "multipart/form-data; boundary=x")
    assert (status, "send the recording itself" in content["error"]) == (415, True)


def test_a_file_that_is_too_large_is_told_so_and_not_just_cut_off(served):
    """The sender writes all of it before it reads."""
    status, content = ask(served, "api/v1/upload", bytes(3_000_000), "audio/wav")
    assert (status, content["error"]) == (413, "this is too large: the most is 1,000,000 bytes")


def test_it_listens_on_this_machine_alone(served):
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    own = [
        line.split()[1] for line in lines if line.split()[1].endswith(f":{served.port:04X}") and line.split()[3] == "0A"
    ]
    assert own == [f"0100007F:{served.port:04X}"]


def test_it_ends_when_interrupted(made, tmp_path):
    server = Served(made, tmp_path / "log")
    assert ask(server, "api/v1/catalogue")[0] == 200
    assert server.end() == 0
    assert "Traceback" not in server.said()


def test_answers_survive_a_killed_server(made, tmp_path):
    """Every answer that a rater was told is saved is there after SIGKILL, whenever that comes."""
    folder, saved = tmp_path / "test", []

    def rate(server: Served, name: str, last: int) -> None:
        try:
            while True:
                _, turn = ask(server, f"api/listen/turn?rater={name}")
                answer = {"rater": name, "number": turn["number"], "chosen": "left"}
                if turn["number"] is None or ask(server, "api/listen/answer", answer)[0] != 200:
                    return
                saved.append((name, turn["number"]))
                if len(saved) == last:
                    server.process.kill()
        except (OSError, ValueError):
            return  # the server is gone

    for last in (10, 25):
        server = Served(made, tmp_path / "log", f"listening_test={folder}")
        raters = [threading.Thread(target=rate, args=(server, f"rater{i}", last)) for i in range(3)]
        for rater in raters:
            rater.start()
        for rater in raters:
            rater.join()
        server.kill()
    answers, damaged = read_answers(folder / "answers.jsonl")
    assert damaged == 0
    assert 25 <= len(saved) <= len(answers)
    assert len({(answer.rater, answer.question) for answer in answers}) == len(answers)  # none was asked for twice
    counts = {name: sum(rater == name for rater, _ in saved) for name, _ in saved}
    server = Served(made, tmp_path / "log", f"listening_test={folder}")
    for name, count in counts.items():
        assert ask(server, f"api/listen/turn?rater={name}")[1]["done"] >= count
    server.end()


# In the browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser):
    """Open a tab; at the end nothing in it may have failed, been blocked, or been fetched from elsewhere."""
    page = browser.new_context().new_page()
    page.set_default_timeout(60_000)
    page.failures, page.others = [], []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.failures.append(message.text))
    page.on("request", lambda request: page.others.append(request.url))
    yield page
    assert not page.failures
    assert page.evaluate("window.hacked") is None
    assert all(url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:")) for url in page.others)
    page.context.close()


def opened(tab, served: Served, question: str = "", *parts: str) -> None:
    """Open the page with a question, and parts of it unfolded."""
    tab.goto(f"{served.address}#{question}")
    tab.wait_for_function("() => document.getElementById('size').textContent")
    for part in parts:
        tab.locator(f"#{part} > summary").click()


def names(tab) -> list[str]:
    return tab.locator("#results > li > div > .names > .name").all_inner_texts()


def chips(tab, place: str) -> list[str]:
    return tab.locator(f"#chips-{place} .name").all_inner_texts()


def settled(tab) -> None:
    tab.wait_for_function("() => !document.getElementById('found').classList.contains('busy')")


def move(tab, slider: str, value: float) -> None:
    """Move a slider, and wait for the answer."""
    with tab.expect_response("**/api/v1/compose"):
        tab.get_by_label(slider, exact=True).fill(str(value))
    settled(tab)


def add(tab, text: str) -> None:
    """Find a track by typing, and wait for the answer."""
    tab.locator("#find").fill(text)
    tab.locator("#suggestions li").first.click()
    tab.wait_for_selector("#results > li")
    settled(tab)


def fits(tab) -> bool:
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@in_browser
def test_an_upload_is_answered_and_sliders_change_the_order(served, tab, tmp_path):
    name = "<img src=x onerror=window.hacked=1>.wav"
    soundfile.write(tmp_path / "upload.wav", sound(7), RATE)
    opened(tab, served, "unfolded=1", "parts")
    upload = {"name": name, "mimeType": "audio/wav", "buffer": (tmp_path / "upload.wav").read_bytes()}
    tab.set_input_files("#upload", upload)
    tab.wait_for_selector("#results > li")
    assert chips(tab, "like") == [name]
    assert tab.locator("#upload-notes").inner_text() == f"{name}: 2 s"
    before = names(tab)
    assert len(before) == 10
    assert before[0] == IDS[7]  # the same recording
    for slider in ("genre", "mood"):
        move(tab, slider, 0)
    assert names(tab) != before
    move(tab, "tempo", 0)
    assert tab.locator("#error").inner_text().startswith("All weights are zero")
    move(tab, "genre", 0.5)
    assert len(names(tab)) == 10
    assert not tab.locator("#error").is_visible()
    tab.get_by_role("button", name=f"Play {name}").click()
    tab.wait_for_function("() => Math.abs(document.getElementById('preview').duration - 2) < 0.1")
    tab.failures[:] = [failure for failure in tab.failures if "400" not in failure]  # the refused question


@in_browser
def test_what_cannot_be_used_is_said_on_the_page(served, tab):
    opened(tab, served)
    for content, said in ((b"no sound at all", "cannot be used"), (b"", "empty"), (b"x" * 1_000_001, "too large")):
        tab.set_input_files("#upload", {"name": "a.wav", "mimeType": "audio/wav", "buffer": content})
        tab.wait_for_function(f"() => document.getElementById('error').textContent.includes('{said}')")
    tab.failures[:] = [failure for failure in tab.failures if "422" not in failure]


@in_browser
def test_hostile_names_are_text_on_the_page(served, tab):
    opened(tab, served)
    for track_id in HOSTILE_IDS:
        add(tab, track_id[:60])
        tab.wait_for_function(
            "id => [...document.querySelectorAll('#chips-like .name')].at(-1).textContent === id", arg=track_id
        )
        assert fits(tab)
    tab.get_by_role("button", name="Show more").click()
    tab.wait_for_function(f"() => document.querySelectorAll('#results > li').length === {len(IDS) - len(HOSTILE_IDS)}")
    assert set(names(tab)) == set(IDS) - set(HOSTILE_IDS)
    text = tab.locator("#results").inner_text()
    assert all(artist in text for artist in ARTISTS)
    markup = "b, i, img, script"
    assert tab.locator("#results").locator(markup).count() == tab.locator("#seeds").locator(markup).count() == 0


def tab_to(tab, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(80):
        if tab.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        tab.keyboard.press("Tab")
    raise AssertionError(f"{selector} is not reached")


@in_browser
def test_the_page_is_used_by_keyboard_alone(served, tab):
    opened(tab, served)
    tab.keyboard.press("Tab")  # the link to the results
    tab_to(tab, "#find")
    tab.keyboard.type("t4")
    tab.wait_for_selector("#suggestions li")
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#suggestions [aria-selected=true]").inner_text().startswith("t4")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#results > li")
    tab_to(tab, "[data-chip='0']")
    tab.keyboard.press("ArrowDown")  # like its genre
    tab.wait_for_selector("#chips-0 li")
    assert tab.evaluate("document.activeElement.dataset.chip") == "0"
    tab.keyboard.press("ArrowUp")
    tab.wait_for_selector("#chips-like li")
    settled(tab)
    before = names(tab)
    tab_to(tab, "#weight-0")
    with tab.expect_response("**/api/v1/compose"):
        tab.keyboard.press("Home")
    settled(tab)
    assert tab.locator("#weight-0").input_value() == "0"
    assert names(tab) != before
    tab_to(tab, "#tab-similar")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.id") == "tab-path"
    assert tab.locator("#status").inner_text().startswith("Find two tracks")
    unnamed = "e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())"
    controls = tab.locator("input, select, button, audio:not([hidden])")
    assert not controls.evaluate_all(f"all => all.filter({unnamed}).map(e => e.outerHTML)")


@in_browser
def test_a_question_is_composed_of_chips_shared_and_gone_back_to(served, tab):
    tab.set_viewport_size({"width": 360, "height": 740})
    opened(tab, served, "like=t1&like=t2&like=t3", "parts")
    tab.wait_for_selector("#results > li")
    with tab.expect_response("**/api/v1/compose"):
        tab.get_by_label("How t2 counts").select_option("like its mood")
    tab.get_by_label("How t3 counts").select_option("avoid")
    with tab.expect_response("**/api/v1/compose"):
        tab.get_by_label("Label for genre instead").select_option("jazz")
    assert fits(tab)
    with tab.expect_request("**/api/v1/compose") as asked:
        tab.locator("#filters > summary").click()
        tab.get_by_label("Relative tempo").select_option("slower (5 to 15 %)")
    assert tab.get_by_text("Half and double tempi count too.").is_visible()
    content = asked.value.post_data_json
    assert (content["seeds"], content["seeds_of"], content["avoid"]) == (["t1"], {"mood": ["t2"]}, ["t3"])
    assert (content["labels"], content["tempo_change"]) == ({"genre": "jazz"}, [-0.15, -0.05])
    settled(tab)
    assert fits(tab)
    found, address = names(tab), tab.evaluate("location.href")
    assert found
    tab.reload()
    tab.wait_for_selector("#results > li")
    assert (names(tab), tab.evaluate("location.href")) == (found, address)
    assert (chips(tab, "like"), chips(tab, "1"), chips(tab, "avoid")) == (["t1"], ["t2"], ["t3"])
    tab.get_by_role("button", name="Remove t3").click()
    tab.wait_for_function("() => !location.href.includes('avoid')")
    tab.go_back()
    tab.wait_for_selector("#chips-avoid li")
    settled(tab)
    assert names(tab) == found


@in_browser
def test_a_chip_is_dragged_to_a_condition(served, tab):
    opened(tab, served, "like=t1&like=t2", "parts")
    tab.wait_for_selector("#results > li")
    tab.drag_and_drop("#chips-like li:nth-child(2) .name", "#sliders .part:nth-child(2) label")
    tab.wait_for_selector("#chips-1 li")
    assert (chips(tab, "like"), chips(tab, "1")) == (["t1"], ["t2"])
    tab.drag_and_drop("#chips-1 li .name", "#chips-avoid")
    tab.wait_for_selector("#chips-avoid li")


@in_browser
def test_a_path_is_shown_and_saved_as_a_playlist(served, made, tab, tmp_path):
    opened(tab, served, "like=t1&like=t2")
    tab.wait_for_selector("#results > li")
    tab.get_by_role("tab", name="Path").click()
    tab.get_by_label("steps").fill("3")
    tab.get_by_label("steps").blur()
    tab.wait_for_function("() => /^3 steps|too few/i.test(document.getElementById('status').textContent)")
    way = names(tab)
    assert (len(way), way[0], way[-1]) == (4, "t1", "t2")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="playlist").click()
    assert download.value.suggested_filename == "playlist.m3u8"
    download.value.save_as(tmp_path / "list.m3u8")
    paths = listed_in(tmp_path / "list.m3u8")
    assert [path.stem for path in paths] == [str(IDS.index(name)) for name in way]
    assert all(path.is_file() for path in paths)


def listed_in(playlist: Path) -> list[Path]:
    """Return the recordings of a playlist."""
    return [Path(line) for line in playlist.read_text().splitlines() if not line.startswith("#")]


def luminance(tab, selector: str, name: str) -> float:
    """Return the relative luminance of a colour of an element, as WCAG 2 defines it, plus 0.05."""
    text = tab.locator(selector).first.evaluate("(element, name) => getComputedStyle(element)[name]", name)
    parts = [int(part) / 255 for part in re.findall(r"\d+", text)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05


def contrast(tab, *colours: tuple[str, str]) -> float:
    pair = [luminance(tab, *colour) for colour in colours]
    return max(pair) / min(pair)


@in_browser
def test_a_path_is_a_line_on_the_map_until_something_else_is_asked(served, tab):
    opened(tab, served, "like=t1&like=t2&view=path&steps=3")
    tab.wait_for_selector("#results > li")
    tab_to(tab, "#to-map")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#map .way")
    assert tab.evaluate("document.activeElement.matches('#mapping > summary')")
    assert tab.locator("#map .way").get_attribute("aria-hidden") == "true"
    assert tab.locator("#map .way text").all_text_contents() == ["0", "1", "2", "3"]
    assert tab.locator("#map .way .end text").all_text_contents() == ["0", "3"]
    dots = tab.locator("#map > circle").evaluate_all(
        "all => all.map(dot => [dot.textContent, `${Number(dot.getAttribute('cx'))} ${Number(dot.getAttribute('cy'))}`])"
    )
    places = {text.split(" · ")[0]: place for text, place in dots}
    assert tab.locator("#map .way .line").get_attribute("d") == "M" + "L".join(places[name] for name in names(tab))
    assert not tab.locator("#map-note").inner_text()
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        assert contrast(tab, ("#map .way .line", "stroke"), ("#map", "backgroundColor")) > 7
        for mark in ("#map .way .end", "#map .way g:not(.end)"):
            assert contrast(tab, (f"{mark} > text", "fill"), (f"{mark} > rect", "fill")) > 7
    before = tab.locator("#map .way .line").get_attribute("d")
    tab.get_by_label("Map by").select_option("tempo")
    tab.wait_for_function("d => (document.querySelector('#map .way .line')?.getAttribute('d') ?? d) !== d", arg=before)
    tab.get_by_role("tab", name="Similar").click()
    tab.wait_for_function("() => !document.querySelector('#map .way')")
    assert not tab.locator("#to-map").is_visible()


@in_browser
def test_marks_of_a_path_do_not_hide_each_other(served, tab):
    opened(tab, served)
    boxes = """async points => {
      const way = (await import('./static/way.js')).drawWay(points), of = (box, name) => Number(box.getAttribute(name));
      const all = [...way.querySelectorAll('rect')].map(box => ['x', 'y', 'width', 'height'].map(name => of(box, name)));
      return [all, [...way.querySelectorAll('text')].map(text => text.textContent)];
    }"""
    near = [{"x": 490 - place, "y": 6 + place % 3} for place in (0, 1, 1, 1, 2, 3, 4, 3)]
    found, texts = tab.evaluate(boxes, near)
    assert texts == ["0", "1\u20133", "4", "5,7", "6"]
    for i, (x, y, wide, high) in enumerate(found):
        assert min(x, y) >= 0
        assert x + wide <= 500
        for x2, y2, wide2, high2 in found[:i]:
            assert max(x, x2) > min(x + wide, x2 + wide2) - 3 or max(y, y2) > min(y + high, y2 + high2) - 3
    long = [{"x": 10 + 4 * place, "y": 200} for place in range(101)]
    _, texts = tab.evaluate(boxes, long)
    assert (texts[0], texts[-1], len(texts)) == ("0", "100", 13)


@in_browser
def test_a_path_begins_at_an_upload(served, made, tab, tmp_path):
    number = IDS.index("t3")
    opened(tab, served, "steps=2", "mapping")
    tab.set_input_files("#upload", next((made.folder / "audio").glob(f"{number}.*")))
    tab.wait_for_selector("#chips-like li")
    add(tab, "t2")
    tab.get_by_role("tab", name="Path").click()
    tab.wait_for_function("() => document.getElementById('status').textContent.startsWith('2 steps')")
    settled(tab)
    way = names(tab)
    assert (way[0].startswith(f"{number}."), way[-1], len(way), "t3" in way) == (True, "t2", 3, False)
    assert tab.locator("#from option:checked").inner_text() == way[0]
    tab.wait_for_selector("#map .way")
    assert (
        tab.locator("#map-note").inner_text()
        == "Not on the map: 1 of the path's 3 recordings; the nearest dot stands in."
    )
    player = tab.locator("#results audio").first
    player.evaluate("audio => audio.play()")
    assert player.evaluate("audio => audio.duration") == pytest.approx(2, abs=0.2)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="playlist").click()
    download.value.save_as(tmp_path / "list.m3u8")
    assert [path.stem for path in listed_in(tmp_path / "list.m3u8")] == [str(IDS.index(name)) for name in way[1:]]
    tab.reload()
    tab.wait_for_selector("#results > li")
    assert names(tab) == ["Your upload", *way[1:]]
    assert tab.locator("#from option:checked").inner_text() == "Your upload"


@in_browser
def test_duplicates_are_folded_and_unfold(served, tab, made):
    opened(tab, served)
    tab.set_input_files("#upload", made.folder / f"audio/{IDS.index('t1')}.wav")
    tab.wait_for_selector("#results > li")
    assert "t1" not in names(tab)
    assert not tab.get_by_text("the same recording").is_visible()
    assert tab.locator("#seed-duplicates summary").inner_text() == "1 track left out: the same as a chosen one"
    tab.locator("#seed-duplicates summary").click()
    assert tab.locator("#seed-duplicates li .name").all_inner_texts() == ["t1"]
    assert tab.get_by_text("the same recording").is_visible()


@in_browser
def test_no_line_of_labels_is_cut_in_half(served, tab):
    opened(tab, served, "like=t1")
    tab.wait_for_selector("#results > li")
    found = tab.locator("#results .tags").first.evaluate("""tags => {
        tags.style.width = "6rem";
        const label = Object.assign(document.createElement("span"), { textContent: "label" });
        tags.replaceChildren(...Array.from({ length: 20 }, () => label.cloneNode(true)));
        const end = tags.getBoundingClientRect().bottom, lines = [...tags.children].map((each) => each.getBoundingClientRect());
        return [lines.at(-1).top > end, lines.filter((line) => line.top < end - 1 && line.bottom > end + 1).length];
    }""")
    assert found == [True, 0]


@in_browser
def test_the_map_is_clicked_and_marked_and_results_sound(served, tab):
    opened(tab, served, "", "mapping")
    tab.wait_for_selector("#map circle")
    assert tab.locator("#map circle").count() == len(IDS)
    tab.locator("#map circle").nth(3).dispatch_event("click")
    tab.wait_for_selector("#results > li")
    assert tab.locator("#map circle.query").count() == 1
    assert tab.locator("#map circle.result").count() == 10
    first = tab.locator("#results audio").first
    first.evaluate("audio => audio.play()")
    assert first.evaluate("audio => audio.duration") == pytest.approx(2, abs=0.2)
    second = tab.locator("#results audio").nth(1)
    second.evaluate("audio => audio.play()")
    assert first.evaluate("audio => audio.paused")
    with tab.expect_response("**/api/v1/map*"):
        tab.get_by_label("Map by").select_option("tempo")
    tab.wait_for_selector("#legend svg.scale")
    tab.set_viewport_size({"width": 340, "height": 700})
    assert fits(tab)


def listen_to_all(tab) -> None:
    for player in ("reference", "left", "right"):
        tab.locator(f"#{player}").evaluate("audio => audio.play()")
    tab.wait_for_selector("#choose-left[aria-disabled=false]")


@in_browser
def test_a_listening_test_survives_a_killed_server(made, tab, tmp_path):
    folder, rater = tmp_path / "test", "<b onclick=window.hacked=1>Ann</b>"
    given = (f"listening_test={folder}", "listening_questions=1", "token=correct-horse-battery")
    server = Served(made, tmp_path / "log", *given)
    assert ask(server, "api/v1/health")[0] == 401
    tab.goto(server.address + "listen#token=correct-horse-battery")
    tab.get_by_label("Your name").fill(rater)
    tab.get_by_role("button", name="Begin").click()
    tab.wait_for_function("() => document.getElementById('count').textContent.startsWith('0 of 4 answered, as <b')")
    tab.locator("#choose-left").click(force=True)  # before all was heard
    assert "Listen to all three first" in tab.locator("#hint").inner_text()
    for done in (1, 2):
        listen_to_all(tab)
        tab.locator("#choose-left").click()
        tab.wait_for_function(f"() => document.getElementById('count').textContent.startsWith('{done} of 4')")
    server.kill()
    tab.get_by_role("button", name="I cannot tell").click()
    tab.wait_for_function("() => document.getElementById('error').textContent.includes('does not answer')")
    assert len(read_answers(folder / "answers.jsonl")[0]) == 2

    server = Served(made, tmp_path / "log", *given, f"port={server.port}")
    tab.get_by_role("button", name="I cannot tell").click()  # the same page goes on
    tab.wait_for_function("() => document.getElementById('count').textContent.startsWith('3 of 4')")
    tab.reload()  # and so does a new one
    tab.wait_for_function("() => document.getElementById('count').textContent.startsWith('3 of 4')")
    listen_to_all(tab)
    tab.locator("#choose-right").click()
    tab.wait_for_selector("#end:not([hidden])")
    assert tab.locator("#thanks").inner_text().startswith(f"Thank you, {rater}. All 4")
    tab.locator("#back-end").click()
    tab.wait_for_function("() => document.getElementById('hint').textContent === 'Your answer so far: B.'")
    tab.locator("#choose-left").click()
    tab.wait_for_selector("#end:not([hidden])")
    tab.locator("#organiser summary").click()
    tab.wait_for_selector("#figures td")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download the majority's triplets").click()
    download.value.save_as(tmp_path / "judged.csv")
    server.end()
    answers, damaged = read_answers(folder / "answers.jsonl")
    assert ([answer.rater for answer in answers], damaged) == ([rater] * 5, 0)  # one of them corrects another
    assert len(read_triplets(tmp_path / "judged.csv", AudioSettings(n_mels=16))) == 3
    tab.failures[:] = [failure for failure in tab.failures if "ERR_CONNECTION_REFUSED" not in failure]
