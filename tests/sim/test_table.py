"""The table over seeds, against numbers computed by hand."""

import json

from sim.table import main, spread


def report(federated: float, local: float) -> dict[str, object]:
    def row(value: float) -> dict[str, object]:
        return {"dice": {"mean": value, "worst_site": value - 0.1, "gap": 0.2}}

    return {
        "prompts": {"click": {"rows": {"local": row(local), "federated": row(federated)}}},
        "references": {"otsu": {"click": row(0.5)}, "ellipse_in_box": {"box": row(0.6)}},
        "local_on_other_sites": {"click": 0.3},
    }


def test_mean_deviation_and_paired_margins(tmp_path, capsys):
    runs = []
    for number, (federated, local) in enumerate([(0.8, 0.7), (0.9, 0.95)]):
        run = tmp_path / str(number)
        run.mkdir()
        (run / "report.json").write_text(json.dumps(report(federated, local)))
        runs.append(str(run))
    assert main(runs) == 0
    text = capsys.readouterr().out
    assert "| federated | 0.850 ± 0.071 | 0.750 ± 0.071 | 0.200 ± 0.000 |" in text
    assert "| otsu | 0.500 ± 0.000" in text
    assert "ellipse" not in text  # it has no click
    assert "by seed: +0.100, -0.050" in text


def test_one_run_has_no_deviation():
    assert spread([0.5]) == "0.500"
