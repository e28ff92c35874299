"""The page of a path in a real browser: it draws, it steps, by keys and by address, in light and dark."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from netsim.observe.pathhtml import render_html
from netsim.observe.spread import Spread
from tests.unit.observe.test_path_json import make_path

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
TIMEOUT_S = 120
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        words = "browser: none of " + ", ".join(BROWSERS) + " is here (scripts/install-browser)"
        if {"browser", "all"} & set(os.environ.get("NETSIM_REQUIRE", "").split(",")):
            pytest.fail(words)
        pytest.skip(words)
    return found


def make_page(folder: Path, script: str = "") -> Path:
    spread = Spread()
    spread.add(replace(make_path(), answered_by="pod/default/web"))
    spread.add(replace(make_path(), hops=make_path().hops[:2], answered_by="pod/default/other"))
    catch = "<script>addEventListener('error', (e) => document.body.dataset.fault = e.message)</script>"
    page = folder / "way.html"
    after = f"<script>{script}</script></body>"
    page.write_text(render_html(spread).replace("<body>", f"<body>{catch}", 1).replace("</body>", after, 1))
    return page


def run_browser(browser: str, folder: Path, address: str, *options: str) -> str:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    done = subprocess.run(
        [*command, f"--user-data-dir={folder / 'profile'}", *options, address],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
        env={"HOME": str(folder), "PATH": os.environ["PATH"]},
    )
    return done.stdout


def open_page(browser: str, folder: Path, script: str = "", hash: str = "") -> str:
    """The document after the page's scripts have run."""
    page = make_page(folder, script)
    dom = run_browser(browser, folder, f"{page.as_uri()}{hash}", "--dump-dom")
    assert "data-fault" not in dom, dom[-3000:]
    return dom


def current_step(dom: str) -> str:
    found = re.search(r'<li [^>]*aria-current="step"[^>]*>([^<]*)', dom)
    assert found is not None, dom[-3000:]
    return found[1]


def test_it_draws_places_and_the_way(browser: str, tmp_path: Path) -> None:
    dom = open_page(browser, tmp_path)
    assert current_step(dom) == "leaves by eth0"
    assert "step 1 of 7" in dom
    assert len(re.findall(r'<rect [^>]*class="place ', dom)) == 2
    assert len(re.findall(r'<path class="way there', dom)) >= 1
    assert "dropped</b>at node/node-1: gone" in dom


def test_an_address_opens_a_step(browser: str, tmp_path: Path) -> None:
    dom = open_page(browser, tmp_path, hash="#step=2")
    assert current_step(dom).startswith("destination rewritten: 10.244.0.3:8080")
    assert re.search(r'class="mono changed">10\.244\.0\.3:8080', dom)


def test_keys_and_buttons_go_through_it(browser: str, tmp_path: Path) -> None:
    keys = "for (const key of {}) document.dispatchEvent(new KeyboardEvent('keydown', {{key, bubbles: true}}));"
    assert "step 3 of 7" in open_page(browser, tmp_path, keys.format("['ArrowRight', 'ArrowRight']"))
    dom = open_page(browser, tmp_path, keys.format("['End']"))
    assert current_step(dom) == "lost: gone"
    assert re.search(r'<path class="cross" d="M', dom)
    assert "next: look there" in dom
    assert "step 6 of 7" in open_page(browser, tmp_path, keys.format("['End', 'ArrowRight', 'ArrowLeft']"))
    dom = open_page(browser, tmp_path, "document.getElementById('following').click()")
    assert current_step(dom) == "prerouting: no rule"
    assert "ip nat PREROUTING" not in dom.partition('id="detail"')[2].partition("<script>")[0]
    everything = "document.getElementById('all').click(); document.getElementById('following').click()"
    dom = open_page(browser, tmp_path, everything)
    assert "ip nat PREROUTING" in dom.partition('id="detail"')[2].partition("<script>")[0]


def test_each_way_can_be_chosen(browser: str, tmp_path: Path) -> None:
    dom = open_page(browser, tmp_path, "document.querySelectorAll('#ways button')[1].click()")
    assert "step 1 of 2" in dom
    assert re.search(r'aria-pressed="true">1 of 2: pod/default/other<', dom)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_seen(browser: str, tmp_path: Path, scheme: str) -> None:
    """Not an empty picture: a page of one colour has a PNG of a few kilobytes."""
    picture = tmp_path / "page.png"
    page = make_page(tmp_path)
    if scheme == "dark":
        page.write_text(page.read_text().replace("prefers-color-scheme: dark", "prefers-color-scheme: light"))
    run_browser(browser, tmp_path, page.as_uri(), f"--screenshot={picture}", "--window-size=1200,900")
    data = picture.read_bytes()
    assert data.startswith(PNG_HEAD)
    assert len(data) > 20_000
