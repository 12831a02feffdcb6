"""Gymnasium spaces to those of the step dict: named observation arrays in, one flat action out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces as gs
from PIL import Image

from worldflux.config.spaces import STEP_KEYS, Space
from worldflux.errors import ConfigurationError

SINGLE_KEY = "obs"  # name of an observation that is not a Dict
UNBOUNDED = 1e9  # such bounds of an action, the largest float for one, stand for none
SMALLEST_IMAGE = 16  # grids below this are symbols (MiniGrid's 7x7x3), not pictures
LONGEST_PLANE = 3  # a plane's sides at most: longer ones are lines of text (NetHack's 21x79)
LARGE_VECTOR = (
    1000  # numbers of a vector beyond which it may be a picture that nobody declared as one
)


@dataclass(frozen=True)
class Leaf:
    """One array inside a (possibly nested) gymnasium space."""

    name: str
    path: tuple[Any, ...]
    space: gs.Space[Any]

    def take(self, value: Any) -> Any:
        for key in self.path:
            value = value[key]
        return value


def leaves(space: gs.Space[Any], name: str, path: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """Arrays of a nested Dict/Tuple space; nested names are joined with ``/``."""
    items: list[tuple[Any, gs.Space[Any]]]
    if isinstance(space, gs.Dict):
        items = list(space.spaces.items())
    elif isinstance(space, gs.Tuple):
        items = list(enumerate(space.spaces))
    else:
        yield Leaf(name, path, space)
        return
    named = bool(path) or isinstance(space, gs.Tuple)
    for key, child in items:
        child_name = f"{name}/{key}" if named else str(key)
        yield from leaves(child, child_name, (*path, key))


@dataclass(frozen=True)
class ImageFormat:
    """How a picture becomes ``(C, H, W)`` uint8.

    size: (height, width) to resize to, None to keep. grayscale: one luma channel.
    """

    size: tuple[int, int] | None = None
    grayscale: bool = False


class ObservationEncoder:
    """Turns one environment's observation into the named arrays of the step dict.

    Pictures (see `picture_form`) become ``(C, H, W)`` uint8, their declared bounds 0..255; discrete
    spaces int64 counted from 0; everything else a flat float32 vector. Keys of no such form (text)
    and empty ones are left out of a Dict, `left_out` names them; `large` says which long vectors look
    like pictures and why they are none. Raises
    ConfigurationError for a reserved name and where nothing is left. The arrays are its own: the
    environment may reuse what it returned.
    """

    def __init__(self, space: gs.Space[Any], image: ImageFormat) -> None:
        self.spaces: dict[str, Space] = {}
        self.left_out: list[str] = []
        self.large: list[str] = []
        self._parts: list[tuple[Leaf, Callable[[Any], np.ndarray]]] = []
        for leaf in leaves(space, SINGLE_KEY):
            if leaf.name in STEP_KEYS:
                raise ConfigurationError(
                    f"observation key {leaf.name!r} is reserved for the step itself "
                    f"({', '.join(STEP_KEYS)}): rename it in the environment"
                )
            if leaf.name in self.spaces:
                raise ConfigurationError(f"two observation keys are named {leaf.name!r}")
            form = _observation(leaf, image)
            if form is None:
                empty = "empty " * isinstance(leaf.space, gs.Box)
                self.left_out.append(f"{leaf.name} ({empty}{type(leaf.space).__name__})")
                continue
            self.spaces[leaf.name], convert = form
            if len(leaf.space.shape or ()) > 1 and self.spaces[leaf.name].size > LARGE_VECTOR:
                if self.spaces[leaf.name].dtype == "float32":
                    self.large.append(_no_picture(leaf))
            self._parts.append((leaf, convert))
        if not self._parts:
            raise ConfigurationError(
                f"the environment's observation {space} holds nothing to learn from: Box, Discrete, "
                "MultiDiscrete, MultiBinary and Dict/Tuple of them can be observed"
            )

    def __call__(self, observation: Any) -> dict[str, np.ndarray]:
        return {leaf.name: convert(leaf.take(observation)) for leaf, convert in self._parts}


def gym_space(spaces: Mapping[str, Space]) -> gs.Dict:
    """Encoded observations as a gymnasium space, for the vector environments."""
    return gs.Dict([(name, _plain_box(space)) for name, space in spaces.items()])


def _plain_box(space: Space) -> gs.Box:
    if space.dtype == "float32":
        return gs.Box(-np.inf, np.inf, space.shape, np.float32)
    high = 255 if space.dtype == "uint8" else np.iinfo(np.int64).max
    return gs.Box(0, high, space.shape, np.dtype(space.dtype).type)


def _observation(
    leaf: Leaf, image: ImageFormat
) -> tuple[Space, Callable[[Any], np.ndarray]] | None:
    """The step dict's space of one array and its conversion; None where it has none."""
    space = leaf.space
    if (entries := discrete_entries(space)) is not None:
        coded, start = entries
        return coded, lambda x: (np.asarray(x).reshape(coded.shape) - start).astype(np.int64)
    if not isinstance(space, gs.Box):
        return None
    size = int(np.prod(space.shape))
    if size == 0:
        return None
    if (form := picture_form(space)) is not None:
        encoder = PictureEncoder(form, image, leaf.name)
        return encoder.space, encoder
    return Space((size,), "float32"), lambda x: np.array(x, np.float32).reshape(size)


