"""Tries WorldFlux on a machine with a GPU within a given time, and prints what came of it.

    python scripts/gpu_check.py --minutes 10 --install             # on a bare machine with Python 3.11
    python scripts/gpu_check.py --minutes 10 --parity ../parity    # where WorldFlux is installed
    python scripts/gpu_check.py --device cpu --small               # the same in small, on a CPU

Parts, in this order, as far as the minutes go: the recorded numbers of the official codes on the
device (eager and compiled), times and device memory of an update, whether a run that was stopped goes
on exactly, several processes, and for the rest of the time a learning curve, whose run folder stays.
It prints a table and, as the last line, one JSON object, which is also OUT/gpu_check.json after each part.
The exit code is 1 where a part failed: numbers that differ, a command that ended in an error.

Needs nothing but the standard library itself; `--install` makes an environment in OUT/venv, from the
registry of pip's configuration or from a folder of wheels.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("dreamerv3", "tdmpc2")
# Shares of the time by whose end a part is over; the learning curve gets the rest.
PARITY_UNTIL, BENCHMARK_UNTIL = 0.35, 0.65
GRACE = 60.0  # seconds that a run gets for its last checkpoint
# Sizes of what the official codes train on a GPU; small: what a CPU does in seconds.
BENCHMARKS = [
    *(f"dreamerv3 --size {size}" for size in ("size1m", "size12m", "size50m", "size200m")),
    *(f"dreamerv3 --size {size} --image 64 --replay 2200" for size in ("size1m", "size12m", "size50m", "size200m")),
    "tdmpc2 --size 5m",
    "tdmpc2 --size 48m",
]  # fmt: skip
SMALL_BENCHMARKS = ["tdmpc2 --size 75k --eager --replay 600 --repeats 2"]
MACHINE = """
import json, platform, sys, torch
d = torch.device(sys.argv[1])
facts = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
if d.type == "cuda":
    p = torch.cuda.get_device_properties(d)
    facts |= {"name": p.name, "devices": torch.cuda.device_count(), "memory_gib": round(p.total_memory / 2**30, 1),
              "capability": [p.major, p.minor], "bf16": torch.cuda.is_bf16_supported()}
else:
    facts |= {"name": platform.processor() or platform.machine(), "devices": 0}
