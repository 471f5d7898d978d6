"""Writes spec/vectors/: files that readers must read or refuse, and what to expect of them.

usage: make_vectors.py [--check] [--release]

`--check` writes nothing and fails where something would change. `--release` freezes all vectors:
a released one can be added to, never changed or removed, and this program refuses to.
The appendix of spec/tvq.md that shows the smallest file is kept in step too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

SPEC = Path(__file__).resolve().parent.parent / "spec"
sys.path[:0] = [str(SPEC), str(Path(__file__).resolve().parent)]

import reader  # noqa: E402
from vectors.appendix import BEGIN, END, appendix  # noqa: E402
from vectors.broken_alone import broken_alone  # noqa: E402
from vectors.broken_bytes import broken_bytes  # noqa: E402
from vectors.broken_index import broken_index  # noqa: E402
from vectors.broken_payload import broken_payload  # noqa: E402
from vectors.companions import broken_companions, companions  # noqa: E402
from vectors.files import base_safetensors  # noqa: E402
from vectors.sound import smallest, sound  # noqa: E402

VECTORS = SPEC / "vectors"
MANIFEST = VECTORS / "expected.json"
BASE = "base.safetensors"
SHOWN = 3  # values of a tensor that the manifest shows
SEEDS = (2**32 - 1, 2**32 - 2, 2**32 - 3)  # no parameter has such a number
EPSILON = {"float64": 2**-52, "float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}

Manifest = dict[str, Any]


def build() -> tuple[dict[str, bytes], Manifest]:
    """All files by name, and the manifest with nothing released."""
    files = {BASE: base_safetensors()}
    base = reader.parse_safetensors(files[BASE])
    vectors: Manifest = {}
    for name, (what, draft) in {**sound(), **companions()}.items():
        data = files[f"y_{name}.tvq"] = draft.build()
        vectors[f"y_{name}.tvq"] = {**_head(what, data), **_expected(data, base)}
    for name, rule, what, data in chain(
        broken_bytes(), broken_index(), broken_payload(), broken_alone(), broken_companions()
    ):
        if f"n_{name}.tvq" in files:
            raise SystemExit(f"n_{name}.tvq: two vectors of one name")
        files[f"n_{name}.tvq"] = data
        vectors[f"n_{name}.tvq"] = {**_head(what, data), "rule": rule}
    manifest = {
        "base": {"file": BASE, "sha256": _sha256(files[BASE]), "released": False},
        "tolerance": reader.TOLERANCE,
        "vectors": dict(sorted(vectors.items())),
    }
    return files, manifest


def _head(what: str, data: bytes) -> Manifest:
    return {"what": what, "sha256": _sha256(data), "released": False}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _expected(data: bytes, base: dict[str, reader.Tensor]) -> Manifest:
    file = reader.File(data)
    file.verify()
    needed = base if all(name in base for name in file.names) else None
    tasks = {task.name: _task(file, task.name, needed) for task in file.root.tasks}
    return {"root": file.root_digest, "base": needed is not None, "tasks": tasks}


def _task(file: reader.File, task: str, base: dict[str, reader.Tensor] | None) -> Manifest:
    taus = {file.names[number]: tau for number, tau in file.taus(task, base).items()}
    out: Manifest = {"task_vector": {name: _tau(tau) for name, tau in taus.items()}}
    if base is not None:
        out["fine_tune"] = {
            name: _tensor(tensor, taus.get(name))
            for name, tensor in file.fine_tune(task, base).items()
        }
    if (files := file.files(task)) is not None:
        out["files"] = {
            name: None if data is None else _sha256(data) for name, data in files.items()
        }
    if base is not None and file.index(task).weights:
        weights = file.weight_files(task, base)
        out["weights"] = {name: _sha256(data) for name, data in weights.items()}
    return out


def _tau(tau: reader.Tau) -> Manifest:
    """What a float32 task vector is compared with; NaN and infinities are told as text."""
    return {
        "dims": list(tau.values.shape),
        **_floats(tau.values),
        "tolerance": _short(reader.TOLERANCE * tau.magnitude, 3),
    }


def _tensor(tensor: reader.Tensor, tau: reader.Tau | None) -> Manifest:
    """What a tensor of a fine-tune is compared with: a digest of its bits where it is exact."""
    out: Manifest = {"dtype": tensor.dtype, "dims": list(tensor.dims)}
    if tau is None or not tau.magnitude:
        return {**out, "sha256": _sha256(tensor.values.tobytes())}
    values = reader.widen(tensor)
    rounding = EPSILON[tensor.dtype] * float(np.abs(values).max())
    tolerance = reader.TOLERANCE * tau.magnitude + rounding
    return {**out, **_floats(values), "tolerance": _short(tolerance, 3)}


def _floats(values: np.ndarray) -> Manifest:
    flat = values.astype(np.float64).reshape(-1)
    digits = 17 if values.dtype == np.float64 else 9
    first = [_short(value, digits) if np.isfinite(value) else str(value) for value in flat[:SHOWN]]
    finite = np.where(np.isfinite(flat), flat, 0.0)
    projections = [math.fsum(finite * reader.signs(seed, flat.size)) for seed in SEEDS]
    return {
        "first": first,
        "norm": _short(float(np.linalg.norm(finite))),
        "projections": [_short(projection) for projection in projections],
    }


def _short(value: float, digits: int = 9) -> float:
    """Enough digits for a float32; for a number that is compared within a tolerance."""
    return float(f"{value:.{digits}g}")


def merged(old: Manifest, new: Manifest) -> Manifest:
    """The new manifest with what is released as it was; SystemExit where that would change."""
    held = {"base": old["base"], **old["vectors"]}
    frozen = any(entry["released"] for entry in held.values())
    if frozen and new["tolerance"] != old["tolerance"]:
        raise SystemExit("vectors are released: the tolerance must not change")
    made = {"base": new["base"], **new["vectors"]}
    for name, entry in held.items():
        if not entry["released"]:
            continue
        if name not in made:
            raise SystemExit(f"{name} is released and must stay")
        for key in ("sha256", "rule", "root"):
            if made[name].get(key) != entry.get(key):
                raise SystemExit(f"{name} is released: its {key} must not change")
        made[name] = entry
    base = made.pop("base")
    return {**new, "base": base, "vectors": made}


def text(manifest: Manifest) -> str:
    """The manifest, a line per vector."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}"
        for name, entry in manifest["vectors"].items()
    ]
    return (
        f'{{"base": {json.dumps(manifest["base"])},\n"tolerance": {manifest["tolerance"]},\n'
        + '"vectors": {\n'
        + ",\n".join(lines)
        + "\n}}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a change")
    parser.add_argument("--release", action="store_true", help="freeze all vectors")
    options = parser.parse_args()
    files, manifest = build()
    if MANIFEST.exists():
        manifest = merged(json.loads(MANIFEST.read_text()), manifest)
    if options.release:
        for entry in (manifest["base"], *manifest["vectors"].values()):
            entry["released"] = True
    wanted: dict[Path, bytes] = {VECTORS / name: data for name, data in files.items()}
    wanted[MANIFEST] = text(manifest).encode()
    spec = (SPEC / "tvq.md").read_text()
    before, rest = spec.split(BEGIN)
    after = rest.split(END)[1]
    whole = before + BEGIN + appendix(smallest().build()) + END + after
    wanted[SPEC / "tvq.md"] = whole.encode()
    _write(wanted, options.check)
    print(f"{len(files) - 1} vectors, {sum(map(len, files.values()))} bytes")


def _write(wanted: dict[Path, bytes], check: bool) -> None:
    VECTORS.mkdir(exist_ok=True)
    stale = [path for path in VECTORS.iterdir() if path not in wanted]
    changed = [
        path for path, data in wanted.items() if not path.exists() or path.read_bytes() != data
    ]
    if check and (stale or changed):
        names = ", ".join(sorted(path.name for path in stale + changed)[:9])
        raise SystemExit(f"not up to date: {names}")
    for path in stale:
        path.unlink()
    for path in changed:
        path.write_bytes(wanted[path])


if __name__ == "__main__":
    main()
