"""From a path to a model: adapters and their bases, wider vocabularies, and one adapter after another on one base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load_checkpoint, read_digest, save_checkpoint, weights_of
from model.decoder import CausalLM
from model.errors import UserError
from model.loading import AdapterSwitch, find_base, load_model, load_whole, new_token_ids, widened
from model.lora import LoRAConfig, load_lora
from tests.model.random_adapters import checkpoint_of, put_on
from tests.model.random_models import MOE, assert_close
from tests.tiny_model import save_tiny_checkpoint, tiny_model, tiny_tokenizer

SIZE = tiny_tokenizer().vocab_size
IDS = torch.randint(64, SIZE, (2, 20), generator=torch.Generator().manual_seed(1))


def logits_of(model: CausalLM, input_ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        logits = model(input_ids).logits
    assert logits is not None
    return logits


def save_base(path: Path, seed: int = 0, **architecture: Any) -> Path:
    return save_tiny_checkpoint(path, tiny_model(seed, torch.float32, **architecture))


def save_adapter(path: Path, base_path: Path, seed: int = 1, std: float = 0.1, **changes: Any) -> Path:
    """An adapter of a saved base, of a size whose effect shows."""
    base = load_whole(base_path)
    model = base.build_model()
    put_on(model, seed, std, **changes)
    save_checkpoint(path, checkpoint_of(model, base, f"{base_path}"))
    return path


@pytest.fixture
def base_path(tmp_path) -> Path:
    return save_base(tmp_path / "runs" / "full_sft.pth")


@pytest.fixture
def adapter_path(base_path) -> Path:
    return save_adapter(base_path.with_name("lora_law.pth"), base_path)


class TestReadDigest:
    def test_it_is_the_file_s(self, base_path, adapter_path):
        for path in (base_path, adapter_path):
            assert read_digest(path) == load_checkpoint(path).digest

    def test_other_files(self, tmp_path):
        torch.save({"weights": torch.zeros(2)}, tmp_path / "bare.pth")
        torch.save([1, 2], tmp_path / "list.pth")
        (tmp_path / "text.pth").write_text("no checkpoint")
        for name in ("bare", "list"):
            with pytest.raises(UserError, match=rf"{name}\.pth: not a Seedling checkpoint"):
                read_digest(tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=r"text\.pth: not a readable checkpoint"):
            read_digest(tmp_path / "text.pth")
        with pytest.raises(UserError, match=r"none\.pth: no such checkpoint file"):
            read_digest(tmp_path / "none.pth")


class TestFindBase:
    def find(self, path: Path, base: Path | None = None) -> Path:
        return find_base(path, load_checkpoint(path), base)

    def test_where_it_was(self, base_path, adapter_path):
        assert self.find(adapter_path) == base_path

    def test_beside_the_adapter(self, base_path, adapter_path, tmp_path):
        """Both were moved to another place."""
        moved = tmp_path / "elsewhere"
        base_path.parent.rename(moved)
        assert self.find(moved / adapter_path.name) == moved / base_path.name

    def test_beside_under_another_name(self, base_path, adapter_path):
        renamed = base_path.rename(base_path.with_name("a_base.pth"))
        assert self.find(adapter_path) == renamed

    def test_another_model_at_its_path(self, base_path, adapter_path):
        """Trained again, the file there is another model: the name alone proves nothing."""
        kept = base_path.rename(base_path.with_name("kept.pth"))
        save_base(base_path, seed=9)
        assert self.find(adapter_path) == kept

    def test_moved_aside_by_overwrite(self, base_path, adapter_path):
        aside = base_path.rename(base_path.with_name("full_sft.pth.bak-0123abcd"))
        save_base(base_path, seed=9)
        assert self.find(adapter_path) == aside

    def test_gone(self, base_path, adapter_path):
        base_path.unlink()
        save_base(base_path.with_name("other.pth"), seed=9)
        with pytest.raises(UserError, match=r"lora_law\.pth: its base .*full_sft\.pth \([0-9a-f]{12}…\) is neither"):
            self.find(adapter_path)

    def test_what_cannot_be_read_is_passed_over_and_named(self, base_path, adapter_path):
        torch.save({"weight": torch.zeros(2)}, base_path.with_name("a_foreign.pth"))
        renamed = base_path.rename(base_path.with_name("base.pth"))
        assert self.find(adapter_path) == renamed
        renamed.unlink()
        with pytest.raises(UserError, match=r"\(.*a_foreign\.pth cannot be read\); put it beside it"):
            self.find(adapter_path)

    def test_named(self, base_path, adapter_path, tmp_path):
        moved = base_path.rename(tmp_path / "moved.pth")
        assert self.find(adapter_path, moved) == moved
        wrong = save_base(tmp_path / "wrong.pth", seed=9)
        with pytest.raises(
            UserError, match=r"--base .*wrong\.pth: is not the model that .*lora_law\.pth was trained on"
        ):
            self.find(adapter_path, wrong)
        with pytest.raises(UserError, match="no such checkpoint file"):
            self.find(adapter_path, tmp_path / "none.pth")


class TestLoadWhole:
    @pytest.mark.parametrize(
        ("architecture", "lora"),
        [
            ({}, {}),
            ({}, {"use_dora": True, "use_rslora": True}),
            ({"tie_embeddings": False}, {"targets": ("q_proj", "lm_head")}),
            ({**MOE, "moe_hidden_dim": 16}, {}),
        ],
    )
    def test_an_adapter_on_its_base(self, architecture, lora, tmp_path):
        base_path = save_base(tmp_path / "base.pth", **architecture)
        path = save_adapter(tmp_path / "adapter.pth", base_path, **lora)
        base, adapter = load_checkpoint(base_path), load_checkpoint(path)
        model = base.build_model().eval()
        without = logits_of(model)
        load_lora(model, LoRAConfig.from_dict(adapter.adapter["lora"]), adapter.weights)
        whole = load_whole(path)
        assert whole.adapter is None and (whole.stage, whole.digest) == ("lora", adapter.digest)
        assert whole.weights.keys() == base.weights.keys()
        found = logits_of(whole.build_model().eval())
        assert (found - without).abs().max() > 1e-2
        assert_close(found, logits_of(model))

    def test_a_whole_model_is_what_it_is(self, base_path):
        whole, stored = load_whole(base_path), load_checkpoint(base_path)
        assert whole.digest == stored.digest
        assert all(torch.equal(whole.weights[name], value) for name, value in stored.weights.items())
        with pytest.raises(UserError, match=rf"--base x\.pth: {base_path} is no adapter.*leave the flag out"):
            load_whole(base_path, "x.pth")

    def test_an_adapter_on_an_adapter(self, base_path, adapter_path):
        second = save_adapter(base_path.with_name("second.pth"), adapter_path, seed=5)
        base, first = load_checkpoint(base_path), load_checkpoint(adapter_path)
        expected = {name: value.double() for name, value in base.weights.items()}
        for adapter in (first, load_checkpoint(second)):
            scale = LoRAConfig.from_dict(adapter.adapter["lora"]).scale
            for name in expected:
                layer = name.removesuffix(".weight")
                if f"{layer}.lora_B" in adapter.weights:
                    thin_a, thin_b = (adapter.weights[f"{layer}.lora_{each}"].double() for each in "AB")
                    expected[name] = expected[name] + scale * thin_b @ thin_a
        assert load_checkpoint(second).adapter["base_digest"] == first.digest
        for name, value in load_whole(second).weights.items():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-6, atol=1e-7)

    def test_load_model(self, base_path, adapter_path, tmp_path):
        moved = base_path.rename(tmp_path / "moved.pth")
        model, tokenizer, checkpoint = load_model(adapter_path, dtype=torch.float64, base=moved)
        assert not model.training and model.lm_head.weight.dtype == torch.float64
        assert tokenizer.vocab_size == SIZE and checkpoint.stage == "lora"
        expected = load_whole(adapter_path, moved).build_model().double()
        assert torch.equal(logits_of(model), logits_of(expected))

    def test_a_damaged_adapter(self, adapter_path):
        content = bytearray(adapter_path.read_bytes())
        tensor = load_checkpoint(adapter_path).weights["model.layers.1.mlp.up_proj.lora_B"]
        adapter_path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=r"lora_law\.pth: not a readable checkpoint"):
            load_whole(adapter_path)
        content[content.index(tensor.numpy().tobytes()) + 5] ^= 1
        adapter_path.write_bytes(content)
        with pytest.raises(UserError, match=r"lora_law\.pth: the file was altered"):
            load_whole(adapter_path)

    def test_an_adapter_of_another_architecture(self, base_path, adapter_path):
        """Its digest says this base, its tensors another: a file that was put together by hand."""
        adapter = load_checkpoint(adapter_path)
        del adapter.weights["model.layers.1.self_attn.q_proj.lora_A"]
        save_checkpoint(adapter_path, adapter)
        words = r"lora_law\.pth: the adapter lacks model\.layers\.1\.self_attn\.q_proj\.lora_A; it belongs to another"
        with pytest.raises(UserError, match=words):
            load_whole(adapter_path)

    def test_half_an_adapter_s_description(self, adapter_path):
        adapter = load_checkpoint(adapter_path)
        del adapter.adapter["base_path"]
        save_checkpoint(adapter_path, adapter)
        with pytest.raises(UserError, match=r"lora_law\.pth: the file was altered"):
            load_checkpoint(adapter_path)


class TestWidened:
    @pytest.mark.parametrize("tied", [True, False])
    @pytest.mark.parametrize("padding", [0, 1, 60])
    def test_new_rows_are_the_mean(self, tied, padding):
        """Whether the padded vocabulary has room for none, some or all of the new tokens."""
        model = tiny_model(dtype=torch.float32, vocab_size=SIZE + padding, tie_embeddings=tied)
        before = Checkpoint("full_sft", model.config, weights_of(model, copy=True), tiny_tokenizer().files)
        wider = tiny_tokenizer().with_tokens(["<|a|>", "<|b|>"])
        after = widened(before, wider)
        assert new_token_ids(before, wider) == (SIZE, SIZE + 1)
        assert after.config.vocab_size == max(SIZE + padding, SIZE + 2)
        assert after.tokenizer_files == wider.files and before.tokenizer_files == tiny_tokenizer().files
        tables = {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
        for name, value in before.weights.items():
            if name not in tables:
                assert after.weights[name] is value
                continue
            table = after.weights[name]
            assert table.shape[0] == after.config.vocab_size and table.dtype == value.dtype
            assert torch.equal(table[:SIZE], value[:SIZE])
            assert torch.equal(table[SIZE + 2 :], value[SIZE + 2 :])
            mean = [sum(column) / SIZE for column in zip(*value[:SIZE].tolist(), strict=True)]
            for row in (SIZE, SIZE + 1):
                assert table[row].tolist() == pytest.approx(mean, rel=1e-5, abs=1e-7)
        assert torch.equal(logits_of(after.build_model())[..., :SIZE], logits_of(before.build_model())[..., :SIZE])

    def test_the_same_tokenizer_changes_nothing(self, base_path):
        base = load_checkpoint(base_path)
        assert widened(base, base.tokenizer()) is base

    @pytest.mark.parametrize("tied", [True, False])
    def test_an_adapter_that_brings_tokens(self, tied, tmp_path):
        base_path = save_base(tmp_path / "base.pth", tie_embeddings=tied)
        base, wider = load_checkpoint(base_path), tiny_tokenizer().with_tokens(["<|mood|>"])
        model = widened(base, wider).build_model().eval()
        put_on(model, token_ids=(SIZE,))
        adapter = checkpoint_of(model, base, f"{base_path}")
        adapter.tokenizer_files = wider.files
        save_checkpoint(tmp_path / "adapter.pth", adapter)
        found, tokenizer, checkpoint = load_model(tmp_path / "adapter.pth")
        assert tokenizer.special_tokens["<|mood|>"] == SIZE
        assert found.config.vocab_size == checkpoint.config.vocab_size == SIZE + 1
        input_ids = torch.cat((IDS, torch.full((2, 1), SIZE)), dim=1)
        assert_close(logits_of(found, input_ids), logits_of(model, input_ids))
        assert torch.equal(found.model.embed_tokens.weight[SIZE], model.model.embed_tokens.lora_rows[0])


class TestAdapterSwitch:
    @pytest.fixture
    def paths(self, base_path) -> list[Path]:
        return [
            save_adapter(base_path.with_name("law.pth"), base_path, seed=1),
            save_adapter(base_path.with_name("poems.pth"), base_path, seed=2, use_dora=True, rank=2),
            save_adapter(base_path.with_name("few.pth"), base_path, seed=3, targets=("v_proj",)),
        ]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_each_is_what_it_is_alone(self, base_path, paths, dtype):
        """Also in 16 bits: what is rounded is the sum, not what is summed."""
        model, _, checkpoint = load_model(base_path, dtype=dtype)
        own = {name: value.clone() for name, value in model.state_dict().items()}
        switch = AdapterSwitch(model, checkpoint, paths)
        assert list(switch) == ["law", "poems", "few"] and switch.active == ""
        alone = {path.stem: logits_of(load_model(path, dtype=dtype)[0]) for path in paths}
        assert not torch.equal(alone["law"], alone["poems"])
        for name in ("law", "poems", "law", "few", "", "poems", "poems", ""):
            switch.use(name)
            assert switch.active == name and not model.training
            assert switch.checkpoint.stage == ("lora" if name else "full_sft")
            if name:
                assert torch.equal(logits_of(model), alone[name])
            else:
                found = model.state_dict()
                assert found.keys() == own.keys()
                assert all(torch.equal(found[each], value) for each, value in own.items())

    def test_one_that_is_not_there(self, base_path, paths):
        model, _, checkpoint = load_model(base_path)
        switch = AdapterSwitch(model, checkpoint, paths)
        switch.use("law")
        expected = logits_of(model)
        with pytest.raises(UserError, match="no adapter is called 'jokes'; there are law, poems, few"):
            switch.use("jokes")
        assert switch.active == "law" and torch.equal(logits_of(model), expected)
        with pytest.raises(UserError, match="law, few are called 'w'; there are law, poems, few"):
            switch.use("w")
        switch.use("poe")
        assert switch.active == "poems"
        with pytest.raises(UserError, match="no adapter is called 'law'; there are none"):
            AdapterSwitch(model, checkpoint, []).use("law")

    def test_what_is_no_adapter_of_it(self, base_path, paths, tmp_path):
        model, _, checkpoint = load_model(base_path)
        with pytest.raises(UserError, match=r"--adapters .*full_sft\.pth: is a whole model; name it in the place"):
            AdapterSwitch(model, checkpoint, [base_path])
        other = save_base(tmp_path / "other.pth", seed=9)
        foreign = save_adapter(tmp_path / "foreign.pth", other)
        with pytest.raises(UserError, match=r"--adapters .*foreign\.pth: is an adapter of another model, .*other\.pth"):
            AdapterSwitch(model, checkpoint, [paths[0], foreign])
        (tmp_path / "more").mkdir()
        twice = save_adapter(tmp_path / "more" / "law.pth", base_path)
        with pytest.raises(UserError, match=r"two are called law; rename one of them"):
            AdapterSwitch(model, checkpoint, [paths[0], twice])
        with pytest.raises(UserError, match="no such checkpoint file"):
            AdapterSwitch(model, checkpoint, [tmp_path / "none.pth"])

    def test_one_with_a_tokenizer_of_its_own(self, base_path, tmp_path):
        adapter = load_checkpoint(save_adapter(tmp_path / "wide.pth", base_path))
        adapter.tokenizer_files = tiny_tokenizer().with_tokens(["<|mood|>"]).files
        save_checkpoint(tmp_path / "wide.pth", adapter)
        model, _, checkpoint = load_model(base_path)
        with pytest.raises(UserError, match=r"wide\.pth: has a tokenizer of its own"):
            AdapterSwitch(model, checkpoint, [tmp_path / "wide.pth"])

    def test_one_that_does_not_fit_leaves_the_base(self, base_path, paths):
        adapter = load_checkpoint(paths[0])
        adapter.weights.pop("model.layers.0.mlp.up_proj.lora_B")
        save_checkpoint(paths[0], adapter)
        model, _, checkpoint = load_model(base_path)
        switch, expected = AdapterSwitch(model, checkpoint, paths), logits_of(model)
        with pytest.raises(UserError, match=r"law\.pth: the adapter lacks model\.layers\.0\.mlp\.up_proj\.lora_B"):
            switch.use("law")
        assert switch.active == "" and torch.equal(logits_of(model), expected)
        switch.use("poems")
        switch.use("")
        assert torch.equal(logits_of(model), expected)
