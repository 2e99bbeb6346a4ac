import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import model.head
from model.device import Precision
from model.errors import UserError
from tests.trainer import zero_worker
from tests.trainer.zero_worker import BF16, CONFIGS, FP32, HALF, NUM_STEPS, TRAINING, flat, new_model, update
from trainer.engine import Engine
from trainer.parallel import Parallel
from trainer.zero import BUNDLED, ZeroEngine, read_configuration

ROOT = Path(__file__).parents[2]
ALONE = Parallel()
CPU = torch.device("cpu")
STAGES = (1, 2, 3)
every_case = pytest.mark.parametrize(("kind", "stage"), [(kind, stage) for kind in CONFIGS for stage in STAGES])


# ---- the configuration ----------------------------------------------------------------------------------------


def _write(folder: Path, **values: object) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_configurations(name):
    zero = read_configuration(name, CPU)["zero_optimization"]
    assert f"zero{zero['stage']}" == name.removesuffix("_offload")
    assert ("offload_optimizer" in zero) == name.endswith("_offload")


def test_own_configuration_in_the_manner_of_hugging_face(tmp_path):
    zero = {"stage": 3, "reduce_bucket_size": "auto", "overlap_comm": True, "offload_param": {"device": "cpu"}}
    ours = {"fp16": {"enabled": "auto", "loss_scale": 0}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto"}
    ours |= {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "optimizer": "auto"}
    path = _write(tmp_path, zero_optimization=zero, steps_per_print=100, **ours)
    del zero["reduce_bucket_size"]
    assert read_configuration(path, CPU) == {"zero_optimization": zero, "steps_per_print": 100}


def test_reading_a_bundled_configuration_does_not_load_deepspeed():
    code = "import sys, torch, trainer.zero as z; z.read_configuration('zero1', torch.device('cpu'));"
    code += "print('deepspeed' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


@pytest.mark.parametrize(
    ("key", "value", "flag"),
    [
        ("optimizer", {"type": "AdamW", "params": {"lr": "auto"}}, "--optimizer"),
        ("scheduler", {"type": "WarmupLR"}, "--schedule"),
        ("gradient_accumulation_steps", 4, "--accumulation_steps"),
        ("train_batch_size", 64, "--batch_size"),
        ("train_micro_batch_size_per_gpu", 8, "--batch_size"),
        ("gradient_clipping", 1.0, "--grad_clip"),
        ("fp16", {"enabled": True}, "--dtype"),
        ("bf16", {"enabled": True}, "--dtype"),
        ("bf16", {"enabled": False}, "--dtype"),
        ("torch_autocast", {"enabled": True, "dtype": "bfloat16"}, "--dtype"),
        ("amp", {}, "--dtype"),
        ("data_types", {"grad_accum_dtype": "bf16"}, "--dtype"),
        ("communication_data_type", "fp16", "--dtype"),
    ],
)
def test_what_our_flags_say_is_refused(tmp_path, key, value, flag):
    path = _write(tmp_path, zero_optimization={"stage": 2}, **{key: value})
    with pytest.raises(UserError, match=rf"mine\.json: {key}: .*{flag}") as caught:
        read_configuration(path, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "start with torchrun"),
        ({"zero_optimization": {}}, "start with torchrun"),
        ({"zero_optimization": {"stage": 0}}, "start with torchrun"),
        ({"zero_optimization": {"stage": 4}}, "found 4, expected 1, 2 or 3"),
        ({"zero_optimization": {"stage": True}}, "found True, expected 1, 2 or 3"),
        ({"zero_optimization": {"stage": "2"}}, "found '2', expected 1, 2 or 3"),
        ({"zero_optimization": 2}, "expected an object, found int"),
        ({"zero_optimization": {"stage": 2}, "gradient_allreduce_op": "sum"}, "gradient_allreduce_op: not supported"),
        ({"zero_optimization": {"stage": 2, "compute_grad_norm": False}}, "compute_grad_norm: not supported"),
    ],
)
def test_bad_stages_are_refused(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        read_configuration(_write(tmp_path, **values), CPU)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offload_optimizer": "cpu"}, "zero_optimization.offload_optimizer: found 'cpu'; expected an object"),
        ({"overlap_com": True}, "zero_optimization.overlap_com: found True; DeepSpeed knows no such key; leave it out"),
        ({"reduce_bucket_size": "many"}, "zero_optimization.reduce_bucket_size: found 'many'; DeepSpeed says: "),
        ({"offload_optimizer": {"device": "gpu"}}, "zero_optimization.offload_optimizer.device: found 'gpu'; "),
        ({"offload_optimizer": {"ratio": 0.5}}, "zero_optimization: DeepSpeed says: "),
    ],
)
def test_what_deepspeed_refuses_in_its_section(tmp_path, values, message):
    path = _write(tmp_path, zero_optimization={"stage": 2, **values})
    with pytest.raises(UserError) as caught:
        read_configuration(path, CPU)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sparse_gradients", False, "DeepSpeed says: .*'sparse_gradients'"),
        ("checkpoint", "none", "DeepSpeed says: 'str' object"),
        ("tensorboard", {"enabled": "perhaps"}, "tensorboard.enabled: found 'perhaps'; DeepSpeed says: "),
    ],
)
def test_what_deepspeed_refuses_elsewhere(tmp_path, key, value, message):
    with pytest.raises(UserError, match=rf"mine\.json: {message}"):
        read_configuration(_write(tmp_path, zero_optimization={"stage": 2}, **{key: value}), CPU)


