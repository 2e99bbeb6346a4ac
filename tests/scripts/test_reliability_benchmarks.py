"""The benchmarks of the trainer's promises run, print what they measured, and fail where a bound is not met."""

import math
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.reliability import divergence


def run_benchmark(repository, name, *flags):
    command = [sys.executable, "-m", f"benchmarks.reliability.{name}", *map(str, flags)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)


class TestDivergence:
    """What the benchmark calls a disturbance, a loss that has left, and a run that recovered."""

    def test_a_fault_of_the_machine_acts_once(self):
        fault = divergence.Fault(30.0)
        steps = [SimpleNamespace(index=index) for index in (99, 100, 101, 99, 100, 101, 102, 109, 110)]
        assert [fault.acts(step) for step in steps] == [False, True, True, False, False, False, True, True, False]

    def test_a_fault_of_the_data_acts_on_these_batches(self):
        def step(index, rows):
            return SimpleNamespace(index=index, micro_batches=[{"input_ids": row} for row in rows.split(1)])

        bad, good = torch.arange(6).view(2, 3), torch.arange(6, 12).view(2, 3)
        fault = divergence.Fault(30.0, [bad])
        assert [fault.acts(step(*each)) for each in ((100, bad), (100, good), (7, bad))] == [True, False, True]

    @pytest.mark.parametrize(("losses", "expected"), [([5.0] * 3, None), ([5.0, 5.0, 9.0], 103), ([math.nan], 101)])
    def test_where_a_loss_leaves(self, losses, expected):
        usual = [5.0, 5.2] * 50  # σ = 0.1
        assert divergence.leaves([*usual, *losses], 100) == expected
        assert divergence.leaves([*usual, 5.65, 5.75], 100) == 102, "mean 5.1, and 6 σ are 0.6"

    @pytest.mark.parametrize(
        ("alarm_at", "loss", "failure", "expected"),
        [
            (101, 2.03, None, True),
            (102, 2.03, None, False),
            (None, 2.0, None, False),
            (101, 2.05, None, False),
            (101, math.nan, "stopped", False),
        ],
    )
    def test_what_is_asked_for(self, alarm_at, loss, failure, expected, capsys):
        alarms = [(alarm_at, "the update is large")] if alarm_at else []
        rollbacks = [(103, 80, [100, 102]), (103, 80, [102, 104])]
        seen = divergence.Seen(list(range(1, 200)), [], alarms, rollbacks, 3, loss, failure)
        assert divergence.judge("dense", seen, 102, 2.0) is expected
        printed = capsys.readouterr().out
        assert "2 rollbacks (103 → 80, 103 → 80)" in printed and "5 global batches skipped" in printed
        assert ("outside" in printed) is not expected

    @pytest.mark.slow
    def test_a_short_run_recovers(self, repository, tmp_path):
        flags = ["--only", "adamw", "--steps", 200, "--folder", tmp_path]
        result = run_benchmark(repository, "divergence", *flags)
        assert result.returncode == 0, result.stdout + result.stderr
        assert re.search(r"undisturbed: validation loss [0-9.]+, 0 alarms, 0 rollbacks", result.stdout)
        found = re.findall(r"fault of the (\w+): first alarm at step 101, (\d+) rollbacks", result.stdout)
        assert [kind for kind, _ in found] == ["machine", "data"] and all(int(count) for _, count in found)
        # Without a disturbance nothing is noticed, which is not what was asked for.
        nothing = run_benchmark(repository, "divergence", "--factor", 1, *flags[:3], 120, *flags[4:])
        assert nothing.returncode == 1, nothing.stdout + nothing.stderr
        assert nothing.stdout.count("first alarm at step none, 0 rollbacks") == 2
        assert nothing.stdout.endswith("\nNOT within the bounds\n")


class TestTimings:
    """Speed with two ranks, and what saving costs: on a tiny model, so only that something is measured."""

    @pytest.mark.slow
    @pytest.mark.parametrize("optimizer", ["auto", "adamw"])
    def test_ranks_speed_prints_a_ratio(self, repository, optimizer):
        flags = ["--rounds", 1, "--steps", 5, "--preset", "tiny", "--max_seq_len", 32, "--num_threads", 2]
        result = run_benchmark(repository, "ranks_speed", *flags, "--optimizer", optimizer)
        assert result.returncode in (0, 1), result.stderr
        rates = re.search(r"1 rank × 2 threads +([0-9,]+) tokens/s, 2 ranks × 1 threads +([0-9,]+) ", result.stdout)
        one, two = (float(rate.replace(",", "")) for rate in rates.groups())
        [ratio] = re.findall(rf"tiny, {optimizer}: ratio ([0-9.]+) \(median", result.stdout)
        assert float(ratio) == pytest.approx(two / one, rel=0.01)
        assert result.returncode == (float(ratio) < 0.85) == ("outside" in result.stdout)

    @pytest.mark.slow
    def test_save_stall_prints_a_share(self, repository):
        flags = ["--rounds", 1, "--saves", 2, "--preset", "tiny", "--max_seq_len", 32, "--num_threads", 1]
        result = run_benchmark(repository, "save_stall", *flags)
        assert result.returncode == 0, result.stdout + result.stderr
        found = re.findall(
            r"(\w+): a save takes -?[0-9.]+ s .* the loop waits ([0-9.]+) s; written beside in ([0-9.]+) s; "
            r"([0-9.]+)% of the 300 s",
            result.stdout,
        )
        assert [optimizer for optimizer, *_ in found] == ["muon", "adamw"]
        assert all(0 < float(written) < 30 and float(share) < 5 for _, _, written, share in found)

    @pytest.mark.parametrize(
        ("name", "flags"),
        [("ranks_speed", ["--steps", "3"]), ("save_stall", ["--optimizer", "sgd"]), ("divergence", ["--only", "gpt"])],
    )
    def test_a_wrong_flag_is_one_line(self, repository, name, flags):
        result = run_benchmark(repository, name, *flags)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and flags[0] in result.stderr
