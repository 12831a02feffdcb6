"""Whose run a folder holds: a signature over what its configuration would import or open.

A recorded configuration may name Python modules (``env.import``, an id ``module:Name-v0``, each
``_target_``) and an address to listen on. Both are followed only in a run that this user made, or where the command line
names them. The key is the user's own, in the state directory of the machine or home.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from worldflux.errors import ConfigurationError

SIGNATURE = "signature"
KEY_BYTES = 32
# Of the configuration: what imports a module, and what opens a port; and of the loggers whatever is
# not about a file in the run folder.
SIGNED = ("env", "visualization")
LOCAL = ("tensorboard", "csv")
OF_MODEL = ("components", "losses")  # what of a model's configuration is code of the user's own


def signature(manifest: Mapping[str, Any]) -> str | None:
    """This user's signature of a manifest's configuration; None: it has none, or there is no key."""
    content, key = _content(manifest), _key()
    return None if content is None or key is None else _digest(key, content)


def is_signed(manifest: Mapping[str, Any]) -> bool:
    """Whether this user made the run."""
    recorded, expected = manifest.get(SIGNATURE), signature(manifest)
    return (
        expected is not None
        and isinstance(recorded, str)
        and hmac.compare_digest(recorded.encode(), expected.encode())
    )


def modules_of(config: Mapping[str, Any]) -> list[str]:
    """The modules that a run of this configuration imports by name; groups may be missing."""
    env = config.get("env") or {}
    ids = [str(env.get("id") or ""), *map(str, env.get("tasks") or ())]
    names = [str(env.get("import_module") or ""), *(id.rpartition(":")[0] for id in ids)]
    foreign = [env.get("wrappers"), config.get("callbacks"), *_code(config).values()]
    names += [target.rpartition(".")[0] for one in foreign for target in _targets(one)]
    return list(dict.fromkeys(name for name in names if name))


def _code(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of the model is code of the user's own, by its key; nothing where there is none."""
    model = config.get("model")
    values = model if isinstance(model, Mapping) else {}
    return {name: values[name] for name in OF_MODEL if values.get(name)}


def _targets(content: Any) -> Iterator[str]:
    """Every `_target_` in it, however deep."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key == "_target_":
                yield str(value)
            else:
                yield from _targets(value)


def check_modules(
    folder: Path,
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    named: Collection[str] = (),
    hint: str = "",
) -> None:
    """ConfigurationError where a recorded configuration would import a module although another user
    made the run. named: modules that the command line names. hint: how else they are named."""
    foreign = [name for name in modules_of(config) if name not in named]
    if foreign and not is_signed(manifest):
        raise ConfigurationError(
            f"{folder} names the module {foreign[0]!r}, which would be imported, and it is not "
            "signed as a run of yours",
            hint=f"to import it, {hint}" if hint else "",
        )


def sent_away(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of loggers that send a run elsewhere, and where to."""
    logger = config.get("logger")
    settings = logger.items() if isinstance(logger, Mapping) else ()
    return {name: value for name, value in settings if name not in LOCAL and value}


def _content(manifest: Mapping[str, Any]) -> bytes | None:
    config = manifest.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("env"), Mapping):
        return None
    signed = {name: config.get(name) for name in SIGNED}
    if away := sent_away(config):
        signed["logger"] = away
    if callbacks := config.get("callbacks"):
        signed["callbacks"] = callbacks
    signed |= _code(config)
    if code := _code({"model": manifest.get("model_config")}):
        signed["model_config"] = code
    return json.dumps(signed, sort_keys=True).encode()


def _digest(key: bytes, content: bytes) -> str:
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """The user's key, made on first use; None where it cannot be kept."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(state) / "worldflux" / "key"
        if not path.exists():
            _make_key(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                return None
            key = file.read(KEY_BYTES)
    except (OSError, RuntimeError):
        return None
    return key if len(key) == KEY_BYTES else None


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".tmp-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # of two processes one makes it
    except FileExistsError:
        pass
    finally:
        draft.unlink()
