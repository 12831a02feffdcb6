"""The page of a report: what is in it, what it lets nobody do, and how it behaves in a browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import TINY, folder  # noqa: F401
from tests.dashboard.browser import Browser
from tests.dashboard.test_page import CONTRAST
from tests.report.runs import write_run
from worldflux.cli import report
from worldflux.cli.main import main
from worldflux.config.composition import Composition
from worldflux.report.chart_data import rounded, thinned
from worldflux.report.media import media_of
from worldflux.report.video import write_video
from worldflux.run_folder.manifest import read_manifest
from worldflux.runner.continuation import changes, saved_config
from worldflux.runner.repeat import repeating

EVIL = '</script><img src=x onerror="document.title=1"><!--&'


def line(start: float, slope: float) -> list[tuple[int, float]]:
    return [(x, start + slope * x) for x in range(0, 1001, 20)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families on two environments, with evil names, a video, and a file that is no picture."""
    top = tmp_path_factory.mktemp("page")
    runs = []
    for env in ("CartPole-v1", "Pendulum-v1"):
        for i, family in enumerate(("dreamer", "tdmpc2")):
            for seed in range(3):
                run = top / f"{env}-{family}-{seed}"
                notes = {"name": f"{family}{seed}{EVIL if seed == 2 else ''}", "notes": EVIL}
                points = line(10 * seed, 0.1 + 0.1 * i)
                runs.append(
                    write_run(
                        run,
                        points,
                        env=env,
                        family=family,
                        seed=seed,
                        run=notes,
                        error=EVIL if seed == 2 else None,
                        git_commit=EVIL,
                        model={"a": EVIL if i else 1},
                        versions={"torch": "2"},
                    )
                )
    write_video(runs[0] / "videos" / f"eval{'&'}.gif", np.zeros((3, 8, 8, 3), np.uint8))
    (runs[0] / "report").mkdir()
    (runs[0] / "report" / "evil.png").write_text("<script>alert(1)</script>")
    (runs[0] / "report" / "evil.svg").write_text("<svg/>")
    assert (
        report.main([*map(str, runs), "--html", "--threshold", "150", "--out", str(top / "out")])
        == 0
    )
    return top / "out" / "report.html"


