"""Times a model family on this machine: update, action and the whole loop.

    python scripts/benchmark.py dreamerv3 --size size1m --obs 24 --actions 6 --batch 16 \
        --length 64 --precision float32 --json
    python scripts/benchmark.py tdmpc2 --size 5m --obs 24 --actions 6 --batch 256 --json

    python scripts/benchmark.py dreamerv3 --image 64 --compare before.json
    python scripts/benchmark.py dreamerv3 --growth growth.png

The share of the matrix-product peak is the arithmetic (matrix products and convolutions, forward and
backward) per second over the best rate that a large product reaches in the same process and
precision: it, and not the time, can be compared with another machine. The whole loop steps a free
environment, so that its figure is the cost of WorldFlux alone: acting, replay and the updates that
the train ratio asks for. An action of TD-MPC2 is a planned one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from worldflux import get_config
from worldflux.config.env import EnvConfig
from worldflux.config.spaces import Space
from worldflux.core.allocator import keep_freed_memory
from worldflux.data.collect import Collector
from worldflux.data.replay import SequenceReplay
from worldflux.envs.make import make_envs
from worldflux.models.factory import model_class
from worldflux.training import TrainingConfig

# How each family is trained unless its options say otherwise. length: trained steps of a sequence.
# train_ratio: replayed steps per environment step; TD-MPC2 makes one update per step.
FAMILIES: dict[str, dict[str, Any]] = {
    "dreamerv3": {
        "size": "size1m",
        "batch": 16,
        "length": 64,
        "train_ratio": 512.0,
        "training": dict(optimizer="laprop", agc=0.3, grad_clip=0.0, learning_rate=4e-5),
        "model": {"actor_critic": True},
        "action": "act_ms",
        "sizes": ["size250k", "size1m", "size12m"],
    },
    "tdmpc2": {
        "size": "5m",
        "batch": 256,
        "length": 3,
        "train_ratio": None,
        "training": dict(optimizer="adam", grad_clip=20.0, learning_rate=3e-4),
        "model": {"episode_length": 500},
        "action": "plan_ms",
        "sizes": ["75k", "1m", "5m"],
    },
}
# What `--growth` varies, one at a time: factors of the usual value, or values.
GROWTH: dict[str, list[float]] = {
    "batch": [0.25, 0.5, 1, 2],
    "length": [0.5, 1, 2],
    "replay": [20_000, 200_000, 1_000_000],
    "envs": [1, 4, 16],
}
# Figures in ms, and the share of the peak that goes with each.
TIMES = {
    "update_ms": "peak_share",
    "act_ms": "action_peak_share",
    "plan_ms": "action_peak_share",
    "env_step_ms": "loop_peak_share",
    "sample_ms": None,
}
# What must be the same where two figures are compared.
SETTINGS = ("family", "size", "observation", "actions", "batch", "length", "train_ratio", "device")


class FreeEnv(gym.Env):
    """Random observations of the asked shape at no cost; episodes of 500 steps."""

    def __init__(self, shape: tuple[int, ...], actions: int, discrete: bool):
        image = len(shape) == 3
        low, high, dtype = (0, 255, np.uint8) if image else (-np.inf, np.inf, np.float32)
        hwc = (shape[1], shape[2], shape[0]) if image else shape
        self.observation_space = gym.spaces.Box(low, high, hwc, dtype)
        bounds = np.ones(actions, np.float32)
        self.action_space = (
            gym.spaces.Discrete(actions) if discrete else gym.spaces.Box(-bounds, bounds)
        )
        self.frame = np.zeros(hwc, dtype)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return self.frame, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self.frame, 0.0, False, self.steps >= 500, {}


@dataclass
class Setup:
    """What one benchmark builds once."""

    agent: Any
    batch: dict[str, Tensor]
    envs: Any
    collector: Collector
    replay: SequenceReplay


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--size", help="preset of the family")
    parser.add_argument("--obs", type=int, default=24, help="width of the vector observation")
    parser.add_argument("--image", type=int, default=0, help="use N x N x 3 images instead")
    parser.add_argument("--actions", type=int, default=6)
    parser.add_argument("--discrete", action="store_true", help="discrete instead of continuous")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int, help="trained steps of a sequence")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--train-ratio", type=float, help="for the whole loop")
    parser.add_argument("--envs", type=int, default=1, help="environments acted in at once")
    parser.add_argument("--replay", type=int, default=20_000, help="steps that the replay holds")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--repeats", type=int, default=20, help="timed updates; medians are shown")
    parser.add_argument("--free-memory", action="store_true", help="training.keep_memory=false")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--compare", metavar="FILE", type=Path, help="ratios to figures of --json")
    text = "also measure how cost grows, and draw it"
    parser.add_argument("--growth", metavar="PICTURE", type=Path, help=text)
    args = parser.parse_args()
    for name in ("size", "batch", "length", "train_ratio"):
        if getattr(args, name) is None:
            setattr(args, name, FAMILIES[args.family][name])
    args.train_ratio = args.train_ratio or float(args.batch * args.length)
    return args


def build(args: argparse.Namespace) -> Setup:
    """Agent, a batch of random sequences, environments and replay of the asked sizes."""
    shape = (3, args.image, args.image) if args.image else (args.obs,)
    gym.register(
        "WorldFluxFree-v0",
        lambda: FreeEnv(shape, args.actions, args.discrete),  # type: ignore[arg-type]
        disable_env_checker=True,
    )
    capacity = max(args.replay, 4 * (args.length + 1) * args.envs)
    envs = make_envs(EnvConfig(id="WorldFluxFree-v0"), num_envs=args.envs, mode="sync", seed=0)
    family = FAMILIES[args.family]
    config = get_config(f"{args.family}:{args.size}", obs_shape=shape, **family["model"])
    config = config.with_spaces(envs.obs_spaces, envs.action_spaces)
    training = TrainingConfig(
        batch_size=args.batch,
        sequence_length=args.length,
        compile_model=not args.eager,
        mixed_precision=args.precision != "float32",
        mixed_precision_dtype="bfloat16",
        device=args.device,
        seed=0,
        **family["training"],
    )
    agent = model_class(config.model_type)(config).make_agent(training, args.device)
    length = args.length + agent.replay_context
    replay = SequenceReplay(
        spaces={**envs.obs_spaces, "action": Space((envs.action_dim,)), **agent.entry_spaces},
        capacity=capacity,
        length=length,
        num_envs=args.envs,
        online=True,
        seed=0,
        entries=list(agent.entry_spaces),
    )
    collector = Collector(envs, replay)
    collector.collect(None, max(args.replay, 2 * args.batch * length))
    return Setup(agent, draw(replay, args.batch, agent.device)[0], envs, collector, replay)


def draw(
    replay: SequenceReplay, rows: int, device: torch.device
) -> tuple[dict[str, Tensor], np.ndarray]:
    """A batch on the device and the steps it came from."""
    sample = replay.sample(rows)
    stepid = sample.pop("stepid")
    return {key: torch.from_numpy(value).to(device) for key, value in sample.items()}, stepid


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_ms(function: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Median wall time of a call in milliseconds."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Best GFLOP/s of a square matrix product in this process."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    times = [median_ms(lambda: torch.mm(a, b), 1, device) for _ in range(15)]
    return 2 * size**3 / min(times) / 1e6


def count_flops(args: argparse.Namespace, setup: Setup) -> tuple[int, int]:
    """Floating-point operations of one update and of one action of every environment, counted on
    an eager twin of the agent."""
    training = setup.agent.training.with_updates(compile_model=False)
    agent = type(setup.agent.model)(setup.agent.config).make_agent(training, args.device)
    carry, row, counts = agent.initial_carry(args.envs), setup.envs.last, []
    for call in (lambda: agent.update(setup.batch), lambda: agent.act(carry, row, True)):
        with FlopCounterMode(display=False) as counter:
            call()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def whole_loop_ms(args: argparse.Namespace, setup: Setup, updates: int) -> float:
    """Milliseconds per environment step of collecting, sampling, updating and writing back."""
    agent, replay, context = setup.agent, setup.replay, setup.agent.replay_context
    steps = args.batch * args.length / args.train_ratio
    owed, before = 0.0, setup.collector.env_steps
    start = time.perf_counter()
    for _ in range(updates):
        owed += steps
        if owed >= args.envs:
            count = int(owed) // args.envs * args.envs
            setup.collector.collect(agent, count)
            owed -= count
        batch, stepid = draw(replay, args.batch, agent.device)
        _, entries, _ = agent.update(batch)
        written = {key: value.cpu().numpy() for key, value in entries.items()}
        replay.update(stepid[:, context:], written)
    synchronize(agent.device)
    return 1000 * (time.perf_counter() - start) / (setup.collector.env_steps - before)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one configuration."""
    setup = build(args)
    agent, device = setup.agent, setup.agent.device
    start = time.perf_counter()
    agent.update(setup.batch)
    synchronize(device)
    first = time.perf_counter() - start
    for _ in range(3):
        agent.update(setup.batch)
    dtype = torch.bfloat16 if args.precision == "bfloat16" else torch.float32
    peak = matmul_peak(device, dtype)
    update_ms = median_ms(lambda: agent.update(setup.batch), args.repeats, device)
    peak = max(peak, matmul_peak(device, dtype))
    carry, row = agent.initial_carry(args.envs), setup.envs.last
    agent.act(carry, row, True)
    act_ms = median_ms(lambda: agent.act(carry, row, True), args.repeats, device)
    sample_ms = median_ms(lambda: setup.replay.sample(args.batch), args.repeats, device)
    loop_ms = whole_loop_ms(args, setup, max(4, args.repeats // 2))
    flops, act_flops = count_flops(args, setup)
    updates_per_step = args.train_ratio / (args.batch * args.length)
    loop_flops = flops * updates_per_step + act_flops / args.envs
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    on_device = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {
        "family": args.family,
        "size": args.size,
        "observation": list(next(iter(setup.envs.obs_spaces.values())).shape),
        "actions": args.actions,
        "batch": args.batch,
        "length": args.length,
        "precision": args.precision,
        "compiled": not args.eager,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "update_ms": round(update_ms, 1),
        FAMILIES[args.family]["action"]: round(act_ms, 3),
        "env_step_ms": round(loop_ms, 3),
        "sample_ms": round(sample_ms, 3),
        "replay": args.replay,
        "envs": args.envs,
        "keep_memory": not args.free_memory,
        "train_ratio": args.train_ratio,
        "flops_per_update": flops,
        "flops_per_action": act_flops,
        "matmul_peak_gflops": round(peak, 1),
        "peak_share": round(flops / (update_ms * 1e6) / peak, 4),
        "action_peak_share": round(act_flops / (act_ms * 1e6) / peak, 4),
        "loop_peak_share": round(loop_flops / (loop_ms * 1e6) / peak, 4),
        "peak_rss_mb": round(rss, 1),
        **({} if on_device is None else {"device_memory_mb": round(on_device)}),
        "compile_s": round(max(0.0, first - update_ms / 1000), 1) if not args.eager else 0.0,
        "parameters": sum(p.numel() for p in agent.model.parameters() if p.requires_grad),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as text, every time with its share of the peak."""
    shares = {share for share in TIMES.values() if share}
    lines = []
    for name, value in figures.items():
        share = TIMES.get(name)
        beside = f"  {figures[share]:.1%} of the peak" if share else ""
        if name not in shares:
            lines.append(f"{name:20} {value}{beside}")
    return "\n".join(lines)


def comparison(now: dict[str, Any], before: dict[str, Any]) -> str:
    """Both figures of every time, and how many times as fast this one is."""
    lines = [
        f"differs: {name}: {before.get(name)} there, {now[name]} here"
        for name in SETTINGS
        if before.get(name) != now[name]
    ]
    lines.append(f"{'':14} {'there':>10} {'here':>10} {'ratio':>7}   share of the peak")
    for name, share in TIMES.items():
        if name in now and name in before:
            shares = f"{before[share]:7.1%} {now[share]:7.1%}" if share else ""
            ratio = before[name] / now[name]
            lines.append(
                f"{name:14} {before[name]:10.2f} {now[name]:10.2f} {ratio:7.2f}   {shares}"
            )
    memory = before["peak_rss_mb"], now["peak_rss_mb"]
    lines.append(
        f"{'peak_rss_mb':14} {memory[0]:10.0f} {memory[1]:10.0f} {memory[0] / memory[1]:7.2f}"
    )
    return "\n".join(lines)


def growth(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Figures by what is varied, each of a process of its own, whose memory is its own too."""
    points: dict[str, list[tuple[str, ...]]] = {
        name: [(f"--{name}", str(int(v if v >= 1000 or name == "envs" else v * getattr(args, name))))
               for v in values]
        for name, values in GROWTH.items()
    }  # fmt: skip
    points["size"] = [("--size", size) for size in FAMILIES[args.family]["sizes"]]
    ours = ("--json", "--growth", "--compare")
    values = (str(args.growth), str(args.compare))
    words = [word for word in sys.argv[1:] if not word.startswith(ours) and word not in values]
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, options in points.items():
        curves[name] = []
        for option in options:
            command = [sys.executable, __file__, *words, *option, "--json"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            curves[name].append(json.loads(done.stdout))
            print(
                f"{' '.join(option):22} {curves[name][-1]['update_ms']:10.1f} ms", file=sys.stderr
            )
    return curves


def draw_growth(curves: dict[str, list[dict[str, Any]]], action: str, picture: Path) -> None:
    """One panel for each thing that was varied: times, and memory beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(curves), 3.2), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        x = [point["parameters" if name == "size" else name] for point in points]
        for time_name in ("update_ms", action, "sample_ms"):
            axis.plot(x, [point[time_name] for point in points], "o-", label=time_name)
        axis.set(xlabel="parameters" if name == "size" else name, xscale="log", yscale="log")
        memory = axis.twinx()
        memory.plot(x, [point["peak_rss_mb"] for point in points], "s:", color="0.6", label="MB")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(picture, dpi=120)


def main() -> None:
    args = parse_arguments()
    if not args.free_memory:
        keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    figures = measure(args)
    if args.growth:
        figures["growth"] = growth(args)
        draw_growth(figures["growth"], FAMILIES[args.family]["action"], args.growth)
    if args.json:
        print(json.dumps(figures))
        return
    print(table({name: value for name, value in figures.items() if name != "growth"}))
    if args.compare:
        print(comparison(figures, json.loads(args.compare.read_text())))


if __name__ == "__main__":
    main()