def test_keys_that_deepspeed_overlooks_are_left_in_place(tmp_path):
    values = {"zero_optimization": {"stage": 2}, "comment": "for two cards"}
    assert read_configuration(_write(tmp_path, **values), CPU) == values


def test_bad_files_are_refused(tmp_path):
    path = tmp_path / "mine.json"
    with pytest.raises(UserError, match="no such file"):
        read_configuration(str(path), CPU)
    path.write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        read_configuration(str(path), CPU)
    path.write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object, found list"):
        read_configuration(str(path), CPU)
    with pytest.raises(UserError, match="found 'zero4', expected zero1, zero2"):
        read_configuration("zero4", CPU)


@pytest.mark.parametrize(("dtype", "message"), [(torch.float64, "--dtype float64"), (torch.float16, "--dtype float16")])
def test_dtypes_that_deepspeed_lacks_are_refused(dtype, message):
    parallel = Parallel(zero=read_configuration("zero1", CPU))
    with pytest.raises(UserError, match=message):
        ZeroEngine(new_model("dense"), TRAINING, Precision(CPU, dtype), parallel)


# ---- several processes ----------------------------------------------------------------------------------------


def _start(folder: Path, world_size: int) -> None:
    """Run the worker in `world_size` processes. Neither a compiler nor ninja is on their PATH."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "PATH": "", "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(world_size)}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, zero_worker.__file__, str(folder)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=600)
            assert process.returncode == 0, said
            assert said == ""  # nothing that a user has no use for
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module", autouse=True)
def head_in_pieces():
    """As in the worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.head, "MAX_LOGIT_ELEMENTS", zero_worker.MAX_LOGIT_ELEMENTS)
        yield


@pytest.fixture(scope="module")
def plain():
    """The same updates in this process: losses, norms, losses of validation, the state half way and at the end."""
    found = {}
    for kind in CONFIGS:
        engine = Engine(new_model(kind), TRAINING, FP32, ALONE)
        run = found[kind] = {"losses": [], "norms": [], "validation": []}
        for step in range(NUM_STEPS):
            if step % 4 == 1:
                run["validation"].append(zero_worker.validation_loss(engine, [0, 1], ALONE))
            if step == HALF:
                run["half"] = engine.tensors()
            loss, norm = update(engine, step, [0, 1], ALONE)
            run["losses"].append(loss)
            run["norms"].append(norm)
        run["end"] = engine.tensors()
    return found


@pytest.fixture(scope="module")
def ranks(plain, tmp_path_factory):
    """What each of two processes found under every stage."""
    folder = tmp_path_factory.mktemp("zero")
    torch.save({kind: run["half"] for kind, run in plain.items()}, folder / "plain.pt")
    _start(folder, zero_worker.NUM_RANKS)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(zero_worker.NUM_RANKS)]


