"""metrics.jsonl and TensorBoard, read back by their own readers."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from worldflux.config.loggers import LoggerConfig
from worldflux.run_folder.metrics import read_metrics
from worldflux.training.logger import MetricLogger
from worldflux.training.loggers import LOGGERS, Destination, make_loggers
from worldflux.training.pictures import encode


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def points(folder, tag):
    # Files of one second are read in the order of their names, not of their times.
    return sorted((event.step, event.value) for event in events(folder).Scalars(tag))


def test_records_hold_both_counters_and_valid_json(tmp_path):
    logger = MetricLogger(Destination(tmp_path))
    logger.scalars({"train/loss/dyn": 1.5, "bad": float("nan")}, step=10, env_steps=40, speed=2.0)
    logger.scalars({"eval/return": 7}, step=20, env_steps=80)
    logger.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in lines)
    assert (first["step"], first["env_steps"], first["speed"]) == (10, 40, 2.0)
    assert first["metrics"] == {"train/loss/dyn": 1.5, "bad": None}
    assert second["metrics"] == {"eval/return": 7} and second["speed"] is None
    assert first["timestamp"] <= second["timestamp"]


@pytest.mark.parametrize(("x_axis", "expected"), [("env_steps", 40), ("updates", 10)])
def test_tensorboard_has_the_names_and_the_x_axis(tmp_path, x_axis, expected):
    logger = MetricLogger(Destination(tmp_path, x_axis))
    logger.scalars({"train/loss/dyn": 1.5, "fps/env": 3.0}, step=10, env_steps=40)
    logger.close()
    assert points(tmp_path, "train/loss/dyn") == [(expected, 1.5)]
    assert points(tmp_path, "fps/env") == [(expected, 3.0)]


def test_videos_are_gifs_in_an_event_file_of_their_own(tmp_path):
    logger = MetricLogger(Destination(tmp_path))
    logger.scalars({"a": 1.0}, step=1, env_steps=1)
    video = np.zeros((2, 5, 8, 6, 3), np.uint8)  # [B, T, H, W, C]
    video[1, :, :, :, 0] = 250  # the second row of the batch is red
    video[:, 3] = 255
    image = np.full((4, 4, 3), 9, np.uint8)
    logger.pictures({"report/openloop": video, "report/still": image}, step=1, env_steps=7)
    logger.close()
    assert events(tmp_path).Tags()["images"] == []
    pictures = events(tmp_path / "pictures")
    shown = pictures.Images("report/openloop")[0]
    assert (shown.step, shown.height, shown.width) == (7, 16, 6)
    gif = Image.open(io.BytesIO(shown.encoded_image_string))
    assert gif.format == "GIF" and gif.is_animated
    assert gif.n_frames == 3  # equal frames in a row are one frame with a longer duration
    gif.seek(0)
    frame = np.asarray(gif.convert("RGB"))
    assert frame.shape == (16, 6, 3)
    assert frame[2, 2].tolist() == [0, 0, 0] and abs(int(frame[12, 2, 0]) - 250) < 8
    still = Image.open(io.BytesIO(pictures.Images("report/still")[0].encoded_image_string))
    assert still.format == "PNG" and np.asarray(still)[0, 0].tolist() == [9, 9, 9]


def test_an_encoded_video_keeps_its_duration():
    frames = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8)
    gif = Image.open(io.BytesIO(encode(frames, milliseconds=50)))
    assert gif.n_frames == 6 and gif.info["duration"] == 50


def test_a_resumed_logger_cuts_what_is_newer_than_the_checkpoint(tmp_path):
    logger = MetricLogger(Destination(tmp_path))
    logger.scalars({"a": 1.0}, step=1, env_steps=10)
    position = logger.position()["metrics_bytes"]
    logger.scalars({"a": 2.0}, step=2, env_steps=20)
    logger.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "half')  # killed while writing
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    logger = MetricLogger(Destination(tmp_path, purge_from=11), resume_at=position)
    logger.scalars({"a": 5.0}, step=2, env_steps=21)
    logger.close()
    records = read_metrics(tmp_path)
    assert [(record["step"], record["metrics"]["a"]) for record in records] == [(1, 1.0), (2, 5.0)]
    assert points(tmp_path, "a") == [(10, 1.0), (21, 5.0)]


def resumed(folder, position, x):
    return MetricLogger(
        Destination(folder, purge_from=x + 1),
        resume_at=position["metrics_bytes"],
        positions=position["loggers"],
    )


def test_tensorboard_is_cut_where_its_checkpoint_was(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    logger = MetricLogger(Destination(tmp_path))
    for x in (10, 20):
        logger.scalars({"a": x}, step=x, env_steps=x)
        logger.pictures({"p": image}, step=x, env_steps=x)
    first = logger.position()
    # The last record and evaluation of a run that ends have the x of its last checkpoint.
    logger.scalars({"a": 21.0, "end": 1.0}, step=20, env_steps=20)
    logger.pictures({"p": image}, step=20, env_steps=20)
    logger.close()
    logger = resumed(tmp_path, first, 20)
    logger.scalars({"a": 30.0}, step=30, env_steps=30)
    logger.pictures({"p": image}, step=30, env_steps=30)
    logger.close()  # killed before its first checkpoint: it goes on from the same one
    logger = resumed(tmp_path, first, 20)
    logger.scalars({"a": 31.0}, step=30, env_steps=30)
    second = logger.position()
    logger.scalars({"a": 40.0}, step=40, env_steps=40)
    logger.close()
    resumed(tmp_path, second, 30).close()
    assert points(tmp_path, "a") == [(10, 10.0), (20, 20.0), (30, 31.0)]
    assert events(tmp_path).Tags()["scalars"] == ["a"]
    pictures = events(tmp_path / "pictures").Images("p")
    assert sorted(shown.step for shown in pictures) == [10, 20]
    assert [record["metrics"]["a"] for record in read_metrics(tmp_path)] == [10, 20, 31.0]


def test_tensorboard_that_a_resume_switches_on_has_the_whole_run(tmp_path):
    (tmp_path / "events.out.tfevents.of.somebody").write_bytes(b"not ours")
    logger = MetricLogger(Destination(tmp_path), ())
    logger.scalars({"a": 1.0}, step=1, env_steps=10)
    position = logger.position()
    logger.close()
    logger = resumed(tmp_path, position, 10)
    logger.scalars({"a": 2.0}, step=2, env_steps=20)
    logger.close()
    (tmp_path / "events.out.tfevents.of.somebody").unlink()
    assert points(tmp_path, "a") == [(10, 1.0), (20, 2.0)]
    shown = min(events(tmp_path).Scalars("a"), key=lambda event: event.step)
    assert shown.wall_time == read_metrics(tmp_path)[0]["timestamp"]


def test_tensorboard_has_the_hyperparameters_of_the_command_line(tmp_path):
    (tmp_path / ".hydra").mkdir()
    words = ["training.learning_rate=1e-4", "model=tdmpc2", "model.episodic=true", "run.name=x"]
    (tmp_path / ".hydra/overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    logger = MetricLogger(Destination(tmp_path))
    logger.scalars({"eval/return": 1.0}, step=1, env_steps=10)
    position = logger.position()
    logger.close()
    resumed(tmp_path, position, 10).close()
    content = events(tmp_path).PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    values = session.session_start_info.hparams
    assert set(values) == {"training.learning_rate", "model", "model.episodic"}
    assert values["training.learning_rate"].number_value == 1e-4
    assert (
        values["model"].string_value == "tdmpc2" and values["model.episodic"].string_value == "true"
    )
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert experiment.metric_infos[0].name.tag == "eval/return"
    assert points(tmp_path, "eval/return") == [(10, 1.0)]


def test_csv_has_a_row_for_each_number_that_metrics_jsonl_has(tmp_path):
    logger = MetricLogger(Destination(tmp_path), ["csv"])
    logger.scalars({"a": 1.5, "bad": float("nan")}, step=1, env_steps=10)
    position = logger.position()
    logger.scalars({"a": 2.0}, step=2, env_steps=20)
    logger.close()
    logger = resumed(tmp_path, position, 10)  # without it: the table stays as it was
    logger.scalars({"a": 3.0}, step=2, env_steps=21)
    position = logger.position()
    logger.close()
    MetricLogger(
        Destination(tmp_path, purge_from=22), ["csv"], resume_at=position["metrics_bytes"]
    ).close()
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    times = [record["timestamp"] for record in read_metrics(tmp_path)]
    assert [float(row.pop("timestamp")) for row in rows] == [times[0], times[0], times[1]]
    assert [tuple(row.values()) for row in rows] == [
        ("10", "1", "a", "1.5"),
        ("10", "1", "bad", ""),
        ("21", "2", "a", "3.0"),
    ]


def test_a_fresh_logger_without_tensorboard_writes_the_records_and_the_newest_pictures(tmp_path):
    logger = MetricLogger(Destination(tmp_path / "new"), ())
    logger.scalars({"a": 1.0}, step=1, env_steps=1)
    picture = np.zeros((2, 2, 3), np.uint8)
    logger.pictures({"report/openloop/obs": picture}, step=1, env_steps=1)
    logger.close()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"metrics.jsonl", "report"}


def test_every_field_of_the_group_is_a_row_of_the_table(tmp_path):
    assert LoggerConfig(**dict.fromkeys(LOGGERS, True)).names() == list(LOGGERS)
    assert LoggerConfig().names() == []
    (made,) = make_loggers(["tensorboard"], Destination(tmp_path)).values()
    made.close()
