"""`tvcodec report`: the page says what `info` says, and takes nothing in a file for markup."""

import functools
import itertools
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from report_banks import HOSTILE, MALFORMED, TUNING, hostile_bank, many_tasks

import tvcodec
from tvcodec import wording
from tvcodec.cli import main
from tvcodec.file.archive import Archive
from tvcodec.report import PLOTS, build
from tvcodec.report.layers import layer, natural
from tvcodec.report.likeness import likeness
from tvcodec.report.spectra import spectra
from tvcodec.tuning.curve import from_metadata

SAMPLE = Path(__file__).parents[1] / "tools" / "sample" / "fine-tunes.tvq"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_bank(tmp_path_factory.mktemp("hostile") / "<b>$bank.tvq")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_tasks(tmp_path_factory.mktemp("many") / "many.tvq")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@functools.cache
def page_of(bank: Path) -> str:
    archive = Archive(bank)
    try:
        return build.report(archive, bank.name).page().decode()
    finally:
        archive.close()


def described(bank: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("info", bank, "--json", "--kinds").stdout)
    return found


class Reader(HTMLParser):
    """Tags with their attributes, texts by the tag they are in, and rows of the tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        self.texts.append((inside, data))
        if inside in ("td", "th"):
            self.rows[-1].append(data)

    def all(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag]


def test_the_page_is_well_formed_and_asks_for_nothing(hostile: Path) -> None:
    for bank in (hostile, SAMPLE):
        reader = Reader(page_of(bank))
        assert reader.open == []
        assert {"script", "iframe", "object", "base", "form"}.isdisjoint(dict(reader.tags))
        for tag, attributes in reader.tags:
            assert not any(name.startswith("on") for name in attributes), tag
            for name in ("src", "href", "xlink:href", "action"):
                value = attributes.get(name) or "#"
                assert value.startswith(("#", "data:")), (tag, value)
        ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in reader.tags:
            for value in attributes.values():
                for target in (value or "").split("url(#")[1:]:
                    assert target.partition(")")[0] in ids, (tag, value)
            if (attributes.get("href") or "").startswith("#"):
                assert str(attributes["href"])[1:] in ids


def test_names_and_metadata_are_text_and_nothing_else(hostile: Path) -> None:
    page = page_of(hostile)
    reader = Reader(page)
    assert reader.all("title")[0] == "Report on <b>$bank.tvq"
    assert reader.all("dd")[-1] == "<script>\\x00\\n</script>\\u202e"
    cells = [cell for row in reader.rows for cell in row]
    for name in HOSTILE[:2]:
        assert name in cells  # of the table of spectra
    assert "layer.3" in cells
    assert not any(ord(char) < 32 and char != "\n" for char in page)
    assert "\u202e" not in page
    assert {text for _, text in reader.texts if "img src" in text} != set()
    assert "img" not in dict(reader.tags)


def test_charts_have_a_name_a_description_and_a_table_each(hostile: Path) -> None:
    reader = Reader(page_of(hostile))
    charts = [attributes for tag, attributes in reader.tags if tag == "svg"]
    assert len(charts) == len(PLOTS)
    ids = {attributes.get("id") for _, attributes in reader.tags}
    for attributes in charts:
        assert attributes["role"] == "img"
        assert set(str(attributes["aria-labelledby"]).split()) <= ids
        assert "viewbox" in attributes
        assert "width" not in attributes
    assert all(text.strip() for text in reader.all("desc"))
    assert len(reader.all("summary")) >= len(PLOTS)
    assert ("html", {"lang": "en"}) in reader.tags
    assert any(found.get("name") == "viewport" for _, found in reader.tags)


def test_colours_of_charts_are_those_of_the_page(hostile: Path) -> None:
    styles = [
        str(attributes["style"])
        for _, attributes in Reader(page_of(hostile)).tags
        if "style" in attributes
    ]
    assert any("var(--series-0)" in style for style in styles)
    assert any("var(--ink)" in style for style in styles)
    assert not any("#" in style.replace("url(#", "") for style in styles)


def test_the_page_says_what_info_says(hostile: Path) -> None:
    for bank in (hostile, SAMPLE):
        known, reader = described(bank), Reader(page_of(bank))
        text = " ".join(text for _, text in reader.texts)
        for wanted in (known["root"], known["base_model"]["sha256"], f"{known['bytes']:,} bytes"):
            assert wanted in text
        for task in known["tasks"]:
            shown = next(row for row in reader.rows if row[0] == task["task"])
            size, bits = wording.amount(task["bytes"]), wording.bits(task["bits_per_parameter"])
            assert shown[1:4] == [size, bits, wording.percent(task["error"])]
        for kind, size in known["bytes_by_kind"].items():
            share = wording.percent(size / known["bytes"])
            assert not size or [kind, wording.amount(size), share] in reader.rows


def test_bytes_by_task_add_up(hostile: Path) -> None:
    archive = Archive(hostile)
    facts = build.report(archive, "bank").facts
    for task in facts.tasks:
        assert sum(task.kinds.values()) == task.bytes == archive.record(task.name).group.length
    archive.close()


def test_layers_tell_the_errors_and_bytes_of_their_parameters(hostile: Path) -> None:
    archive = Archive(hostile)
    depth = build.report(archive, "bank").facts.depth
    archive.close()
    rows = json.loads(run("info", hostile, "--parameters", "--json").stdout)["parameters"]
    counts = {parameter.name: parameter.count for parameter in archive.root.base_model}
    for at, task in enumerate(archive.tasks):
        for column, name in enumerate(depth.layers):
            of = [row for row in rows if row["task"] == task and layer(row["parameter"]) == name]
            lost = sum((row["norm"] * row["error"]) ** 2 for row in of)
            energy = sum(row["norm"] ** 2 for row in of)
            values = sum(count for parameter, count in counts.items() if layer(parameter) == name)
            bits = sum(row["bits"] * counts[row["parameter"]] for row in of) / values
            assert depth.errors[at, column] == pytest.approx((lost / energy) ** 0.5)
            assert depth.bits[at, column] == pytest.approx(bits)


def test_spectra_hold_the_energy_of_the_factors(tmp_path: Path) -> None:
    """Of a matrix of known singular values, coded closely."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((size, 4)))[0] for size in (160, 120))
    energy = np.array([16.0, 9.0, 4.0, 1.0])
    tau = (left * np.sqrt(energy)) @ right.T
    base = {"w.weight": torch.zeros(160, 120)}
    tune = {"w.weight": torch.from_numpy(tau).float()}
    tvcodec.encode(base, {"one": tune}, tmp_path / "b.tvq", recipe=tvcodec.Recipe(step=0.05))
    archive = Archive(tmp_path / "b.tvq")
    (found,) = spectra(archive)
    archive.close()
    assert found.parameter == "w.weight"
    wanted = np.cumsum(energy) / energy.sum()
    assert found.shares[:4] == pytest.approx(wanted, abs=0.01)


