"""What a person sees while a run goes on."""

import io
import logging
import sys

import pytest
from rich.console import Console

from worldflux.training import progress
from worldflux.training.progress import Clock, Progress, Status, duration


def status(step=250, **fields):
    values = dict(
        step=step,
        total_steps=1000,
        env_steps=4000,
        rate=12.5,
        episode_return=31.25,
        loss=0.5,
        eta=60.0,
    )
    return Status(**{**values, **fields})


def terminal(width=160):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def test_a_terminal_gets_one_line_that_is_rewritten():
    console = terminal()
    line = Progress("CartPole-v1", console)
    line.start()
    line.update(status(), force=True)
    line.update(status(500, env_steps=5000), force=True)
    line.stop()
    text = console.file.getvalue()
    for part in ("CartPole-v1", "250/1,000 updates", "4,000 env steps", "12.5 updates/s"):
        assert part in text
    assert "return 31.25" in text and "loss 0.5" in text and "ETA 1:00" in text
    assert " 25%" in text and " 50%" in text
    assert text.rstrip().count("\n") <= 1  # rewritten, not appended


def test_a_narrow_terminal_keeps_it_to_one_line():
    console = terminal(width=60)
    line = Progress("CartPole-v1", console)
    line.start()
    line.update(status(), force=True)
    shown = console.file.getvalue()
    line.stop()
    assert "\n" not in shown.strip("\r\n")


def test_without_a_terminal_there_is_a_plain_line_now_and_then(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = Progress("Pendulum-v1", Console(file=io.StringIO()))
    line.start()
    with caplog.at_level(logging.INFO):
        for _ in range(31):
            now[0] += 1.0
            line.update(status())
    assert len(caplog.records) == 2
    assert caplog.records[0].getMessage() == (
        "Pendulum-v1: 250/1,000 updates · 4,000 env steps · 12.5 updates/s · return 31.25"
        " · loss 0.5 · ETA 1:00"
    )


def test_log_lines_are_written_above_the_live_line(monkeypatch):
    console = terminal()
    handler = logging.StreamHandler(sys.__stdout__)
    root = logging.getLogger()
    root.addHandler(handler)
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    line = Progress("x", console)
    try:
        line.start()
        line.update(status(), force=True)
        root.warning("something happened")
        line.stop()
        assert handler.stream is sys.__stdout__
    finally:
        root.removeHandler(handler)
    assert "something happened\n" in console.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_progress_follows_the_end_that_is_nearer():
    assert status().fraction == 0.25
    assert status(total_env_steps=8000).fraction == 0.5
    assert status(total_env_steps=80_000).fraction == 0.25
    assert status(step=2000).fraction == 1.0


def test_rates_leave_out_the_first_update_and_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    clock = Clock(before=1000.0)
    clock.start(10, 100)
    now[0] = 90.0  # compiling
    clock.tick(11)
    assert clock.ttfi == 90.0 and clock.throughput(11) is None and clock.eta(11, 5) is None
    now[0] = 94.0
    clock.tick(19)
    assert clock.throughput(19) == pytest.approx(2.0)
    with clock.pause():
        now[0] = 98.0  # evaluating
    assert clock.throughput(19) == pytest.approx(2.0)
    assert clock.eta(19, 8) == pytest.approx(8.0)  # 8 updates took 8 s, the evaluation included
    clock.rates(19, 400)
    now[0] = 99.0
    assert clock.rates(23, 410) == (pytest.approx(4.0), pytest.approx(10.0))
    assert clock.elapsed() == pytest.approx(1099.0)