def test_what_others_wrote_stays_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text and html.escape(EVIL) in text
    assert text.count("<script") == 2 and text.count("</script") == 2 and text.count("<style") == 1
    (data,) = re.findall(r'id="data">(.*?)</script>', text)
    assert "<" not in data
    names = {series["name"] for task in json.loads(data)["tasks"] for series in task["series"]}
    assert f"dreamer2{EVIL}" in names
    (policy,) = re.findall(r'Security-Policy" content="([^"]*)"', text)
    for kind, tag in (
        ("style", "<style>(.*?)</style>"),
        ("script", 'type="module">(.*?)</script>'),
    ):
        (content,) = re.findall(tag, text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    outside = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\((?!#)", outside)


def test_media_are_what_their_bytes_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'src="data:([a-z/]+);', text) == ["image/gif"]
    assert "videos/eval&amp;.gif" in text and "evil.png" not in text and "evil.svg" not in text


def test_what_is_too_large_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / "videos" / f"{name}.gif", np.zeros((2, 8, 8, 3), np.uint8))
    size = (tmp_path / "videos" / "a.gif").stat().st_size
    media, too_large = media_of(tmp_path, size + 1)
    assert [one.name for one in media] == ["videos/a.gif"] and too_large == ["videos/b.gif"]


def test_curves_are_thinned_and_rounded() -> None:
    points = np.column_stack([np.arange(1001.0), np.full(1001, np.pi)])
    few = thinned(points, 11)
    assert few[:, 0].tolist() == list(range(0, 1001, 100))
    assert rounded([[np.pi, np.nan]]) == [[3.14159, None]]


def test_a_run_leaves_its_page_and_the_command_that_repeats_it(folder: Path) -> None:  # noqa: F811
    words = [
        *TINY,
        "env=pendulum",
        "run.name='two words'",
        "hydra.run.dir=runs/a",
        "training.seed=3",
    ]
    assert main(words) == 0
    run = folder / "runs" / "a"
    left = (run / "report" / "report.html").read_text()
    assert "Repeats this run" in left and 'data-state="completed"' in left
    command = repeating(run)
    assert command is not None and command.startswith("worldflux-run ")
    assert "hydra.run.dir" not in command and "training.seed=3" in command
    again = Composition.of(None).check(shlex.split(command)[1:])
    assert changes(saved_config(run), again) == {}
    assert main([f"resume={run}", "training.total_steps=3"]) == 0
    command = str(repeating(run))
    assert command.count("training.total_steps") == 1 and "training.total_steps=3" in command
    again = Composition.of(None).check(shlex.split(command)[1:])
    assert changes(saved_config(run), again) == {}
    assert html.escape(command) in (run / "report" / "report.html").read_text()


def test_a_run_that_refers_to_the_environment_is_completed(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEPS", "2")
    words = [word for word in TINY if not word.startswith("training.total_steps")]
    assert main([*words, "training.total_steps=${oc.env:STEPS}", "hydra.run.dir=run"]) == 0
    manifest = read_manifest(Path("run"))
    assert (manifest["status"], manifest["global_step"]) == ("completed", 2)
    assert repeating(Path("run")) is None
    page = (folder / "run" / "report" / "report.html").read_text()
    assert "Repeats this run" not in page


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


CHART = "document.querySelector('#chart-0 svg')"
TICKS = "[...document.querySelectorAll('#chart-0 svg > text')].map(t => t.textContent).join(' ')"


def test_it_opens_offline_and_fetches_nothing(browser: Browser, page: Path) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(page.as_uri())
    browser.until("document.querySelectorAll('#chart-1 .line').length > 0")
    assert browser.complaints == []
    asked = [url for url in browser.requests if not url.startswith(("data:", "chrome:"))]
    assert asked == [page.as_uri()]
    assert browser.value("document.title").endswith("WorldFlux")
    assert browser.value("document.querySelectorAll('.settings td.other').length") > 0
    browser.value("document.querySelector('.more').open = true")
    browser.until("document.querySelectorAll('#multiples .line').length === 12")


def test_curves_can_be_read_enlarged_and_switched(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri())
    browser.until("document.querySelectorAll('#chart-0 .line').length === 8")
    browser.value("document.getElementById('chart-0').scrollIntoView({block: 'center'})")
    box = browser.value(f"{CHART}.getBoundingClientRect().toJSON()")
    y = box["top"] + box["height"] / 2

    def mouse(kind: str, share: float, **more: object) -> None:
        x = box["left"] + box["width"] * share
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    mouse("mouseMoved", 0.5)
    tip = browser.until("document.querySelector('#chart-0 .tip').innerText")
    assert "environment steps" in tip and "model=tdmpc2 (3 runs)" in tip and " to " in tip
    whole = browser.value(TICKS)
    mouse("mousePressed", 0.5, button="left", clickCount=1)
    mouse("mouseMoved", 0.6, button="left")
    assert browser.value("document.querySelectorAll('#chart-0 .drag').length") == 1
    mouse("mouseReleased", 0.7, button="left", clickCount=1)
    mouse("mouseMoved", 0.7)
    enlarged = browser.value(TICKS)
    assert enlarged != whole and not browser.value("document.querySelector('#chart-0 .all').hidden")
    browser.value("document.querySelector('#chart-0 .all').click()")
    assert browser.value(TICKS) == whole
    browser.value(f"{CHART}.focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="+")
    assert browser.value(TICKS) != whole
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="0")
    assert browser.value(TICKS) == whole
    browser.value("document.querySelector('#legend-0 button').click()")
    assert browser.value("document.querySelectorAll('#chart-0 .line').length") == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_can_be_read_on_a_phone_and_a_desk_by_day_and_night(
    browser: Browser, page: Path, theme: str, width: int
) -> None:
    browser.open(page.as_uri(), width, 844, theme)
    browser.until("document.querySelectorAll('#chart-0 .line').length > 0")
    browser.value("document.querySelectorAll('details').forEach(d => { d.open = true })")
    browser.value("document.getElementById('everything').click()")
    tags = "h1,h2,p,dt,dd,th,td b,td small,td code,button,summary span,figcaption span,li,text"
    assert (
        browser.value(
            re.sub(r"querySelectorAll\('[^']*'\)", f"querySelectorAll('{tags}')", CONTRAST)
        )
        == []
    )
    assert browser.value("document.scrollingElement.scrollWidth") <= width
    dark = browser.value("getComputedStyle(document.documentElement).colorScheme") == "dark"
    assert dark == (theme == "dark")