print(json.dumps(facts))
"""
DIFFERENCES = """
import json, sys
from pathlib import Path
from tests.training.crash import differences
print(json.dumps(differences(*map(Path, sys.argv[1:]))))
"""


@dataclass
class Check:
    """One trial: where it runs, until when, and what it has seen. start, deadline: of time.monotonic()."""

    python: str
    device: str
    out: Path
    parity: Path | None
    small: bool
    start: float
    deadline: float
    results: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def left_until(self, share: float) -> float:
        """Seconds until this share of the time has passed."""
        return self.start + share * (self.deadline - self.start) - time.monotonic()

    def run(self, label: str, words: Sequence[str], limit: float) -> dict[str, Any]:
        """Runs Python with the words in the checkout; SIGTERM after `limit` seconds.

        Returns rc (None: it was stopped for time), seconds and its lines; the log is OUT/LABEL.log.
        """
        log, start = self.out / f"{label}.log", time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(
                [self.python, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True
            )
            stopped = False
            try:
                process.wait(max(1.0, limit))
            except subprocess.TimeoutExpired:
                stopped = True
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        lines = log.read_text(errors="replace").splitlines()
        rc = None if stopped else process.returncode
        if rc not in (0, None):
            self.failures.append(f"{label}: exit code {rc}: {lines[-1] if lines else ''}")
        return {"rc": rc, "seconds": round(time.monotonic() - start, 1), "lines": lines}

    def train(self, label: str, *overrides: str, limit: float) -> dict[str, Any]:
        """A run of worldflux-run in OUT/LABEL, where no other is named."""
        words = ["-c", "import sys; from worldflux.cli.main import main; sys.exit(main())"]
        device = f"training.device={self.device}"
        return self.run(label, [*words, device, *overrides], limit)


def machine(check: Check) -> dict[str, Any]:
    """Versions and what the device is."""
    done = check.run("machine", ["-c", MACHINE, check.device], check.left)
    return last_json(done) or {"error": done["lines"][-1:]}


def parity(check: Check) -> dict[str, Any]:
    """Every folder of recorded numbers on the device, in float32, eager and compiled."""
    if check.parity is None or not check.parity.is_dir():
        return {"skipped": "no folder of recorded numbers (--parity)"}
    results: dict[str, Any] = {}
    folders = [(f, d) for f in FAMILIES for d in sorted((check.parity / f).iterdir()) if d.is_dir()]
    if check.small:
        folders = [(f, d) for f, d in folders if d.name == "units"]
    for ways in ([], ["--compile"])[: 1 if check.small else 2]:
        for family, folder in folders:
            left = check.left_until(PARITY_UNTIL)
            if left < 5:
                return results
            name = " ".join([family, folder.name, *ways])
            words = ["scripts/check_parity.py", family, str(folder), "--failures", *ways]
            label = f"parity {name}".replace(" ", "_")
            done = check.run(label, [*words, "--device", check.device], left)
            rows = [line for line in done["lines"] if " FAIL " in line]
            results[name] = {
                "rc": done["rc"],
                "summary": done["lines"][-1] if done["lines"] else "",
                "seconds": done["seconds"],
                "failed": rows[:20],
            }
    return results


def benchmark(check: Check) -> dict[str, Any]:
    """Times, shares of the peak and device memory of updates and actions."""
    results: dict[str, Any] = {}
    for words in SMALL_BENCHMARKS if check.small else BENCHMARKS:
        for precision in ["float32"] if check.small else ["float32", "bfloat16"]:
            left = check.left_until(BENCHMARK_UNTIL)
            if left < 5:
                return results
            arguments = ["scripts/benchmark.py", *words.split(), "--precision", precision]
            label = f"benchmark {words} {precision}".replace(" ", "_")
            done = check.run(label, [*arguments, "--device", check.device, "--json"], left)
            results[f"{words} {precision}"] = last_json(done) or {"rc": done["rc"]}
    return results


def resume(check: Check) -> dict[str, Any]:
    """Whether a run that was ended half-way and continued equals one that was not, bit for bit."""
    results: dict[str, Any] = {}
    for family in FAMILIES:
        whole, halves = (check.out / f"resume_{family}_{name}" for name in ("whole", "halves"))
        settings = [f"model={family}", "model/size=ci", "logger=jsonl", "training.batch_size=4"]
        settings += ["training.sequence_length=8", "data.prefill_steps=64", "training.num_envs=2"]
        settings += ["training.eval_interval=0", "training.log_interval=5"]
        for label, *overrides in (
            (whole.name, *settings, "training.total_steps=20", f"hydra.run.dir={whole}"),
            (f"{halves.name}_1", *settings, "training.total_steps=10", f"hydra.run.dir={halves}"),
            (f"{halves.name}_2", f"resume={halves}", "training.total_steps=20"),
        ):
            if check.train(label, *overrides, limit=check.left)["rc"] != 0:
                results[family] = {"error": f"{label}.log"}
                break
        else:
            words = ["-c", DIFFERENCES, str(halves), str(whole)]
            done = check.run(f"resume_{family}_differences", words, check.left)
            unequal = last_json(done)
            results[family] = {"exact": unequal == [], "unequal": unequal}
    return results


def ranks(check: Check) -> dict[str, Any]:
    """A run of two processes: nccl with two devices, gloo on a CPU."""
    if check.device != "cpu" and check.results["machine"].get("devices", 0) < 2:
        return {"skipped": "one device"}
    folder = check.out / "ranks"
    settings = [
        "logger=jsonl",
        "training.nproc=2",
        "training.num_envs=2",
        "model/size=ci",
        "training.batch_size=4",
    ]
    settings += ["training.sequence_length=8", "data.prefill_steps=64", "training.total_steps=6"]
    settings += ["training.eval_interval=0", f"hydra.run.dir={folder}"]
    done = check.train("ranks", *settings, limit=check.left)
    return {"rc": done["rc"], "seconds": done["seconds"]}


def learning(check: Check) -> dict[str, Any]:
    """As much of a learning curve as the time allows: cartpole-balance with the official settings
    of DreamerV3 where dm_control is installed, else the default run."""
    folder = check.out / "learning"
    dmc = check.run("dmc", ["-c", "import dm_control; print('yes')"], 60)["lines"][-1:] == ["yes"]
    check.failures = [text for text in check.failures if not text.startswith("dmc:")]
    recipe = ["+experiment=dmc_proprio_dreamerv3", "env.id=cartpole-balance"]
    overrides = recipe if dmc and not check.small else []
    if check.small:
        overrides = ["model/size=ci", "training.total_steps=30", "training.eval_interval=0"]
    done = check.train(
        "learning", *overrides, f"hydra.run.dir={folder}", limit=check.left - GRACE / 2
    )
    records = [json.loads(line) for line in lines_of(folder / "metrics.jsonl")]
    curve = [
        {"env_steps": r["env_steps"], "return": r["metrics"]["episode/return"]}
        for r in records
        if "episode/return" in r["metrics"]
    ]
    last = records[-1] if records else {}
    return {
        "task": " ".join(recipe) if overrides == recipe else "CartPole-v1",
        "folder": folder.name,
        "rc": done["rc"],
        "seconds": done["seconds"],
        "updates": last.get("step"),
        "env_steps": last.get("env_steps"),
        "episodes": curve[:: max(1, len(curve) // 50)],
    }


PARTS: dict[str, Callable[[Check], dict[str, Any]]] = {
    "machine": machine,
    "parity": parity,
    "benchmark": benchmark,
    "resume": resume,
    "ranks": ranks,
    "learning": learning,
}


def last_json(done: dict[str, Any]) -> Any:
    """The JSON value of a command's last line; None where there is none."""
    try:
        return json.loads(done["lines"][-1])
    except (IndexError, ValueError):
        return None


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def install(out: Path, wheels: Path | None) -> str:
    """An environment with WorldFlux and dm_control in OUT/venv; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(out / "venv")], check=True)
    python = str(out / "venv" / "bin" / "python")
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    command = [python, "-m", "pip", "install", "-q", *source, "-c", str(ROOT / "constraints.txt")]
    # The tests hold the comparison with recorded numbers and with an uninterrupted run.
    subprocess.run([*command, "-e", f"{ROOT}[dev,dmc]"], check=True)
    return python


def table(results: dict[str, Any]) -> str:
    """One row for each figure that a person looks for."""
    rows = [(part, "", f["skipped"]) for part, f in results.items() if "skipped" in f]
    done = {part: f for part, f in results.items() if "skipped" not in f}
    for name, figures in done.get("parity", {}).items():
        rows.append(("parity", name, figures["summary"]))
    for name, figures in done.get("benchmark", {}).items():
        shown = ("update_ms", "act_ms", "plan_ms", "peak_share", "device_memory_mb", "rc")
        text = ", ".join(f"{key} {figures[key]}" for key in shown if key in figures)
        rows.append(("benchmark", name, text))
    for name, figures in done.get("resume", {}).items():
        differ = f"{len(figures.get('unequal') or [])} things differ"
        text = "exact" if figures.get("exact") else figures.get("error", differ)
        rows.append(("resume", name, text))
    for name in ("ranks", "learning"):
        if name in done:
            facts = [f"{k} {v}" for k, v in done[name].items() if k != "episodes"]
            rows.append((name, "", ", ".join(facts)))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder for results")
    parser.add_argument(
        "--parity", type=Path, default=ROOT.parent / "shared" / "parity", metavar="DIR"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts")
    parser.add_argument("--small", action="store_true", help="small models, seconds on a CPU")
    parser.add_argument("--install", action="store_true", help="make an environment in OUT/venv")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that --install takes from")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    start, out = time.monotonic(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    python = install(out, args.wheels) if args.install else sys.executable
    os.environ["PYTHONPATH"] = str(ROOT)
    check = Check(
        python, args.device, out, args.parity, args.small, start, start + 60 * args.minutes
    )
    for name, part in PARTS.items():
        if args.only and name not in (*args.only, "machine"):
            continue
        check.results[name] = part(check) if check.left > 5 else {"skipped": "no time was left"}
        if name == "parity":
            bad = [
                n for n, r in check.results[name].items() if isinstance(r, dict) and r["rc"] == 1
            ]
            check.failures += [f"parity {n}: numbers differ" for n in bad]
        summary = {"device": args.device, "small": args.small, **check.results}
        summary |= {"failures": check.failures, "seconds": round(time.monotonic() - start, 1)}
        (out / "gpu_check.json").write_text(json.dumps(summary, indent=1))
    print(table(check.results))
    for text in check.failures:
        print(f"failed: {text}")
    print(json.dumps(summary))
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