def test_the_same_file_gives_the_same_page_and_pictures(hostile: Path, tmp_path: Path) -> None:
    program = "from tvcodec.cli import main; import sys; main(sys.argv[1:])"
    out = [tmp_path / "one.html", tmp_path / "png"]
    words = ["report", hostile, "-o", out[0], "--png", out[1]]
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7", "MPLBACKEND": "svg"}
    subprocess.run([sys.executable, "-c", program, *map(str, words)], check=True, env=environment)
    assert out[0].read_text() == page_of(hostile)
    archive = Archive(hostile)
    made = build.report(archive, hostile.name)
    archive.close()
    assert made.plots == ("size", "tuning", "depth", "spectra", "similarity")
    assert {file.name for file in out[1].iterdir()} == {f"{plot}.png" for plot in PLOTS}
    assert all(file.read_bytes().startswith(PNG) for file in out[1].iterdir())
    assert (out[1] / "tuning.png").read_bytes() == made.png("tuning")


def test_of_many_tasks_the_page_shows_some_and_says_so(many: Path) -> None:
    page = page_of(many)
    reader = Reader(page)
    assert "Shown are the 40 largest of 44 tasks." in reader.all("p")
    assert [row for row in reader.rows if row[0] == "mean of 4 others"]
    assert "The 30 largest tasks have a bar each, the others one together." in reader.all("p")
    assert [row[0] for row in reader.rows].index("blocks.2") < [
        row[0] for row in reader.rows
    ].index("blocks.10")
    assert len(page) < 500_000


