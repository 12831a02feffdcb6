"""The learning curve: what is drawn, and that it is drawn."""

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from worldflux.errors import ConfigurationError
from worldflux.report.curves import compact, draw_run, learning_curve
from worldflux.report.returns import series, smooth
from worldflux.report.video import write_video
from worldflux.run_folder.metrics import read_metrics
from worldflux.training.logger import MetricLogger
from worldflux.training.loggers import Destination


def write_run(folder, online=True):
    logger = MetricLogger(Destination(folder), ())
    for n in range(1, 200):
        at = {"step": n, "env_steps": 20 * n if online else 0}
        logger.scalars({"episode/return": n + 30 * np.sin(n), "episode/length": 20}, **at)
        if n % 40 == 0:
            low_high = {"eval/return_low": n - 10, "eval/return_high": n + 10}
            logger.scalars({"eval/return": n, **low_high}, **at)
    logger.close()


def test_a_run_is_drawn_over_environment_steps(tmp_path):
    write_run(tmp_path)
    path = draw_run(tmp_path)
    assert path == tmp_path / "report" / "learning_curve.png"
    picture = imread(path)
    assert picture.shape[0] > 500 and picture.shape[1] > 900
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


def test_the_axes_say_what_is_shown(tmp_path):
    write_run(tmp_path)
    records = read_metrics(tmp_path)
    evaluations = series(records, "eval/return", "eval/return_low", "eval/return_high")
    assert evaluations.tolist() == [
        [800, 40, 30, 50],
        [1600, 80, 70, 90],
        [2400, 120, 110, 130],
        [3200, 160, 150, 170],
    ]
    figure = learning_curve(
        series(records, "episode/return"), evaluations, x_label="environment steps", title="Env"
    )
    (axes,) = figure.axes
    assert axes.get_xlabel() == "environment steps" and axes.get_ylabel() == "return"
    assert axes.get_title(loc="left") == "Env"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "training episodes (running mean)",
        "evaluation (mean, 95 % interval)",
    ]


def test_offline_runs_are_drawn_over_updates(tmp_path):
    write_run(tmp_path, online=False)
    assert series(read_metrics(tmp_path), "eval/return")[:, 0].tolist() == [40, 80, 120, 160]


def test_a_run_without_a_return_has_no_picture(tmp_path):
    logger = MetricLogger(Destination(tmp_path), ())
    logger.scalars({"train/loss/total": 1.0}, step=1, env_steps=0)
    logger.close()
    assert draw_run(tmp_path) is None and draw_run(tmp_path / "nothing") is None


def test_values_that_are_not_finite_are_left_out(tmp_path):
    logger = MetricLogger(Destination(tmp_path), ())
    logger.scalars({"episode/return": float("nan")}, step=1, env_steps=1)
    logger.scalars({"episode/return": 2.0}, step=1, env_steps=2)
    logger.close()
    assert series(read_metrics(tmp_path), "episode/return").tolist() == [[2.0, 2.0]]


def test_smoothing_is_a_centred_mean():
    values = np.random.default_rng(0).normal(size=50)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(50)]
    assert smooth(values, 7) == pytest.approx(expected)
    assert smooth(values, 1) == pytest.approx(values)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (500, "500"), (1500, "1.5k"), (2e6, "2M"), (3e9, "3G")]
)
def test_axis_numbers(value, text):
    assert compact(value) == text


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_videos_keep_their_frames_in_order(tmp_path, suffix):
    frames = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 12 * 8 * 3).reshape(5, 12, 8, 3)
    write_video(tmp_path / "v" / f"a{suffix}", frames)
    video = Image.open(tmp_path / "v" / f"a{suffix}")
    assert video.n_frames == 5 and video.size == (8, 12)
    for index in range(5):
        video.seek(index)
        assert abs(int(np.asarray(video.convert("RGB")).mean()) - 50 * index) <= 3


def test_an_unknown_video_format_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"expected a name ending in \.gif or \.webp"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 4, 4, 3), np.uint8))