def discrete_entries(space: gs.Space[Any]) -> tuple[Space, np.ndarray] | None:
    """The step dict's space of a discrete one, and what its entries count from; None: it is none."""
    if isinstance(space, gs.Discrete):
        return Space((), "int64", (int(space.n),)), np.asarray(space.start)
    if isinstance(space, gs.MultiDiscrete):
        classes = tuple(int(n) for n in np.asarray(space.nvec).reshape(-1))
        return Space((len(classes),), "int64", classes), np.asarray(space.start).reshape(-1)
    if isinstance(space, gs.MultiBinary):
        size = int(np.prod(space.shape))
        return Space((size,), "int64", (2,) * size), np.zeros(size, np.int64)
    return None


@dataclass(frozen=True)
class PictureForm:
    """How an array holds a picture: pictures one after another (`frames` of them), each
    ``[H, W, C]``, ``[C, H, W]`` where `first`, or ``[H, W]`` where `flat`; low and high: its bounds."""

    shape: tuple[int, ...]
    frames: int
    first: bool
    flat: bool
    low: float
    high: float

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.shape[1:] if self.first else self.shape[:2]
        return height, width

    @property
    def channels(self) -> int:
        """Of one frame."""
        return 1 if self.flat else self.shape[0 if self.first else -1]


def picture_form(space: gs.Space[Any]) -> PictureForm | None:
    """The form of an array that image encoders are for; None: it is none.

    Numbers of any type with finite bounds, the same for all, of at least 16 pixels a side: a picture
    in colour or of several planes, or up to 15 of them in front of each other (frames); a plane whose
    sides differ by a factor of three at most and whose whole numbers are 0..1 or 0..255, as other
    ones are codes. The channels are the first axis if it is shorter than the last or the two others
    are equal, else the last.
    """
    if not isinstance(space, gs.Box) or len(space.shape) not in (2, 3, 4) or 0 in space.shape:
        return None
    low, high = float(space.low.min()), float(space.high.max())
    even = bool((space.low == space.low.flat[0]).all() and (space.high == space.high.flat[0]).all())
    if not even and space.dtype != np.uint8:
        return None
    if not (-UNBOUNDED < low < high < UNBOUNDED):
        return None
    frames, shape = 1, space.shape
    if len(shape) == 4:
        frames, shape = shape[0], shape[1:]
    if frames >= SMALLEST_IMAGE or sorted(shape)[-2] < SMALLEST_IMAGE:
        return None
    flat = len(shape) == 2
    if flat and max(shape) > LONGEST_PLANE * min(shape):
        return None
    if flat and space.dtype.kind in "iu" and (low, high) not in ((0, 1), (0, 255)):
        return None
    first = not flat and (shape[0] < shape[2] or shape[1] == shape[2] != shape[0])
    return PictureForm(shape, frames, first, flat, low, high)


def is_picture(space: gs.Space[Any]) -> bool:
    """Whether the array is one that image encoders are for, see `picture_form`."""
    return picture_form(space) is not None


def _no_picture(leaf: Leaf) -> str:
    space = leaf.space
    assert isinstance(space, gs.Box)
    finite = abs(float(space.low.min())) < UNBOUNDED and abs(float(space.high.max())) < UNBOUNDED
    reason = "" if finite else ": its bounds are not finite"
    size = int(np.prod(space.shape))
    return (
        f"observation {leaf.name!r} {space.shape} is taken as a vector of {size:,} numbers, for an "
        f"MLP; it is not a picture by what it declares{reason}"
    )


