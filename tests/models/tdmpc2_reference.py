"""TD-MPC2's formulas once more, in NumPy's float64, on weights under their official names.

Written from the formulas of the papers and the recorded folders' description, for one environment
at a time and without any code of the package.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Array = np.ndarray


def mish(x: Array) -> Array:
    return x * np.tanh(np.logaddexp(0, x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def simnorm(x: Array, group: int) -> Array:
    return softmax(x.reshape(*x.shape[:-1], -1, group)).reshape(x.shape)


def symexp(x: Array) -> Array:
    return np.sign(x) * (np.exp(np.abs(x)) - 1)


def convolve(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Valid cross-correlation of [N, C, H, W] with [O, C, K, K]."""
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return (
        np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight)
        + (bias[:, None, None])
    )


def shifted(x: Array, shift: Array) -> Array:
    """Bilinear samples of the edge-padded picture [C, 64, 64] at a grid moved by (x, y) pixels, with
    coordinates between -1 and 1 as spatial transformers have them."""
    side = x.shape[-1]
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3)), mode="edge")
    full = side + 6
    base = np.linspace(-1 + 1 / full, 1 - 1 / full, full)[:side]
    places = [((base + s * 2 / full + 1) * full - 1) / 2 for s in shift]
    low = [np.floor(p + 1e-9).astype(int) for p in places]
    part = [p - i for p, i in zip(places, low, strict=True)]
    high = [np.minimum(i + 1, full - 1) for i in low]

    def at(rows: Array, columns: Array) -> Array:
        return padded[:, rows[:, None], columns[None]]

    (fx, fy), (x0, y0), (x1, y1) = part, low, high
    top = at(y0, x0) * (1 - fx) + at(y0, x1) * fx
    bottom = at(y1, x0) * (1 - fx) + at(y1, x1) * fx
    return top * (1 - fy[:, None]) + bottom * fy[:, None]


