"""The page in a real browser."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from tests.dashboard.browser import Browser
from tests.dashboard.conftest import Client
from tests.dashboard.test_run import free_port
from worldflux.dashboard import GameplayBuffer, MetricBuffer

TEXT = "(id) => document.getElementById(id).textContent"
# Points of the training curve: it is drawn as one path, one command for each.
DRAWN = "(document.querySelector('#return-chart .line.train')?.getAttribute('d').match(/[ML]/g)??[]).length"
SHIFT = """window.shifted = 0; new PerformanceObserver(list => {
  for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({type: 'layout-shift', buffered: true})"""
CONTRAST = """(() => {
  const channel = c => { c /= 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
  const light = rgb => .2126 * channel(rgb[0]) + .7152 * channel(rgb[1]) + .0722 * channel(rgb[2]);
  const numbers = text => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith('color(') ? [...found.slice(0, 3).map(c => 255 * c), found[3] ?? 1] : found;
  };
  const behind = node => { for (; node; node = node.parentElement) {
    const rgb = numbers(getComputedStyle(node).backgroundColor); if (rgb.length < 4 || rgb[3] > .5) return rgb; } };
  const low = [];
  for (const node of document.querySelectorAll('h1,h2,p,dt,dd,small,button,label,figcaption span,output,footer,text')) {
    if (!node.textContent.trim() || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const front = light(numbers(node instanceof SVGElement ? style.fill : style.color));
    const back = light(behind(node instanceof SVGElement ? node.closest('div') : node));
    const ratio = (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
    if (ratio < 4.5) low.push(`${node.tagName} ${node.textContent.trim().slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return low;
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


def tell(metrics: MetricBuffer, first: int, last: int) -> None:
    for step in range(first, last):
        at = {"env_steps": 8 * step, "timestamp": 1e9 + step}
        metrics.append(step, {"episode/return": 5.0 + step, "episode/length": 5}, **at)
        metrics.append(step, {"train/loss/total": 9 / (step + 1), "train/loss/rew": 1.0}, **at)
        if step % 10 == 9:
            score = {
                "eval/return": 6.0 + step,
                "eval/return_low": step,
                "eval/return_high": 9 + step,
            }
            metrics.append(step, score, **at)


@pytest.fixture
def page(serve):
    metrics, gameplay = MetricBuffer(), GameplayBuffer(fps=20)
    server, _ = serve(metrics=metrics, gameplay=gameplay, refresh_ms=150)
    return metrics, gameplay, server


@contextmanager
def real_run(folder, browser, *words):
    """A training with its page open in the browser, killed at the end."""
    port = free_port()
    command = [sys.executable, "-m", "worldflux.cli.main", "dashboard=live", "model/size=ci"]
    command += [f"visualization.port={port}", "visualization.refresh_ms=200"]
    command += ["training.total_steps=100_000", "training.log_interval=2", "training.num_envs=2"]
    run = subprocess.Popen(
        [*command, f"hydra.run.dir={folder}/run", *words],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                Client(port).json("/api/summary")
                break
            except OSError:
                assert run.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        browser.open(f"http://127.0.0.1:{port}/")
        yield run
    finally:
        run.kill()
        run.wait()


@pytest.mark.slow
def test_the_curve_of_a_real_run_grows(browser, tmp_path):
    with real_run(tmp_path, browser, "training.eval_interval=100_000") as run:
        few = browser.until(DRAWN, 240)
        browser.until(f"{DRAWN} > {few} + 3", 240)
        if importlib.util.find_spec("pygame"):  # what draws CartPole
            frame = browser.until("Number(document.getElementById('gameplay').dataset.seq)", 240)
            browser.until(f"Number(document.getElementById('gameplay').dataset.seq) > {frame}", 240)
        browser.until("document.getElementById('status-text').textContent === 'Training'", 240)
        assert browser.value(f"({TEXT})('title')") == "CartPole-v1"
        os.kill(run.pid, signal.SIGKILL)
        browser.until(
            "document.getElementById('banner').textContent.includes('gone without a word')"
        )
        assert browser.value(f"({TEXT})('status-text')") == "Failed"
        assert browser.value(DRAWN) > few + 3, "what was seen stays"


@pytest.mark.slow(15)
def test_a_real_model_of_pictures_shows_its_imagination_beside_reality(browser, tmp_path):
    pytest.importorskip("pygame", reason="needs the extra render (pygame)")
    words = ["env=pixels", "env.id=CartPole-v1", "env.time_limit=20"]
    with real_run(tmp_path, browser, *words, "training.eval_interval=4"):
        browser.until("!document.getElementById('film').hidden", 240)
        assert browser.value("document.getElementById('imagination').height") == 3 * 64
        first = browser.value(f"({TEXT})('imagination-note')")
        browser.until(f"({TEXT})('imagination-note') !== {first!r}", 240)  # the next evaluation's
        shown = "document.getElementById('imagination')"
        colours = browser.value(
            f"new Set({shown}.getContext('2d').getImageData(0, 0, 64, 192).data).size"
        )
        assert colours > 20, "the film is empty"
        browser.screenshot(tmp_path / "imagination.png")


def test_everything_has_its_place_from_the_start(browser, page):
    metrics, gameplay, server = page
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(server.url)
    browser.until("document.getElementById('status-text').textContent === 'Starting'")
    browser.value(SHIFT)
    empty = [browser.value(f"({TEXT})('{name}')") for name in ("gameplay-empty", "losses-empty")]
    assert empty == ["No frames yet", "No update has been logged yet"]
    assert "No episode has ended yet" in browser.value("document.body.innerText")
    tell(metrics, 0, 30)
    metrics.set_target_steps(60)
    gameplay.append_frame(np.full((200, 300, 3), 90, np.uint8), episode=3, episode_step=7)
    film = np.random.default_rng(0).integers(0, 255, (5, 36, 48, 3), np.uint8)
    metrics.picture("report/openloop/image", film, step=20, env_steps=160)
    metrics.set_phase("training")
    browser.until(f"{DRAWN} >= 30")
    tell(metrics, 30, 40)
    browser.until(f"{DRAWN} >= 40")
    browser.until("!document.getElementById('film').hidden")
    assert browser.value("document.getElementById('imagination').height") == 36
    assert browser.value(f"({TEXT})('gameplay-note')") == "episode 4 · step 7"
    assert browser.value(f"({TEXT})('percent')") == "65"
    assert browser.value("document.querySelectorAll('#multiples figure').length") == 2
    assert browser.value("document.querySelectorAll('#return-chart .marks').length") == 4
    # The losses fill the end of the page; what was there before stays where it was.
    assert browser.value("window.shifted") < 0.05
    assert browser.complaints == []
    inside = ("data:", "blob:", "chrome:")
    asked = [url for url in browser.requests if not url.startswith(inside)]
    assert asked and all(url.startswith("http://127.0.0.1:") for url in asked)


def test_values_under_the_pointer_and_the_arrow_keys(browser, page):
    metrics, _, server = page
    tell(metrics, 0, 21)
    browser.open(server.url)
    browser.until(f"{DRAWN} >= 21")
    box = browser.value(
        "document.querySelector('#return-chart svg').getBoundingClientRect().toJSON()"
    )
    middle = {"x": box["left"] + box["width"] * 0.5, "y": box["top"] + box["height"] * 0.5}
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **middle)
    tip = browser.until("document.querySelector('#return-chart .tip').innerText")
    assert "environment steps" in tip and "evaluation" in tip and "(" in tip
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    browser.until("document.querySelector('#return-chart .tip').hidden")
    browser.value("document.querySelector('#return-chart svg').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    assert "evaluation" in browser.until("document.querySelector('#return-chart .tip').innerText")
    browser.value("document.querySelector('[data-x=step]').click()")
    browser.until("document.querySelector('#return-chart .axis-name').textContent === 'updates'")
    browser.value("localStorage.clear()")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_can_be_read_on_a_phone_and_a_desk_by_day_and_night(browser, page, theme, width):
    metrics, _, server = page
    metrics.set(env_id="ALE/Breakout-v5", model_name="size12m", model_type="dreamer", episodes=1)
    metrics.set(degraded_modes=["random_replay_fallback"])
    tell(metrics, 0, 30)
    browser.open(server.url, width, 844, theme)
    browser.until(f"{DRAWN} >= 30")
    browser.until("!document.getElementById('banner').hidden")
    assert browser.value(CONTRAST) == []
    assert browser.value("document.scrollingElement.scrollWidth") <= width
    dark = browser.value("getComputedStyle(document.documentElement).colorScheme") == "dark"
    assert dark == (theme == "dark")
    browser.value("document.getElementById('theme').click()")
    assert browser.value("getComputedStyle(document.documentElement).colorScheme") != theme
    browser.value("localStorage.clear()")


def test_a_server_that_is_gone_is_told(browser, page):
    metrics, _, server = page
    tell(metrics, 0, 5)
    browser.open(server.url)
    browser.until(f"{DRAWN} >= 5")
    server._process.kill()
    browser.until("document.getElementById('status-text').textContent === 'Not answering'")
    assert "has not answered" in browser.value(f"({TEXT})('banner')")
    assert browser.value(DRAWN) >= 5