def _assert_close(found: dict, expected: dict) -> None:
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].shape, found[name].dtype) == (tensor.shape, tensor.dtype), name
        assert (found[name] - tensor).norm() <= 1e-4 * tensor.norm(), name


@pytest.mark.slow
@every_case
def test_updates_are_those_of_one_process(plain, ranks, kind, stage):
    assert plain[kind]["losses"][-1] < plain[kind]["losses"][0]
    assert max(plain[kind]["norms"]) > TRAINING.grad_clip
    for rank in ranks:
        for what in ("losses", "norms", "validation"):
            assert rank[kind, stage][what] == pytest.approx(plain[kind][what], rel=1e-5), what
    _assert_close(ranks[0][kind, stage]["half"], plain[kind]["half"])
    _assert_close(ranks[0][kind, stage]["end"], plain[kind]["end"])
    assert ranks[1][kind, stage]["end"] is None


@pytest.mark.slow
@every_case
def test_a_gradient_that_is_not_finite_changes_nothing(ranks, kind, stage):
    """NaN, then infinity, on one rank, before the first update and later. That no rank's own weights were touched shows
    in the losses after it, which the test above compares."""
    assert ranks[0][kind, stage]["untouched"] == [True, True]
    for rank in ranks:
        assert len(rank[kind, stage]["bad_norms"]) == 4
        assert not torch.tensor(rank[kind, stage]["bad_norms"]).isfinite().any()


@pytest.mark.slow
@every_case
def test_saved_tensors_go_on_in_another_stage(plain, ranks, kind, stage):
    gone_on = ranks[0][kind, stage]["gone_on"]
    assert zero_worker.is_same(gone_on["restored"], ranks[0][kind, 1 + stage % 3]["half"])
    assert gone_on["losses"] == pytest.approx(plain[kind]["losses"][HALF:], rel=1e-5)
    assert gone_on["norms"] == pytest.approx(plain[kind]["norms"][HALF:], rel=1e-5)


@pytest.mark.slow
@every_case
def test_saved_tensors_go_on_in_one_process(plain, ranks, kind, stage):
    engine = Engine(new_model(kind), TRAINING, FP32, ALONE)
    engine.load_tensors(ranks[0][kind, stage]["half"])
    losses = [update(engine, step, [0, 1], ALONE)[0] for step in range(HALF, NUM_STEPS)]
    assert losses == pytest.approx(plain[kind]["losses"][HALF:], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLED)
def test_a_state_of_one_process_goes_on_in_bundled_configurations(plain, ranks, name):
    assert zero_worker.is_same(ranks[0][name]["restored"], plain["dense"]["half"])
    assert ranks[0][name]["losses"] == pytest.approx(plain["dense"]["losses"][HALF:], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_is_in_the_products_only(ranks, stage):
    found = ranks[0]["bfloat16", stage]
    for name, dtype in found["dtypes"].items():
        assert dtype == (torch.bfloat16 if name.endswith("q_proj") else torch.float32), name
    assert {tensor.dtype for tensor in flat(found["end"]).values()} == {torch.float32}
    assert set(found["travelled"]) - {"torch.float64"} == {"torch.float32"}  # in float64: the norm
    engine = Engine(new_model("moe"), TRAINING, BF16, ALONE)
    loss, norm = update(engine, 1, [0, 1], ALONE)
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    assert found["norm"] == pytest.approx(norm, rel=1e-3)


@pytest.mark.slow
def test_one_process_without_a_limit(tmp_path):
    _start(tmp_path, 1)
    engine = Engine(new_model("dense"), replace(TRAINING, grad_clip=0.0), FP32, ALONE)
    expected = [value for step in range(3) for value in update(engine, step, [0, 1], ALONE)]
    found = [value for pair in torch.load(tmp_path / "alone.pt", weights_only=True) for value in pair]
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_state_of_muon_is_refused(ranks):
    assert "--optimizer muon" in ranks[0]["muon"] and "--optimizer muon" in ranks[1]["muon"]
