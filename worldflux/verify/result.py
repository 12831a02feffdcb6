"""The results of verifications as JSON objects, and as a folder of evidence."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldflux.report.published import ADDRESS_OF
from worldflux.run_folder.disk import file_facts
from worldflux.run_folder.names import MANIFEST, METRICS
from worldflux.verify.proof import AT_PAR, BETTER, Proof
from worldflux.verify.quick import FAILED, Quick

PROTOCOL = "2.0"
EVIDENCE = "worldflux.verify.evidence.v1"


def quick_result(quick: Quick, seconds: float) -> dict[str, Any]:
    """The JSON object of a quick verification."""
    manifest, played, random = quick.manifest, quick.episodes, quick.random_episodes
    failed = [check for check in quick.checks if check.status == FAILED]
    # A run that openly learned from noise promised no return.
    smoke = manifest["data_mode"] == "random" and not manifest["degraded_modes"]
    excused = {"reproduced", "better than random"} if smoke else set()
    blocking = any(check.name not in excused for check in failed)
    reason = "; ".join(f"{check.name}: {check.finding}" for check in failed) or "every check passed"
    if smoke:
        reason = f"trained on random data, so its return proves nothing; {reason}"
    scores = [] if played is None else played.returns
    baseline = None if random is None else random.mean
    facts = ("run_classification", "support_surface", "data_mode", "degraded_modes")
    return {
        "passed": not failed,
        "target": str(quick.run),
        "checkpoint": quick.checkpoint,
        "env": manifest["env"]["id"],
        "episodes": len(scores),
        "mean_score": None if played is None else played.mean,
        "baseline_mean": baseline,
        "elapsed_seconds": seconds,
        "protocol_version": PROTOCOL,
        "model": {task: dataclasses.asdict(one) for task, one in quick.model.items()},
        "checks": [dataclasses.asdict(check) for check in quick.checks],
        "stats": {
            "sample_size": len(scores),
            "confidence": 0.95,
            "scores": scores,
            "interval": None if played is None else played.interval(),
            "baseline": "random policy",
            "baseline_mean": baseline,
            "baseline_std": None if random is None else float(np.std(random.returns)),
            "evaluation_horizon": None if played is None else float(np.mean(played.lengths)),
            **{fact: manifest[fact] for fact in facts},
            "run_manifest": str(quick.run / MANIFEST),
        },
        "verdict_reason": reason,
        "workflow_status": "fail" if blocking else "warning" if failed or smoke else "pass",
        "blocking": blocking,
    }


def proof_result(proof: Proof) -> dict[str, Any]:
    """The JSON object of a proof."""
    published = proof.published
    return {
        "passed": proof.verdict in (BETTER, AT_PAR),
        "verdict": proof.verdict,
        "verdict_reason": proof.reason,
        "task": None if proof.task is None else dataclasses.asdict(proof.task),
        "simulator_steps": None if published is None else published.steps,
        "score_of": None if published is None else published.score_of,
        "source": None if published is None else ADDRESS_OF[published.source],
        "published_scores": None if published is None else published.scores,
        "published_iqm": proof.theirs,
        "iqm": proof.ours,
        "difference_interval": proof.interval,
        "confidence": 0.95,
        "protocol_version": PROTOCOL,
        "runs": [dataclasses.asdict(seed) for seed in proof.seeds],
    }


def write_bundle(folder: Path, mode: str, text: str, runs: Sequence[Path]) -> None:
    """Result, manifests and metrics in one folder, with their checksums."""
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    result = folder / f"{mode}_result.json"
    result.write_text(text, encoding="utf-8")
    artifacts = []
    for index, run in enumerate(runs):
        for source in (run / MANIFEST, run / METRICS):
            if source.exists():
                copy = folder / "artifacts" / f"run{index}_{source.name}"
                shutil.copyfile(source, copy)
                place = {"source": str(source), "path": str(copy.relative_to(folder))}
                artifacts.append({**place, **file_facts(copy)})
    manifest = {
        "schema_version": EVIDENCE,
        "generated_at_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "mode": mode,
        "request": [str(run) for run in runs],
        "result": result.name,
        "artifacts": artifacts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