class PictureEncoder:
    """A picture of any form to ``[C, H, W]`` uint8, gray and resized; frames one after another along
    the channels, as they come.

    Resizing is Pillow's antialiased bilinear filter; gray is the ITU-R 601 luma that Pillow computes.
    """

    def __init__(self, form: PictureForm, image: ImageFormat, name: str) -> None:
        self._form = form
        self._scale = 255.0 / (form.high - form.low)
        channels = form.channels
        self._gray = image.grayscale and channels != 1
        if self._gray and channels != 3:
            raise ConfigurationError(
                f"env.grayscale=true: observation key {name!r} has {channels} channels, not 3"
            )
        self._size = None if image.size in (None, form.size) else image.size
        channels = form.frames * (1 if self._gray else channels)
        self.space = Space((channels, *(image.size or form.size)), "uint8")

    def __call__(self, picture: Any) -> np.ndarray:
        form = self._form
        x = np.asarray(picture).reshape(form.frames, *form.shape)
        if (form.low, form.high) != (0, 255) or x.dtype != np.uint8:
            x = x if form.low == 0 else np.subtract(x, form.low, dtype=np.float32)
            x = np.clip(np.rint(x * self._scale), 0, 255).astype(np.uint8)
        frames = [self._frame(frame) for frame in x]
        whole = frames[0] if len(frames) == 1 else np.concatenate(frames, axis=2)
        if self._size is not None:
            whole = resize(whole, self._size)
        # A copy in any case: the environment may write its next picture into the same array.
        return np.array(whole.transpose(2, 0, 1), order="C")

    def _frame(self, x: np.ndarray) -> np.ndarray:
        """One frame as `[H, W, C]`."""
        if self._form.flat:
            x = x[:, :, None]
        elif self._form.first:
            x = x.transpose(1, 2, 0)
        if self._gray:
            x = np.asarray(Image.fromarray(np.ascontiguousarray(x)).convert("L"))[:, :, None]
        return x


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Picture `[H, W, C]` uint8 resized to `[size[0], size[1], C]`."""

    def resized(x: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(x))
        return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))

    if picture.shape[2] == 3:
        return resized(picture)
    return np.stack([resized(plane) for plane in np.moveaxis(picture, 2, 0)], axis=2)


class ActionDecoder:
    """Turns the flat action `[A]` into what the environment's `step` takes.

    Keys are sorted by name. A discrete entry is the argmax of its one-hot (an offset `start` is
    honoured); a continuous value in [-1, 1] is rescaled to the bounds where both are finite, to the
    two units beside the only finite one, and passed through where there is none; bounds of 1e9 and
    more are none. rescale=False: values are the environment's own, clipped to its bounds. `ranges`
    says of each key what it comes to.
    """

    def __init__(self, space: gs.Space[Any], rescale: bool = True) -> None:
        parts = sorted(leaves(space, "action"), key=lambda leaf: leaf.name)
        if not parts:
            raise ConfigurationError("the environment has an empty action space")
        self.spaces = {leaf.name: _action_space(leaf) for leaf in parts}
        self.ranges = {leaf.name: action_range(leaf.space, rescale) for leaf in parts}
        self.space, self._rescale = space, rescale
        self._decoders: list[tuple[Leaf, slice, Callable[[np.ndarray], Any]]] = []
        begin = 0
        for leaf in parts:
            end = begin + self.spaces[leaf.name].flat_dim
            self._decoders.append((leaf, slice(begin, end), _decoder(leaf.space, rescale)))
            begin = end
        self.flat_dim = begin

    def described(self) -> list[dict[str, Any]]:
        """How each action key is read from the flat action, as plain data: the argmax of each group
        of `classes` entries plus `start`, or the values times `scale` plus `offset`, clipped to `low`
        and `high` (null: no bound)."""
        return [
            {"name": leaf.name, "begin": part.start, "end": part.stop}
            | _described(leaf.space, self._rescale)
            for leaf, part, _ in self._decoders
        ]

    def __call__(self, flat: np.ndarray) -> Any:
        values = {leaf.path: decode(flat[part]) for leaf, part, decode in self._decoders}
        return _nest(self.space, values, ())


def _nest(
    space: gs.Space[Any], values: Mapping[tuple[Any, ...], Any], path: tuple[Any, ...]
) -> Any:
    if isinstance(space, gs.Dict):
        return {k: _nest(child, values, (*path, k)) for k, child in space.spaces.items()}
    if isinstance(space, gs.Tuple):
        return tuple(_nest(child, values, (*path, i)) for i, child in enumerate(space.spaces))
    return values[path]


def _action_space(leaf: Leaf) -> Space:
    if (entries := discrete_entries(leaf.space)) is not None:
        return entries[0]
    if isinstance(leaf.space, gs.Box):
        return Space((int(np.prod(leaf.space.shape)),), "float32")
    raise ConfigurationError(
        f"action key {leaf.name!r} is a {type(leaf.space).__name__} space; Box, Discrete, "
        "MultiDiscrete, MultiBinary and Dict/Tuple of them can be acted in"
    )


def _decoder(space: gs.Space[Any], rescale: bool) -> Callable[[np.ndarray], Any]:
    if isinstance(space, gs.Box):
        return _box_decoder(space, rescale)
    entries = discrete_entries(space)
    assert entries is not None
    coded, start = entries
    parts = [slice(a, b) for a, b in pairwise(np.cumsum([0, *coded.classes]))]

    def decode(x: np.ndarray) -> Any:
        values = np.array([np.argmax(x[part]) for part in parts]) + start
        scalar = isinstance(space, gs.Discrete)
        return int(values[0]) if scalar else values.astype(space.dtype).reshape(space.shape)

    return decode


def _unbounded(space: gs.Space[Any]) -> bool:
    bounds = (space.low, space.high) if isinstance(space, gs.Box) else ()
    return any((np.abs(bound.astype(np.float64)) >= UNBOUNDED).any() for bound in bounds)


def action_ends(space: gs.Box) -> tuple[np.ndarray, np.ndarray]:
    """What -1 and 1 of the agent become, flat."""
    low = space.low.astype(np.float64).reshape(-1)
    high = space.high.astype(np.float64).reshape(-1)
    below, above = np.abs(low) < UNBOUNDED, np.abs(high) < UNBOUNDED
    first = np.where(below, low, np.where(above, high - 2.0, -1.0))
    return first, np.where(above, high, first + 2.0)


def action_range(space: gs.Space[Any], rescale: bool) -> str:
    """What the agent can do with one action key, in a few words."""
    if (entries := discrete_entries(space)) is not None:
        counts = entries[0].classes
        if len(set(counts)) == 1:
            return f"{len(counts)} x " * (len(counts) > 1) + f"{counts[0]} choices"
        return f"{', '.join(map(str, counts))} choices"
    assert isinstance(space, gs.Box)
    first, last = action_ends(space)
    if not rescale:
        first, last = np.full_like(first, -1.0), np.full_like(last, 1.0)
    even = bool((first == first[:1]).all() and (last == last[:1]).all())
    values = f"{len(first)} value{'s' * (len(first) != 1)}"
    text = f"{values} {'in' if even else 'within'} [{first.min():g}, {last.max():g}]"
    if not rescale:
        return f"{text}, clipped to the bounds of the environment"
    unit = ", not bounded on both sides: 1 of the agent is 1 there"
    return text + unit * _unbounded(space)


def _described(space: gs.Space[Any], rescale: bool) -> dict[str, Any]:
    common = {"shape": list(space.shape or ()), "dtype": str(space.dtype)}
    if (entries := discrete_entries(space)) is not None:
        coded, start = entries
        starts = np.broadcast_to(start, len(coded.classes)).tolist()
        return {"kind": "discrete", "classes": list(coded.classes), "start": starts, **common}
    assert isinstance(space, gs.Box)
    scale, offset = _scale(space, rescale)
    low, high = (
        [float(x) if np.isfinite(x) else None for x in bound.reshape(-1)]
        for bound in (space.low, space.high)
    )
    ends = {"scale": scale.tolist(), "offset": offset.tolist(), "low": low, "high": high}
    return {"kind": "continuous", **ends, **common}


def _scale(space: gs.Box, rescale: bool) -> tuple[np.ndarray, np.ndarray]:
    """Factor and offset from the agent's values to the environment's, flat."""
    first, last = action_ends(space)
    if not rescale:
        return np.ones_like(first), np.zeros_like(first)
    return (last - first) / 2, (first + last) / 2


def _box_decoder(space: gs.Box, rescale: bool) -> Callable[[np.ndarray], Any]:
    low = space.low.astype(np.float64).reshape(-1)
    high = space.high.astype(np.float64).reshape(-1)
    half, middle = _scale(space, rescale)
    whole = np.issubdtype(space.dtype, np.integer)
    shape, dtype = space.shape, space.dtype

    def decode(x: np.ndarray) -> np.ndarray:
        value = np.clip(x.astype(np.float64) * half + middle, low, high)
        return (np.rint(value) if whole else value).astype(dtype).reshape(shape)

    return decode
