"""Event files, read back with TensorBoard's own reader."""

import pytest

from medsa_model import tracking
from medsa_model.logs import append_metrics, read_metrics
from medsa_model.tracking import tracked
from medsa_model.tracking_points import Point

reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")


def read(run, row: str = "federated"):
    """What TensorBoard has of a row; all points, none dropped."""
    folder = str(run / "tensorboard" / row)
    accumulator = reader.EventAccumulator(folder, size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def write_round(run, number: int) -> None:
    for site in ("site a", "b/c"):
        append_metrics(run, "train", round=number, site=site, loss=number / 3, norm=None)
        append_metrics(
            run, "evaluate", round=number, site=site, part="val", prompt="box 0.75",
            dice=number / 7, iou=0.5, cases=2, structures={},
        )  # fmt: skip
    append_metrics(run, "rejected", round=number, site="b/c", reason="<b>*so*</b>", what="update")
    append_metrics(run, "round", round=number, sites=["site a", "b/c"], missing=[], seconds=2.5)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of two rounds that was tracked, then interrupted in its third."""
    monkeypatch.setattr(tracking, "INTERVAL", 0.01)
    (tmp_path / "config.yaml").write_text("name: small\nrounds: 3\n")
    with tracked(tmp_path, ["tensorboard"]):
        write_round(tmp_path, 1)
        write_round(tmp_path, 2)
        append_metrics(tmp_path, "train", round=3, site="site a", loss=0.0)
    return tmp_path


def test_values_steps_and_times_are_those_of_metrics_jsonl(run):
    accumulator = read(run)
    expected = {}
    for event in read_metrics(run):
        if event["event"] == "train" and event["site"] == "site a":
            expected[event["round"]] = event["loss"]
    found = accumulator.Scalars("train/loss/site a")
    assert {each.step: each.value for each in found} == pytest.approx({1: 1 / 3, 2: 2 / 3})
    assert expected == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 0.0})
    times = [tracking.note_of({**e, "event": "rejected"}).time for e in read_metrics(run)]
    assert {each.wall_time for each in found} <= {*times}
    mean = accumulator.Scalars("validation/dice/box 0.75/mean")
    assert [(each.step, each.value) for each in mean] == [
        (1, pytest.approx(1 / 7)), (2, pytest.approx(2 / 7)),
    ]  # fmt: skip
    tags = accumulator.Tags()["scalars"]
    assert {tag.count("/") for tag in tags if tag.startswith("train/")} == {2}
    assert [each.value for each in accumulator.Scalars("round/seconds")] == [2.5, 2.5]


def test_records_are_few(tmp_path):
    """TensorBoard opens its file for each of them, so that a long run would take minutes."""
    sink = tracking.open_sink("tensorboard", tmp_path)
    points = [Point(f"train/loss/{n}", turn, n, 10.0 * turn) for n in range(50) for turn in (1, 2)]
    sink.write("federated", points, [])
    sink.close([])
    (file,) = (tmp_path / "tensorboard" / "federated").iterdir()
    records = [*loader.LegacyEventFileLoader(str(file)).Load()]
    assert [len(record.summary.value) for record in records] == [0, 50, 50]
    for n in (0, 49):
        found = read(tmp_path).Scalars(f"train/loss/{n}")
        assert [(each.step, each.value, each.wall_time) for each in found] == [
            (1, n, 10.0), (2, n, 20.0),
        ]  # fmt: skip


def test_rejections_and_settings_are_texts_as_they_stand(run):
    accumulator = read(run)
    notes = accumulator.Tensors("notes/rejected/text_summary")
    texts = [each.tensor_proto.string_val[0].decode() for each in notes]
    assert texts[0].splitlines()[2] == "    reason: <b>*so*</b>" and len(texts) == 2
    (settings,) = accumulator.Tensors("config.yaml/text_summary")
    assert settings.tensor_proto.string_val[0] == b"    name: small\n    rounds: 3"


def test_a_resumed_run_has_no_point_twice_and_foreign_files_stay(run):
    kept = run / "tensorboard" / "notes.txt"
    kept.write_text("mine")
    row = run / "rows" / "zero_shot"
    row.mkdir(parents=True)
    with tracked(run, ["tensorboard"]):
        write_round(run, 3)
        append_metrics(row, "evaluate", round=0, site="b", part="test", prompt="click", dice=0.5)
        (row / "final").touch()
    found = [(each.step, each.value) for each in read(run).Scalars("train/loss/site a")]
    assert found == [(1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3)), (3, 1.0)]
    assert len(read(run).Tensors("notes/rejected/text_summary")) == 3
    assert [e.step for e in read(run, "zero_shot").Scalars("test/dice/click/mean")] == [0]
    assert kept.read_text() == "mine"