class Reference:
    """weights: official names. masks [T, A] of a multi-task model."""

    def __init__(
        self,
        weights: Mapping[str, Array],
        *,
        group: int = 8,
        log_std: tuple[float, float] = (-10, 2),
        bins: tuple[float, float] = (-10, 10),
        masks: Array | None = None,
    ):
        self.weights = {k: np.asarray(v, np.float64) for k, v in weights.items()}
        self.group, self.log_std, self.masks = group, log_std, masks
        self.bins = np.linspace(*bins, self.weights["_reward.2.weight"].shape[0])

    def layer(self, name: str, x: Array, index: int | None = None) -> Array:
        def get(part: str) -> Array:
            weight = self.weights[f"{name}.{part}"]
            return weight if index is None else weight[index]

        x = x @ get("weight").T + get("bias")
        if f"{name}.ln.weight" not in self.weights:
            return x
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-5) * get("ln.weight") + get("ln.bias")

    def mlp(self, name: str, x: Array, layers: int = 3, index: int | None = None) -> Array:
        for i in range(layers - 1):
            x = mish(self.layer(f"{name}.{i}", x, index))
        return self.layer(f"{name}.{layers - 1}", x, index)

    def task(self, x: Array, task: int | None) -> Array:
        if task is None:
            return x
        row = self.weights["_task_emb.weight"][task]
        norm = np.linalg.norm(row)
        row = row / (norm + 1e-7) if norm > 1 else row
        return np.concatenate([x, np.broadcast_to(row, (*x.shape[:-1], len(row)))], -1)

    def joint(self, z: Array, action: Array, task: int | None) -> Array:
        return np.concatenate([self.task(z, task), action], -1)

    def encode(self, obs: Array, task: int | None = None) -> Array:
        return simnorm(self.mlp("_encoder.state", self.task(obs, task), 2), self.group)

    def encode_pictures(self, x: Array) -> Array:
        """[N, C, 64, 64] of 0 to 255."""
        x = x / 255 - 0.5
        for name, stride in ((2, 2), (4, 2), (6, 2), (8, 1)):
            key = f"_encoder.rgb.{name}"
            x = convolve(x, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"], stride)
            x = np.maximum(x, 0) if name != 8 else x
        return simnorm(x.reshape(len(x), -1), self.group)

    def next(self, z: Array, action: Array, task: int | None = None) -> Array:
        return simnorm(self.mlp("_dynamics", self.joint(z, action, task)), self.group)

    def scalar(self, logits: Array) -> Array:
        return symexp((softmax(logits) * self.bins).sum(-1))

    def reward(self, z: Array, action: Array, task: int | None = None) -> Array:
        return self.scalar(self.mlp("_reward", self.joint(z, action, task)))

    def q(self, z: Array, action: Array, task: int | None, index: int, target: bool) -> Array:
        name = "_target_Qs_params" if target else "_Qs.params"
        return self.scalar(self.mlp(name, self.joint(z, action, task), index=index))

    def pi(self, z: Array, eps: Array, task: int | None = None) -> tuple[Array, Array, Array]:
        """(action, entropy, scaled entropy) of noise eps."""
        mean, raw = np.split(self.mlp("_pi", self.task(z, task)), 2, -1)
        low, high = self.log_std
        log_std = low + 0.5 * (high - low) * (np.tanh(raw) + 1)
        dims: float = mean.shape[-1]
        if self.masks is not None:
            mask = self.masks[task]
            mean, log_std, eps, dims = mean * mask, log_std * mask, eps * mask, mask.sum()
        plain = (-0.5 * eps**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)
        action = np.tanh(mean + eps * np.exp(log_std))
        squashed = plain - np.log(np.maximum(1 - action**2, 0) + 1e-6).sum(-1)
        return action, -squashed, -squashed * plain * dims / (squashed + 1e-8)

    def value(
        self, z: Array, actions: Array, eps: Array, index: Array, discount: float, task: int | None
    ) -> Array:
        total, factor = np.zeros(len(z)), 1.0
        for action in actions:
            total = total + factor * self.reward(z, action, task)
            z, factor = self.next(z, action, task), factor * discount
        last = self.pi(z, eps, task)[0]
        return total + factor * np.mean(
            [self.q(z, last, task, i, target=False) for i in index], axis=0
        )

    def plan(
        self,
        obs: Array,
        noise: Mapping[str, Array],
        *,
        elites: int,
        discount: float,
        task: int | None = None,
        prev_mean: Array | None = None,
        temperature: float = 0.5,
        std_range: tuple[float, float] = (0.05, 2.0),
    ) -> tuple[Array, Array]:
        """(action [A], mean [H, A]) by MPPI. noise: policy [H, P, A], sample [K, H, S-P, A], value
        [K, S, A], index [K, 2], exponential [E], action [A]."""
        mask = np.ones(noise["action"].shape) if task is None else self.masks[task]  # type: ignore
        start = self.encode(obs[None], task)
        steps, count, width = noise["policy"].shape
        z, policy = np.repeat(start, count, 0), []
        for eps in noise["policy"]:
            policy.append(self.pi(z, eps, task)[0])
            z = self.next(z, policy[-1], task)
        mean, std = np.zeros((steps, width)), np.full((steps, width), std_range[1])
        if prev_mean is not None:
            mean[:-1] = prev_mean[1:]
        rounds = zip(noise["sample"], noise["value"], noise["index"], strict=True)
        for sample, eps, index in rounds:
            drawn = np.clip(mean[:, None] + std[:, None] * sample, -1, 1)
            actions = np.concatenate([np.stack(policy), drawn], 1) * mask
            z = np.repeat(start, actions.shape[1], 0)
            values = self.value(z, actions, eps, index, discount, task)
            best = np.argsort(-values, kind="stable")[:elites]
            score = np.exp(temperature * (values[best] - values[best[0]]))
            score = score / score.sum()
            weight = score[None, :, None]
            mean = (weight * actions[:, best]).sum(1) / (score.sum() + 1e-9)
            spread = (weight * (actions[:, best] - mean[:, None]) ** 2).sum(1)
            std = np.clip(np.sqrt(spread / (score.sum() + 1e-9)), *std_range) * mask
            mean = mean * mask
        chosen = best[np.argmax(np.log(score) - np.log(noise["exponential"]))]
        return np.clip(actions[0, chosen] + std[0] * noise["action"], -1, 1), mean
