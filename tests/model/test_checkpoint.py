"""The `.pth`: what goes in comes out to the bit; a damaged, foreign or half-written one is named."""

import errno
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from model import checkpoint as checkpoint_module
from model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    weights_of,
)
from model.config import LMConfig
from model.decoder import CausalLM
from model.errors import UserError
from model.loading import load_model

CONFIG = LMConfig(dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=500, hidden_dim=8, max_seq_len=32)
FILES = {"tokenizer.json": "{}", "tokenizer_config.json": "{}", "chat_template.jinja": "{{ 小苗 }}\n"}


ENDLESS: dict = {}
ENDLESS["itself"] = ENDLESS


def make_checkpoint(config: LMConfig = CONFIG, **changes) -> Checkpoint:
    torch.manual_seed(0)
    values = {
        "stage": "pretrain",
        "weights": weights_of(CausalLM(config)),
        "tokenizer_files": FILES,
        "generation": {"stop_token_ids": [0, 3], "temperature": 0.7},
        "step": 12,
        "tokens": 3456,
        "metrics": {"val_loss": 2.5},
        "lineage": {"parents": [], "data": {"name": "poems"}, "flags": {"seed": None, "use_moe": False}},
    }
    return Checkpoint(config=config, **{**values, **changes})


def assert_same(first: Checkpoint, second: Checkpoint) -> None:
    for name, value in vars(first).items():
        if name != "weights":
            assert getattr(second, name) == value, name
    assert first.weights.keys() == second.weights.keys()
    for name, tensor in first.weights.items():
        assert tensor.dtype == second.weights[name].dtype
        assert torch.equal(tensor, second.weights[name]), name


@pytest.fixture
def saved(tmp_path) -> Path:
    save_checkpoint(tmp_path / "model.pth", make_checkpoint())
    return tmp_path / "model.pth"


class TestRoundTrip:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"tie_embeddings": False}, {"use_moe": True}, {"qk_norm": True, "attention_bias": True}],
    )
    def test_bit_exact(self, tmp_path, changes):
        before = make_checkpoint(CONFIG.with_changes(**changes))
        digest = save_checkpoint(tmp_path / "out" / "model.pth", before)
        after = load_checkpoint(tmp_path / "out" / "model.pth")
        assert after.digest == before.digest == digest
        assert_same(before, after)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_dtypes(self, tmp_path, dtype):
        weights = {name: tensor.to(dtype) for name, tensor in make_checkpoint().weights.items()}
        save_checkpoint(tmp_path / "model.pth", before := make_checkpoint(weights=weights))
        assert_same(before, load_checkpoint(tmp_path / "model.pth"))

    def test_values_without_numbers(self, tmp_path):
        save_checkpoint(tmp_path / "model.pth", make_checkpoint(metrics={"val_loss": float("nan")}))
        assert load_checkpoint(tmp_path / "model.pth").metrics["val_loss"] != 0

    def test_nothing_in_it_can_execute(self, saved):
        content = torch.load(saved, weights_only=True)
        assert set(content) == {
            *("format", "stage", "config", "weights", "tokenizer_files", "generation"),
            *("step", "tokens", "metrics", "lineage", "digest"),
        }

    def test_a_tied_head_is_stored_once(self, tmp_path):
        sizes = {}
        for tied in (True, False):
            before = make_checkpoint(CONFIG.with_changes(tie_embeddings=tied))
            assert ("lm_head.weight" in before.weights) == (not tied)
            save_checkpoint(tmp_path / "model.pth", before)
            sizes[tied] = (tmp_path / "model.pth").stat().st_size
        assert sizes[False] - sizes[True] >= 500 * 16 * 4

    def test_a_slice_does_not_drag_its_whole_storage_along(self, tmp_path):
        whole = torch.zeros(1_000_000)
        save_checkpoint(tmp_path / "model.pth", make_checkpoint(weights={"a": whole[:5].clone()}))
        assert (tmp_path / "model.pth").stat().st_size < 50_000

    def test_equal_contents_have_equal_digests(self, tmp_path):
        first, second = make_checkpoint(), make_checkpoint()
        second.weights = dict(reversed(second.weights.items()))
        assert save_checkpoint(tmp_path / "1.pth", first) == save_checkpoint(tmp_path / "2.pth", second)

    @pytest.mark.parametrize(
        "changes",
        [
            {"step": 13},
            {"stage": "rl"},
            {"tokenizer_files": {}},
            {"metrics": {}},
            {"lineage": {"parents": ["x"]}},
        ],
    )
    def test_every_field_is_in_the_digest(self, tmp_path, changes):
        assert save_checkpoint(tmp_path / "1.pth", make_checkpoint()) != save_checkpoint(
            tmp_path / "2.pth", make_checkpoint(**changes)
        )

    def test_shape_and_dtype_are_in_the_digest(self, tmp_path):
        tensors = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.int32)]
        digests = {save_checkpoint(tmp_path / "x.pth", make_checkpoint(weights={"a": each})) for each in tensors}
        assert len(digests) == 3