def test_like_tasks_are_neighbours(many: Path) -> None:
    archive = Archive(many)
    found = likeness(archive)
    known = described(many)["similarity"]
    archive.close()
    assert found is not None
    parities = [int(task[-1]) % 2 for task in found.tasks]
    assert sum(a != b for a, b in itertools.pairwise(parities)) == 1
    at = {name: number for number, name in enumerate(sorted(found.tasks))}
    for row, one in enumerate(found.tasks):
        for column, other in enumerate(found.tasks):
            low, high = sorted((at[one], at[other]))
            assert found.cosines[row, column] == pytest.approx(known[high][low], abs=1e-5)


def test_a_tuning_curve_is_read(hostile: Path) -> None:
    found = from_metadata({"tuning": json.dumps(TUNING)})
    assert found is not None
    assert found.retain == 0.99
    assert [point.bits for point in found.points] == [0.2, 0.5, 0.9]
    assert (found.choice.bits, found.choice.share) == (0.5, 0.995)
    rows = [row for row in Reader(page_of(hostile)).rows if row[0] == "ant" and row[-1] == "chosen"]
    assert rows == [["ant", "0.500", "99.5 %", "chosen"]]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_tuning_curve_is_left_out(text: str) -> None:
    assert from_metadata({"tuning": text}) is None


def test_layers_are_in_natural_order() -> None:
    names = ["h.10.a.weight", "h.9.b.bias", "h.9.a.weight", "head", "e.word.weight", "h.007.x"]
    assert [layer(name) for name in sorted(names, key=natural)] == [
        *("e.word", "h.007", "h.9", "h.9", "h.10", "head"),
    ]
    assert sorted(["x" + "9" * 10_000, "x1"], key=natural)[0] == "x1"


def test_single_plots_and_what_is_not_there(tmp_path: Path) -> None:
    done = run("report", SAMPLE, "--png", f"size={tmp_path}/s.png", "--json")
    (written,) = json.loads(done.stdout)
    assert written == {"path": f"{tmp_path}/s.png", "bytes": (tmp_path / "s.png").stat().st_size}
    failed = run("report", SAMPLE, "--png", f"tuning={tmp_path}/t.png")
    assert failed.exit_code == 1
    assert "nothing to draw for 'tuning'" in failed.stderr
    assert "hint: there is size, depth, similarity" in failed.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["s.png"]


@pytest.mark.parametrize("words", [(), ("--png", "sizes=x.png"), ("--png", "size=")])
def test_wrong_usage(words: tuple[str, ...]) -> None:
    assert run("report", SAMPLE, *words).exit_code == 2


@pytest.mark.parametrize("words", [("-o",), ("--png", "size=")])
def test_the_file_itself_is_never_overwritten(
    hostile: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    bank = tmp_path / "bank.tvq"
    bank.write_bytes(hostile.read_bytes())
    (tmp_path / "link.html").hardlink_to(bank)
    *options, before = words if len(words) > 1 else (*words, "")
    for name in ("bank.tvq", "link.html"):
        found = run("report", bank, *options, f"{before}{tmp_path / name}", "--force")
        assert found.exit_code == 1
        assert "expected an output apart from all inputs" in found.stderr
        assert bank.read_bytes() == hostile.read_bytes()


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, "0.0 %"), (0.0012, "0.12 %"), (0.4867, "48.7 %"), (-3.2, "-320.0 %")],
)
def test_shares_are_told_in_per_cent(share: float, said: str) -> None:
    assert wording.percent(share) == said


def test_nothing_is_overwritten_unasked(hostile: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("mine")
    assert run("report", hostile, "-o", target).exit_code == 1
    assert target.read_text() == "mine"
    assert run("report", hostile, "-o", target, "--force").exit_code == 0
    assert target.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("library", ["matplotlib", "scipy"])
def test_a_missing_library_is_named(
    library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    failed = run("report", SAMPLE, "-o", tmp_path / "report.html")
    assert failed.exit_code == 1
    assert f"a report needs {library}" in failed.stderr
    assert "hint: pip install 'tvcodec[report]'" in failed.stderr
