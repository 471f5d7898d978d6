"""The demo's job on a part of the sample's test rows: sizes, exactness and accuracy."""

import dataclasses
import json
import os

import demo_job
import make_picture
import pytest
from sample.evaluate import SAMPLE

ROWS = 100


@pytest.fixture(scope="module")
def results():
    return demo_job.run(ROWS)


def test_all_fine_tunes_come_back_bit_for_bit(results):
    assert results.restored == len(results.tasks) == 8


def test_sizes(results):
    assert sum(entry.stat().st_size for entry in os.scandir(SAMPLE) if entry.is_file()) <= 14e6
    assert results.fine_tunes > 8 * 2 * 919_744
    assert results.exact < results.fine_tunes / 1.6
    assert results.lossy < results.fine_tunes / 15
    assert results.bits(results.lossy) < 1.1


def test_the_fine_tunes_are_what_they_are_said_to_be(results):
    """`perf.json` has accuracies on 500 rows, in float32."""
    stated = json.loads(demo_job.PERFORMANCE.read_text())
    for task, shares in results.tasks.items():
        assert shares.fine_tuned == pytest.approx(stated[task], abs=0.1), task


def test_decoded_fine_tunes_keep_their_accuracy(results):
    assert results.mean.decoded >= 0.97 * results.mean.fine_tuned
    for task, shares in results.tasks.items():
        assert shares.decoded > shares.base_model + 0.05, task


def test_a_merge_from_the_lossy_archive_is_as_good_as_from_the_exact_one(results):
    assert results.mean.base_model < results.mean.merged < results.mean.fine_tuned
    assert results.mean.merged == pytest.approx(results.mean.merged_exact, abs=0.02)


def test_the_report_and_the_picture_show_what_was_measured(results, tmp_path):
    text = demo_job.report(results)
    for task, shares in results.tasks.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{task} "))
        assert line.split()[1:] == [f"{100 * s:.1f}" for s in dataclasses.astuple(shares)]
    stored = tmp_path / "results.json"
    stored.write_text(json.dumps(dataclasses.asdict(results)))
    assert make_picture.read(stored) == results
    picture = make_picture.draw(results)
    assert f"{results.lossy / 1e6:.2f} MB" in picture
    assert all(f">{task}</text>" in picture for task in results.tasks)
