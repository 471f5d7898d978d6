"""Three readers agree on the format: on every file that is sound, and on every one that is not."""

import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tvcodec
from tvcodec.errors import BaseModelMismatch, TvqError

SPEC = Path(__file__).parent.parent / "spec"
TOOLS = SPEC.parent / "tools"
VECTORS = SPEC / "vectors"
MANIFEST = json.loads((VECTORS / "expected.json").read_text())
BASE = VECTORS / MANIFEST["base"]["file"]
SOUND = {name: entry for name, entry in MANIFEST["vectors"].items() if "rule" not in entry}
BROKEN = {name: entry for name, entry in MANIFEST["vectors"].items() if "rule" in entry}
CONTENT_RULES = {*range(55, 63), 68}  # what a reader of indexes alone does not see
SEEDS = [2**32 - 1, 2**32 - 2, 2**32 - 3]
WITHOUT_A_FILE = {12, 62}  # need a digest, or another base model: tested below


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reader = load(SPEC / "reader.py")
BASE_MODEL = reader.read_safetensors(BASE)

each_sound = pytest.mark.parametrize("name", SOUND)
each_broken = pytest.mark.parametrize("name", BROKEN)


def assert_near(values, expected):
    flat = np.asarray(values, np.float64).reshape(-1)
    # as many digits are told as make the same number of that dtype
    first = np.array([float(value) for value in expected["first"]], values.dtype)
    tolerance = 1.01 * expected["tolerance"]  # which has three digits
    assert list(np.shape(values)) == expected["dims"]
    np.testing.assert_allclose(flat[: len(first)], first, rtol=0, atol=tolerance)
    finite = np.where(np.isfinite(flat), flat, 0)
    norm = np.linalg.norm(finite)
    assert abs(norm - expected["norm"]) <= tolerance * flat.size**0.5 + 1e-8 * norm
    for seed, wanted in zip(SEEDS, expected["projections"], strict=True):
        projection = finite @ reader.signs(seed, flat.size)
        assert abs(projection - wanted) <= tolerance * flat.size + 1e-8 * (norm + abs(wanted))


def test_the_manifest_is_complete():
    files = {path.name: path.read_bytes() for path in VECTORS.iterdir()}
    del files["expected.json"]
    named = {name: entry["sha256"] for name, entry in MANIFEST["vectors"].items()}
    named[BASE.name] = MANIFEST["base"]["sha256"]
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == named
    assert len(BROKEN) >= 60
    assert len(SOUND) >= 50
    assert sum(map(len, files.values())) < 400_000


def test_vectors_and_appendix_are_what_the_tool_makes(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["make_vectors.py", "--check"])
    load(TOOLS / "make_vectors.py").main()  # which ends with a message where they are not


def test_every_rule_has_a_file():
    text = (SPEC / "tvq.md").read_text()
    rules = [int(number) for number in re.findall(r"^- \*\*R(\d+)\*\*", text, re.M)]
    assert sorted(rules) == list(range(1, len(rules) + 1))
    assert {entry["rule"] for entry in BROKEN.values()} == set(rules) - WITHOUT_A_FILE


def test_the_appendix_is_the_smallest_file():
    text = (SPEC / "tvq.md").read_text().split("```text\noffset")[1].split("```")[0]
    lines = [line[8:55] for line in text.splitlines()[1:]]
    assert bytes.fromhex("".join(lines)) == (VECTORS / "y_smallest.tvq").read_bytes()


@each_sound
def test_the_second_reader_decodes(name):
    expected = SOUND[name]
    file = reader.File(VECTORS / name, expected["root"])
    file.verify()
    assert [task.name for task in file.root.tasks] == list(expected["tasks"])
    base = BASE_MODEL if expected["base"] else None
    for task, wanted in expected["tasks"].items():
        vector = file.task_vector(task, base)
        assert set(vector) == set(wanted["task_vector"])
        for parameter, values in vector.items():
            assert_near(values, wanted["task_vector"][parameter])
        if base is None:
            continue
        assert_same_fine_tune(file.fine_tune(task, base), wanted["fine_tune"])
        assert sha256_of(file.weight_files(task, base)) == wanted.get("weights", {})


@each_sound
def test_both_readers_give_files_beside_weights(name):
    file = reader.File(VECTORS / name)
    with tvcodec.open(VECTORS / name) as bank:
        for task, wanted in SOUND[name]["tasks"].items():
            files = bank.archive.index(task).files
            assert (files is None) == ("files" not in wanted)
            assert sha256_of(file.files(task)) == wanted.get("files", {})
            kept = {
                one.name: bank.archive.companions.content(one.sha256)
                for one in files or ()
                if one.source
            }
            assert sha256_of(kept) == {k: v for k, v in wanted.get("files", {}).items() if v}


