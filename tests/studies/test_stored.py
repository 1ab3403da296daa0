"""Measurements that are stored with the project are found by their names."""

from pathlib import Path

from lsvd.storage import results
from lsvd.studies import ablation, comparison, editing, edits, parts, predictions, strength, survey
from lsvd.studies.editors import measuring
from lsvd.studies.rig import load_rig

HOME = Path(__file__).resolve().parents[2] / "measurements"


def test_every_stored_measurement_is_found(monkeypatch):
    monkeypatch.setenv("LSVD_MEASUREMENTS", str(HOME))
    found, read = set(), results.read

    def reading(file, *args, **kwargs):
        tensors = read(file, *args, **kwargs)
        if tensors is not None:
            found.add(Path(file))
        return tensors

    monkeypatch.setattr(results, "read", reading)
    for module in (edits, survey):
        monkeypatch.setattr(module, "_measure", None)
    monkeypatch.setattr(ablation, "reference_features", lambda *args: None)
    monkeypatch.setattr(ablation, "from_outcomes", lambda *args: None)
    rig = load_rig()
    editing.measure(rig)
    strength.measure(rig)
    ablation.measure(rig)
    models, readers = survey.subjects("all")
    for name, reader in readers.items():
        survey.survey(models[name], reader, survey.Plan(), range(survey.SAMPLES))
    for name in ("responses", "settling", "difference"):
        monkeypatch.setattr(predictions, name, None)
    monkeypatch.setattr(parts, "_measure", None)
    predictions.measure(models, readers)
    monkeypatch.setattr(measuring, "_pieces", None)
    bench = measuring.load_bench("mini-sd", "cpu", None)
    comparison.measure(bench, comparison.SMALL).drawn(bench, "young", 8)
    stored = set(HOME.rglob("*.safetensors"))
    assert len(stored) == 74 and found & stored == stored