class TestLoadModel:
    def test_the_file_alone_is_enough(self, tmp_path, tokenizer):
        before = make_checkpoint(tokenizer_files=tokenizer.files)
        save_checkpoint(tmp_path / "model.pth", before)
        model, loaded_tokenizer, _ = load_model(tmp_path / "model.pth")
        assert not model.training
        assert loaded_tokenizer.encode("Paris 巴黎") == tokenizer.encode("Paris 巴黎")
        input_ids = torch.tensor([[1, 2, 3]])
        expected = before.build_model().eval()(input_ids).logits
        assert torch.equal(model(input_ids).logits, expected)
        assert model.lm_head.weight is model.model.embed_tokens.weight

    def test_in_another_precision(self, tmp_path, tokenizer):
        save_checkpoint(tmp_path / "model.pth", make_checkpoint(tokenizer_files=tokenizer.files))
        model, _, _ = load_model(tmp_path / "model.pth", dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.model.rotary.frequencies.dtype == torch.float32
        assert model.lm_head.weight is model.model.embed_tokens.weight

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"n_layers": 2}, r"lack model\.layers\.1.* and 8 more"),
            ({"qk_norm": True}, r"lack .*k_norm"),
            ({"tie_embeddings": False}, r"lack lm_head\.weight"),
            ({"vocab_size": 499}, r"embed_tokens\.weight has shape \[500, 16\].*\[499, 16\]"),
            ({"use_moe": True}, "lack"),
        ],
    )
    def test_weights_of_another_architecture(self, tmp_path, changes, words):
        wrong = make_checkpoint()
        wrong.config = CONFIG.with_changes(**changes)
        save_checkpoint(tmp_path / "model.pth", wrong)
        with pytest.raises(UserError, match=rf"model\.pth: weights: .*{words}"):
            load_model(tmp_path / "model.pth")

    def test_weights_too_many(self):
        weights = {**make_checkpoint().weights, "value_head.weight": torch.zeros(1)}
        with pytest.raises(UserError, match=r"unexpected value_head\.weight"):
            load_weights(CausalLM(CONFIG), weights)

    def test_nothing_is_copied_when_one_does_not_fit(self):
        model = CausalLM(CONFIG)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        weights = {**make_checkpoint().weights, "model.norm.weight": torch.zeros(3)}
        with pytest.raises(UserError):
            load_weights(model, weights)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class TestDamage:
    """A file that was cut or altered is named as such, or what is loaded is identical."""

    def assert_named_or_same(self, path: Path, data: bytes, expected: Checkpoint) -> bool:
        path.write_bytes(data)
        try:
            found = load_checkpoint(path)
        except UserError as error:
            message = str(error)
        else:
            assert_same(expected, found)
            return True
        assert message.startswith(f"{path}: ")
        return False

    def test_cut_anywhere(self, saved, tmp_path):
        data, expected = saved.read_bytes(), load_checkpoint(saved)
        for place in range(50):
            cut = len(data) * place // 50
            assert not self.assert_named_or_same(tmp_path / "cut.pth", data[:cut], expected)
        assert self.assert_named_or_same(tmp_path / "cut.pth", data, expected)

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.filterwarnings("ignore")  # torch warns of old formats that a damaged file seems to have
    def test_a_byte_altered_anywhere(self, saved, tmp_path, seed):
        """Everywhere, and (with odd seeds) in the pickled part, where there is most to go wrong."""
        data, expected = saved.read_bytes(), load_checkpoint(saved)
        with zipfile.ZipFile(saved) as archive:
            member = next(each for each in archive.infolist() if each.filename.endswith("data.pkl"))
        places = range(member.header_offset, member.header_offset + member.file_size) if seed % 2 else range(len(data))
        generator, num_named = random.Random(seed), 0
        for _ in range(200):
            damaged = bytearray(data)
            damaged[generator.choice(places)] ^= generator.randrange(1, 256)
            num_named += not self.assert_named_or_same(tmp_path / "flipped.pth", bytes(damaged), expected)
        assert num_named > 100

    def test_an_altered_weight(self, saved):
        content = torch.load(saved, weights_only=True)
        content["weights"]["model.norm.weight"][3] += 1e-6
        torch.save(content, saved)
        with pytest.raises(UserError, match=r"model\.pth: the file was altered"):
            load_checkpoint(saved)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("step", 13),
            ("step", torch.tensor(12)),
            ("weights", None),
            ("weights", {"a": 3}),
            ("weights", {3: torch.zeros(1)}),
            ("weights", {"a": torch.zeros(2, 2).to_sparse()}),
            ("config", []),
            ("metrics", {"x": torch.zeros(1)}),
            ("lineage", {1: "x"}),
            ("lineage", {"x": b"bytes"}),
            ("lineage", {"x": "\ud800"}),  # half a character
            ("lineage", ENDLESS),
            ("extra", 1),
            ("digest", "0" * 64),
            ("digest", 5),
        ],
        ids=str,
    )
    def test_an_altered_field(self, saved, field, value):
        content = torch.load(saved, weights_only=True)
        content[field] = value
        torch.save(content, saved)
        with pytest.raises(UserError, match=r"model\.pth: the file was altered"):
            load_checkpoint(saved)

    def test_a_missing_field(self, saved):
        content = torch.load(saved, weights_only=True)
        del content["tokenizer_files"]
        torch.save(content, saved)
        with pytest.raises(UserError, match=r"model\.pth: the file was altered"):
            load_checkpoint(saved)

    @pytest.mark.parametrize("version", [2, 0, "1", None])
    def test_a_future_format(self, saved, version):
        content = torch.load(saved, weights_only=True)
        content["format"] = version
        content["something_new"] = 1
        torch.save(content, saved)
        with pytest.raises(UserError, match=rf"model\.pth: has format {version}.*reads 1"):
            load_checkpoint(saved)

    def test_an_honest_file_with_an_impossible_configuration(self, saved, monkeypatch):
        """As a version with other rules would write it."""
        before = make_checkpoint()
        values = {**CONFIG.to_dict(), "n_kv_heads": 5}
        monkeypatch.setattr(LMConfig, "to_dict", lambda _: values)
        save_checkpoint(saved, before)
        with pytest.raises(UserError, match=r"model\.pth: n_kv_heads"):
            load_checkpoint(saved)


class TestOtherFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match=r"none\.pth: no such checkpoint"):
            load_checkpoint(tmp_path / "none.pth")

    def test_a_folder(self, tmp_path):
        with pytest.raises(UserError, match="no such checkpoint"):
            load_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x00",
            b'{"text": "hello"}\n' * 50,
            b"PK\x03\x04 no zip",
            b"GGUF" + b"\x00" * 99,
            b"\x80\x02.",
        ],
    )
    def test_another_kind(self, tmp_path, content):
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.pth: not a readable checkpoint"):
            load_checkpoint(tmp_path / "x.pth")

    def test_a_zip_of_something_else(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(UserError, match="not a readable checkpoint"):
            load_checkpoint(tmp_path / "x.pth")

    def test_a_bare_state_dict(self, tmp_path):
        torch.save(CausalLM(CONFIG).state_dict(), tmp_path / "x.pth")
        with pytest.raises(UserError, match=r"x\.pth: not a Seedling checkpoint \(a bare state dict"):
            load_checkpoint(tmp_path / "x.pth")

    def test_a_bare_tensor(self, tmp_path):
        torch.save(torch.zeros(3), tmp_path / "x.pth")
        with pytest.raises(UserError, match=r"x\.pth: holds a Tensor"):
            load_checkpoint(tmp_path / "x.pth")

    def test_a_file_that_would_execute_does_not(self, tmp_path):
        torch.save(_Attack(tmp_path / "executed"), tmp_path / "x.pth")
        with pytest.raises(UserError, match="not a readable checkpoint"):
            load_checkpoint(tmp_path / "x.pth")
        assert not (tmp_path / "executed").exists()


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestSavingFails:
    def test_the_old_file_stays(self, saved, monkeypatch):
        before = saved.read_bytes()

        def fail(content, file):
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint_module.torch, "save", fail)
        with pytest.raises(OSError, match="No space") as caught:
            save_checkpoint(saved, make_checkpoint(step=99))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(saved)
        assert [each.name for each in saved.parent.iterdir()] == ["model.pth"]
        assert saved.read_bytes() == before

    @pytest.mark.parametrize("limit", [0, 4096, 20_000])
    def test_when_the_system_takes_no_more_bytes(self, saved, repository, limit):
        """A real failing write, by a limit on the size of files: torch reports it in words of its own."""
        before = saved.read_bytes()
        assert len(before) > limit
        script = (
            "import resource, signal, sys; sys.path.insert(0, '')\n"
            "from model.checkpoint import load_checkpoint, save_checkpoint\n"
            "from model.errors import run_script\n"
            "def main():\n"
            "    checkpoint = load_checkpoint(sys.argv[1])\n"
            "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
            "    save_checkpoint(sys.argv[1], checkpoint)\n"
            "run_script(main)"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, saved, str(limit)], cwd=repository, capture_output=True, text=True
        )
        assert (result.returncode, result.stdout) == (2, ""), result.stderr
        assert result.stderr.startswith(f"error: {saved}: the file would be larger")
        assert result.stderr.count("\n") == 1
        assert saved.read_bytes() == before
        assert [each.name for each in saved.parent.iterdir()] == ["model.pth"]


def test_the_configuration_is_plain_json(saved):
    assert LMConfig(**json.loads(json.dumps(load_checkpoint(saved).config.to_dict()))) == CONFIG