def sha256_of(files):
    return {
        name: None if data is None else hashlib.sha256(data).hexdigest()
        for name, data in (files or {}).items()
    }


def test_a_value_in_another_place_or_of_another_sign_is_noticed():
    noticed = []
    for name, expected in SOUND.items():
        if name in ("y_frames.tvq", "y_largest_block16.tvq"):  # large; of a wide tolerance
            continue
        file = reader.File(VECTORS / name)
        base = BASE_MODEL if expected["base"] else None
        for task, wanted in expected["tasks"].items():
            for parameter, values in file.task_vector(task, base).items():
                for changed in changes(values):
                    with pytest.raises(AssertionError):
                        assert_near(changed, wanted["task_vector"][parameter])
                    noticed.append(parameter)
    assert len(noticed) > 100


def changes(values):
    """The values behind the first three in another order, and with other signs."""
    flat = values.reshape(-1)
    for other in (flat[3:][::-1], -flat[3:]):
        changed = np.concatenate([flat[:3], other]).reshape(values.shape)
        if not np.array_equal(changed, values, equal_nan=True):
            yield changed


@each_sound
def test_tvcodec_decodes_the_same(name, tmp_path):
    expected = SOUND[name]
    file = reader.File(VECTORS / name)
    base = BASE if expected["base"] else None
    with tvcodec.open(VECTORS / name, expected_root=expected["root"]) as bank:
        bank.archive.verify()
        assert list(bank.tasks) == list(expected["tasks"])
        for task in bank.tasks:
            taus = file.taus(task, BASE_MODEL if base else None)
            vector = bank.task_vector(task, base)
            assert set(vector) == {file.names[number] for number in taus}
            for number, tau in taus.items():
                values = vector[file.names[number]].numpy()
                assert values.dtype == np.float32
                tolerance = reader.TOLERANCE * tau.magnitude
                np.testing.assert_allclose(values, tau.values, rtol=0, atol=tolerance)
            if base:
                saved = tmp_path / f"{task}.safetensors"
                bank.decode(task, base).save(saved)
                fine_tune = reader.read_safetensors(saved)
                assert_same_fine_tune(fine_tune, expected["tasks"][task]["fine_tune"])


@each_sound
def test_a_merge_is_the_weighted_sum(name):
    if not SOUND[name]["base"]:
        return
    file = reader.File(VECTORS / name)
    with tvcodec.open(VECTORS / name) as bank:
        if not bank.tasks:
            with pytest.raises(tvcodec.TvqError, match="at least one task"):
                bank.merge(BASE)
            return
        weights = {task: 0.75 - number for number, task in enumerate(bank.tasks)}
        merged = bank.merge(BASE, weights)
        taus = {task: file.taus(task, BASE_MODEL) for task in bank.tasks}
        for number, parameter in enumerate(file.root.base_model):
            base = BASE_MODEL[parameter.name]
            changed = [
                (w, taus[task][number]) for task, w in weights.items() if number in taus[task]
            ]
            finite = parameter.dtype == "float32" and np.isfinite(reader.widen(base)).all()
            if changed and finite:
                total = reader.widen(base) + sum(w * tau.values for w, tau in changed)
                size = np.abs(reader.widen(base)).max() + np.abs(total).max()
                tolerance = 1e-6 * size + reader.TOLERANCE * sum(
                    tau.magnitude for _, tau in changed
                )
                found = merged[parameter.name].numpy()
                np.testing.assert_allclose(found, total, rtol=0, atol=tolerance)
            elif not changed:
                found = merged[parameter.name].contiguous().reshape(-1).view(torch.uint8)
                assert found.numpy().tobytes() == base.values.tobytes()


def assert_same_fine_tune(fine_tune, wanted):
    assert set(fine_tune) == set(wanted)
    for parameter, tensor in fine_tune.items():
        what = wanted[parameter]
        assert (tensor.dtype, list(tensor.dims)) == (what["dtype"], what["dims"])
        if "sha256" in what:
            assert hashlib.sha256(tensor.values.tobytes()).hexdigest() == what["sha256"]
        else:
            assert_near(reader.widen(tensor), what)


