"""Random damage to saved files, as `python -m benchmarks.reliability.damage` does it at length."""

import subprocess
import sys

import torch

from benchmarks.reliability import damage
from benchmarks.reliability.damage import same, slipped_through
from model.checkpoint import load_checkpoint


class TestDamage:
    """The benchmark that `python -m benchmarks.reliability.damage` runs at length."""

    def test_every_damage_is_named_or_without_effect(self, tmp_path):
        found = damage.measure(tmp_path, flips=45, truncations=15, seed=3)
        assert len(found) == 60 and {each.file for each in found} == {
            *("model.pth", "resume/latest"),
            *(f"resume/step-40/{name}" for name in ("tensors.pt", "state.json", "manifest.json")),
        }
        assert slipped_through(found) == [], damage.table(found)
        assert sum(each.outcome == damage.NAMED for each in found) > 40

    def test_it_sees_loaders_that_check_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr("trainer.state.damage", lambda path: None)
        monkeypatch.setattr("model.checkpoint._matches", lambda content, digest: True)
        found = damage.measure(tmp_path, flips=40, truncations=10, seed=3)
        wrong = {each.file for each in slipped_through(found)}
        assert {"model.pth", "resume/step-40/tensors.pt", "resume/step-40/state.json"} <= wrong
        assert "slipped through: " in damage.table(found)

    def test_the_command(self, repository, monkeypatch, capsys):
        command = [sys.executable, "-m", "benchmarks.reliability.damage"]
        flags = ["--flips", "5", "--truncations", "2"]
        result = subprocess.run([*command, *flags], cwd=repository, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith("\n7 of 7 damages are named or without any effect\n")
        wrong = subprocess.run([*command, "--flips", "-1"], cwd=repository, capture_output=True, text=True)
        assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "--flips" in wrong.stderr
        monkeypatch.setattr("trainer.state.damage", lambda path: None)
        monkeypatch.setattr(sys, "argv", ["damage", "--flips", "20", "--truncations", "5"])
        assert damage.main() == 1
        assert "slipped through: resume/step-40/tensors.pt" in capsys.readouterr().out

    def test_what_counts_as_the_same(self, tmp_path):
        damage.write_files(tmp_path)
        first, second = load_checkpoint(tmp_path / "model.pth"), load_checkpoint(tmp_path / "model.pth")
        assert same(vars(first), vars(second))
        second.weights["model.norm.weight"][3] = -second.weights["model.norm.weight"][3]
        assert not same(vars(first), vars(second))
        assert not same({"a": 1}, {"a": 1.0}) and not same(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
        assert not same(torch.tensor(0.0), torch.tensor(-0.0)), "to the bit"
