"""The short form of the campaign, and that it reports what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaign import damages, environments, hostile, words
from tests.campaign.main import table
from tests.campaign.trials import (
    EXECUTED,
    HANG,
    REFUSED,
    RIGHT,
    TRACEBACK,
    WRONG,
    Ended,
    Trial,
    Verdict,
    canary,
    judged,
    run_all,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "campaign.py"
PARTS = ("damages", "hostile", "bombs", "environments", "words", "projects", "places")


@pytest.mark.slow(50)
def test_the_short_form_finds_nothing() -> None:
    # A process of its own: forks of one that has threads may hang. Its crashes are tested apart.
    command = [sys.executable, str(SCRIPT), "--short", "--part", *PARTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["part", *PARTS]
    assert sum(int(row[1]) for row in rows[1:]) >= 60


def test_each_verdict_is_reached(tmp_path: Path) -> None:
    def loud(here: Path) -> Verdict:
        raise RuntimeError("a bug")

    def hanging(here: Path) -> Verdict:
        while True:
            pass

    def running(here: Path) -> Verdict:
        canary().touch()
        return Verdict(RIGHT)

    def taking(here: Path) -> Verdict:
        return Verdict(RIGHT, str(len(bytearray(2**33))))

    def dying(here: Path) -> Verdict:
        raise SystemExit(3)

    acts = [loud, hanging, running, taking, dying, lambda here: Verdict(RIGHT)]
    trials = [Trial(i, "", act) for i, act in enumerate(acts)]
    kinds = {trial.number: verdict.kind for trial, verdict in run_all(trials, tmp_path, 3, 5.0)}
    assert kinds == {0: TRACEBACK, 1: HANG, 2: EXECUTED, 3: TRACEBACK, 4: TRACEBACK, 5: RIGHT}
    assert not (tmp_path / "trial_5").exists() and (tmp_path / "trial_0").exists()


@pytest.mark.parametrize(
    ("ended", "kind"),
    [
        (Ended(0, "fine", ""), None),
        (Ended(2, "", "worldflux-run: error: no\n"), REFUSED),
        (Ended(2, "", "worldflux-run: error: no\nand more\n"), WRONG),
        (Ended(2, "", ""), WRONG),
        (Ended(7, "", "worldflux-run: error: no\n"), WRONG),
        (Ended(0, "", "Traceback (most recent call last):\nKeyError: 'x'\n"), TRACEBACK),
    ],
)
def test_what_is_one_line(ended: Ended, kind: str | None) -> None:
    verdict = judged(ended)
    assert kind == (None if verdict is None else verdict.kind)


def test_a_wrong_result_is_reported(tmp_path: Path) -> None:
    (tmp_path / "run-report.json").write_text('{"updates": 12}')
    for out, kind in (('{"updates": 12}', RIGHT), ('{"updates": 13}', WRONG)):
        verdict = damages.verdict_of(
            "report", tmp_path / "run", "metrics.jsonl", Ended(0, out, ""), tmp_path
        )
        assert verdict.kind == kind
    assert words.same_values({"a.b": 2}, {"a.b": 1}, ["a.b=1"]).kind == WRONG
    words.DEFAULTS["a.c"] = 0
    assert words.same_values({"a.b": 1, "a.c": 1}, {"a.b": 1}, ["a.b=1"]).kind == WRONG
    assert words.same_values({"a.b": 1, "a.c": 0}, {"a.b": 1}, ["a.b=1"]).kind == RIGHT


def test_a_row_that_was_never_given_is_reported() -> None:
    import numpy as np

    from tests.campaign import odd

    space, actions = odd.OBSERVATIONS["vector"], odd.ACTIONS["two"]
    record = [
        {"reset": True, "obs": [0, 0, 0], "reward": 0, "terminated": False, "truncated": False},
        {"obs": [1, 0, 0], "reward": 2, "terminated": True, "truncated": False, "action": 1},
    ]
    rows = {
        "obs": np.array([[0, 0, 0], [1, 0, 0]], np.float32),
        "reward": np.array([0, 2], np.float32),
        "is_first": np.array([True, False]),
        "is_last": np.array([False, True]),
        "is_terminal": np.array([False, True]),
        "action": np.array([[0, 1], [0, 0]], np.float32),
    }
    assert environments.differs(rows, record, space, actions) == ""
    for key, place in (("obs", (1, 0)), ("reward", 1), ("is_terminal", 1), ("action", (0, 0))):
        changed = {name: value.copy() for name, value in rows.items()}
        changed[key][place] = 7 if key != "is_terminal" else False  # type: ignore[index]
        assert key in environments.differs(changed, record, space, actions)


def test_harm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDFLUX_CANARY", str(tmp_path / "canary"))
    outside, here = tmp_path / "outside", tmp_path / "here"
    for folder in (outside, here):
        folder.mkdir()
    (outside / "precious").write_text("x")
    hostile.protect(outside)
    assert hostile.harm(Ended(0, "", ""), here, outside) is None
    (outside / "precious").write_text("y")
    assert hostile.harm(Ended(0, "", ""), here, outside).kind == WRONG  # type: ignore[union-attr]
    (here / "file").write_text(hostile.SECRET)
    assert "secret" in hostile.harm(Ended(0, "", ""), here, outside).detail  # type: ignore[union-attr]
    canary().touch()
    assert hostile.harm(Ended(0, "", ""), here, outside).kind == EXECUTED  # type: ignore[union-attr]


def test_the_table_has_a_row_for_each_part() -> None:
    from collections import Counter

    text = table({"words": Counter({RIGHT: 3, HANG: 1})})
    assert text.splitlines()[1].split() == ["words", "4", "3", "0", "0", "1", "0", "0"]