@each_broken
def test_the_second_reader_refuses_for_the_right_reason(name):
    with pytest.raises(reader.Refused) as refused:
        reader.File(VECTORS / name).verify()
    assert refused.value.rule == BROKEN[name]["rule"]


@each_broken
def test_tvcodec_refuses(name):
    with pytest.raises(TvqError):
        decode_all(VECTORS / name)


def decode_all(path):
    with tvcodec.open(path) as bank:
        bank.archive.verify()
        for task in bank.tasks:
            known = all(parameter.name in BASE_MODEL for parameter in bank.archive.root.base_model)
            model = bank.decode(task, BASE) if known else bank.task_vector(task)
            for parameter in model:
                _ = model[parameter]


def test_the_third_reader_agrees_on_bytes_and_indexes():
    node = shutil.which("node")
    assert node, "expected node (20 or newer) on PATH for spec/reader.mjs, got none"
    paths = sorted(VECTORS.glob("*.tvq"))
    result = subprocess.run(
        [node, SPEC / "reader.mjs", *paths], capture_output=True, text=True, check=True
    )
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(verdict["path"]) for verdict in verdicts] == paths
    for path, verdict in zip(paths, verdicts, strict=True):
        expected = MANIFEST["vectors"][path.name]
        if "rule" in expected and expected["rule"] not in CONTENT_RULES:
            assert verdict.get("refused") == expected["rule"], verdict
        elif "rule" not in expected:
            assert verdict.get("root") == expected["root"], verdict
            assert verdict["tasks"] == list(expected["tasks"])
        else:
            assert "root" in verdict, verdict


def test_another_root_than_the_pinned_one_is_refused():
    path = VECTORS / "y_smallest.tvq"
    with pytest.raises(reader.Refused, match="R12"):
        reader.File(path, "0" * 64)
    with pytest.raises(TvqError, match="expected root"):
        tvcodec.open(path, expected_root="0" * 64)


def test_a_pinned_file_is_verified_before_anything_is_decompressed():
    path = VECTORS / "n_group_digest.tvq"
    with tvcodec.open(path) as bank:
        root, task = bank.root, bank.tasks[0]
        assert all(tensor is not None for tensor in bank.task_vector(task).values())
    with tvcodec.open(path, expected_root=root) as bank:
        vector = bank.task_vector(task)
        with pytest.raises(TvqError, match=f"task '{task}': checksum mismatch"):
            _ = [vector[name] for name in vector]


def test_another_base_model_is_refused(tmp_path):
    changed = tmp_path / "base.safetensors"
    data = bytearray(BASE.read_bytes())
    name = "l"
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    begin, _ = header[name]["data_offsets"]
    data[8 + int.from_bytes(data[:8], "little") + begin] ^= 1
    changed.write_bytes(data)
    path = VECTORS / "y_smallest.tvq"
    with pytest.raises(reader.Refused, match="R62"):
        reader.File(path).fine_tune("a", reader.read_safetensors(changed))
    with tvcodec.open(path) as bank, pytest.raises(BaseModelMismatch):
        _ = bank.decode("a", changed)[name]


def test_too_many_arrays_are_refused(monkeypatch):
    assert reader.CONTAINERS_MAX == 2**22
    monkeypatch.setattr(reader, "CONTAINERS_MAX", 100)
    reader.Spelling(b"\xdc\x00\x63" + b"\x90" * 99).whole()
    with pytest.raises(reader.Refused, match="R18"):
        reader.Spelling(b"\xdc\x00\x64" + b"\x90" * 100).whole()


@pytest.mark.parametrize("change", ["gone", "bytes", "rule", "tolerance"])
def test_a_released_vector_cannot_change(change):
    tool = load(TOOLS / "make_vectors.py")
    entry = {"released": True, "sha256": "a", "rule": 1}
    base = {"released": False, "sha256": "b"}
    old = {"base": base, "tolerance": 1e-5, "vectors": {"n_x.tvq": entry}}
    new = {
        "base": base,
        "tolerance": 1e-5,
        "vectors": {"n_x.tvq": dict(entry), "n_y.tvq": dict(entry)},
    }
    assert tool.merged(old, new)["vectors"]["n_x.tvq"] == entry
    if change == "gone":
        del new["vectors"]["n_x.tvq"]
    elif change == "tolerance":
        new["tolerance"] = 1e-4
    else:
        new["vectors"]["n_x.tvq"]["sha256" if change == "bytes" else "rule"] = "other"
    with pytest.raises(SystemExit, match="released"):
        tool.merged(old, new)
