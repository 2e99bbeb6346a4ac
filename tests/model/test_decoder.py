"""The decoder against itself: packed and alone, cached and uncached, with other padding, in other precisions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.config import LMConfig
from model.decoder import Attention, CausalLM
from model.kv_cache import KVCache
from tests.model.random_models import MOE, TINY, YARN, assert_close, random_ids, random_model


class TestPackedRows:
    """Several documents in one row, attention and positions restarting: as if each had its own row."""

    def packed(self, lengths: list[int], num_padding: int) -> tuple[Tensor, Tensor, Tensor]:
        input_ids = random_ids(1, sum(lengths) + num_padding)
        segments: list[int] = []
        positions: list[int] = []
        for number, length in enumerate(lengths):
            segments += [number] * length
            positions += range(length)
        segments += [-1] * num_padding
        positions += range(num_padding)
        return input_ids, torch.tensor([segments]), torch.tensor([positions])

    @pytest.mark.parametrize("changes", [{}, {"sliding_window": 4}, {**MOE}, {"rope_scaling": YARN}])
    def test_each_segment_as_if_alone(self, changes):
        model = random_model(**changes)
        lengths = [7, 1, 13, 5]
        input_ids, segment_ids, position_ids = self.packed(lengths, num_padding=6)
        with torch.no_grad():
            packed = model(input_ids, segment_ids=segment_ids, position_ids=position_ids, document_mask=True).logits
            start = 0
            for length in lengths:
                alone = model(input_ids[:, start : start + length]).logits
                assert_close(packed[:, start : start + length], alone)
                start += length

    def test_without_the_mask_a_document_sees_the_one_before(self):
        model = random_model()
        input_ids, segment_ids, _ = self.packed([7, 9], num_padding=0)
        changed = input_ids.clone()
        changed[0, 3] = (changed[0, 3] + 1) % TINY["vocab_size"]
        with torch.no_grad():
            for document_mask in (False, True):
                first = model(input_ids, segment_ids=segment_ids, document_mask=document_mask).logits
                second = model(changed, segment_ids=segment_ids, document_mask=document_mask).logits
                leaks = (first - second)[0, 7:].abs().max() > 1e-4
                assert leaks == (not document_mask)

    def test_the_mask_needs_segments(self):
        with pytest.raises(AssertionError, match="segment_ids"):
            random_model()(random_ids(1, 4), document_mask=True)

    @pytest.mark.parametrize("changes", [{}, MOE, {**MOE, "seq_aux": False}, {"sliding_window": 3}])
    @pytest.mark.parametrize("document_mask", [False, True])
    def test_padding_never_leaks(self, changes, document_mask):
        """Other ids under the padding: same outputs and gradients; rows of nothing but padding: no NaN."""
        model = random_model(**changes).double()
        input_ids = random_ids(3, 16)
        segment_ids = torch.tensor([[0] * 5 + [1] * 6 + [-1] * 5, [0] * 16, [-1] * 16])
        is_real = segment_ids >= 0
        targets = torch.where(is_real, random_ids(3, 16, seed=2), -100)
        outcomes = []
        for filling in (0, 55):
            model.zero_grad()
            ids = torch.where(is_real, input_ids, filling)
            output = model(ids, targets=targets, segment_ids=segment_ids, document_mask=document_mask)
            loss = output.token_losses.sum() + (output.balance_loss if model.config.use_moe else 0)
            loss.backward()
            tensors = [output.hidden_states[is_real], output.token_losses, output.log_sum_exp, loss]
            tensors += [parameter.grad for parameter in model.parameters()]
            assert all(tensor.isfinite().all() for tensor in [*tensors, output.hidden_states])
            assert output.token_losses[~is_real].abs().max() == 0
            if model.config.use_moe:
                assert output.expert_load.sum() == is_real.sum() * model.config.num_experts_per_tok * TINY["n_layers"]
            outcomes.append(tensors)
        for first, second in zip(*outcomes, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)

    def test_the_future_is_hidden(self):
        """The gradient of each position's output reaches the tokens before it and no later one."""
        model = random_model(sliding_window=3, n_layers=1)
        embeddings = model.model.embed_tokens(random_ids(1, 10)).detach().requires_grad_()
        handle = model.model.embed_tokens.register_forward_hook(lambda *_: embeddings)
        model(random_ids(1, 10)).logits[0, 6].sum().backward()
        handle.remove()
        reached = (embeddings.grad[0].abs().sum(-1) > 0).nonzero().flatten().tolist()
        assert reached == [4, 5, 6]


CACHE_VARIANTS = [
    {},
    {"sliding_window": 3},
    {"qk_norm": True, "attention_bias": True},
    {"rope_scaling": YARN},
    MOE,
]


class TestCachedEqualsUncached:
    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def test_any_chunking(self, data):
        """Ragged rows, cut at random into ragged chunks (empty ones too), with spare capacity or none."""
        model = random_model(**data.draw(st.sampled_from(CACHE_VARIANTS)), n_layers=2)
        totals = data.draw(st.lists(st.integers(1, 17), min_size=1, max_size=8))
        capacity = max(totals) + data.draw(st.integers(0, 2))
        input_ids = random_ids(len(totals), max(totals), seed=data.draw(st.integers(0, 9)))
        cache = KVCache(model.config, len(totals), capacity, "cpu", torch.float32)
        with torch.no_grad():
            expected = model(input_ids).logits
            while cache.lengths != totals:
                chunk = [
                    data.draw(st.integers(0, total - done)) for total, done in zip(totals, cache.lengths, strict=True)
                ]
                if not any(chunk):
                    chunk = [total - done for total, done in zip(totals, cache.lengths, strict=True)]
                before, size = list(cache.lengths), max(chunk) + data.draw(st.integers(0, 3))
                ids = torch.full((len(totals), size), 11)
                for row, (start, new) in enumerate(zip(before, chunk, strict=True)):
                    ids[row, :new] = input_ids[row, start : start + new]
                output = model(ids, kv_cache=cache, chunk_lengths=chunk)
                assert output.hidden_states.isfinite().all()
                for row, (start, new) in enumerate(zip(before, chunk, strict=True)):
                    if new:
                        assert_close(output.logits[row, :new], expected[row, start : start + new])

    def test_token_by_token(self):
        model = random_model()
        input_ids = random_ids(2, 12)
        cache = KVCache(model.config, 2, 12, "cpu", torch.float32)
        with torch.no_grad():
            expected = model(input_ids).logits
            for position in range(12):
                logits = model(input_ids[:, position : position + 1], kv_cache=cache, logits="last").logits
                assert_close(logits, expected[:, position])

    def test_last_logits_of_ragged_rows(self):
        model = random_model()
        input_ids = random_ids(3, 9)
        with torch.no_grad():
            every = model(input_ids).logits
            last = model(input_ids, chunk_lengths=[9, 1, 4], logits="last").logits
        torch.testing.assert_close(last, torch.stack([every[0, 8], every[1, 0], every[2, 3]]), rtol=0, atol=1e-6)

    def test_no_logits_when_none_are_wanted(self):
        output = random_model()(random_ids(1, 3), logits="none")
        assert output.logits is None
        assert output.token_losses is None
        assert output.hidden_states.shape == (1, 3, TINY["dim"])

    def test_select_and_truncate_mid_way(self):
        model = random_model()
        input_ids = random_ids(3, 14)
        cache = KVCache(model.config, 3, 14, "cpu", torch.float32)
        order = [2, 0, 2]
        with torch.no_grad():
            model(input_ids[:, :10], kv_cache=cache, chunk_lengths=[10, 10, 7])
            cache.select(order)
            assert cache.lengths == [7, 10, 7]
            cache.truncate([5, 10, 7])
            rows = [torch.cat((input_ids[2, :5], input_ids[0, 5:9])), input_ids[0, :14], input_ids[2, :11]]
            ids = torch.stack([rows[0][5:9], rows[1][10:14], rows[2][7:11]])
            found = model(ids, kv_cache=cache).logits
            for row, whole in enumerate(rows):
                assert_close(found[row], model(whole[None]).logits[0, -4:])

    def test_a_cache_in_another_precision(self):
        model = random_model()
        cache = KVCache(model.config, 1, 20, "cpu", torch.bfloat16)
        with torch.no_grad():
            expected = model(random_ids(1, 20)).logits
            model(random_ids(1, 20)[:, :10], kv_cache=cache)
            found = model(random_ids(1, 20)[:, 10:], kv_cache=cache).logits
        assert found.dtype == torch.float32
        assert_close(found, expected[:, 10:], relative=0.05)


class TestInitialization:
    @pytest.mark.parametrize("changes", [{}, {"use_moe": True}, {"tie_embeddings": False, "attention_bias": True}])
    def test_standard_deviations(self, changes):
        torch.manual_seed(0)
        model = CausalLM(LMConfig(dim=256, n_layers=6, n_heads=4, n_kv_heads=2, vocab_size=999, **changes))
        num_scaled = 0
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all(), name
            elif "norm" in name:
                assert (parameter == 1).all(), name
            else:
                scaled = name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj"))
                expected = 0.02 / math.sqrt(2 * 6) if scaled else 0.02
                assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
                assert abs(parameter.mean().item()) < expected / 10, name
                num_scaled += scaled
        assert num_scaled == 6 * (3 if changes.get("use_moe") else 2)

    def test_first_loss_is_that_of_guessing(self):
        torch.manual_seed(0)
        model = CausalLM(LMConfig(**TINY))
        loss = model(random_ids(4, 32), targets=random_ids(4, 32, seed=3)).token_losses.mean()
        assert loss.item() == pytest.approx(math.log(TINY["vocab_size"]), abs=0.05)

    def test_tied_head_is_the_embedding(self):
        assert (model := random_model()).lm_head.weight is model.model.embed_tokens.weight
        untied = random_model(tie_embeddings=False)
        assert untied.lm_head.weight is not untied.model.embed_tokens.weight
        assert untied.lm_head.weight.shape == (TINY["vocab_size"], TINY["dim"])


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("changes", [{}, MOE, {"qk_norm": True}])
    def test_whole_model_in_16_bits(self, dtype, changes):
        model = random_model(**changes)
        with torch.no_grad():
            expected = model(random_ids(2, 20)).logits
            output = model.to(dtype)(random_ids(2, 20))
        assert output.hidden_states.dtype == dtype
        assert output.logits.dtype == torch.float32
        # Routing may flip near ties, so the mixture is only compared on average.
        assert (output.logits - expected).abs().mean() < 0.02 * expected.abs().max()

    @pytest.mark.parametrize("changes", [{}, MOE])
    def test_autocast_keeps_the_delicate_parts_wide(self, changes):
        model = random_model(**changes)
        seen: dict[str, torch.dtype] = {}
        model.model.norm.register_forward_hook(lambda _, inputs, output: seen.update(norm=output.dtype))
        model.model.rotary.register_forward_hook(lambda _, inputs, output: seen.update(rope=output[0].dtype))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(random_ids(2, 20), targets=random_ids(2, 20, seed=2))
        assert seen == {"norm": torch.float32, "rope": torch.float32}  # the residual stream stays float32
        assert output.token_losses.dtype == torch.float32
        if model.config.use_moe:
            assert output.balance_loss.dtype == torch.float32
        (output.token_losses.mean() + (output.balance_loss or 0)).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.dtype == torch.float32, name
            assert parameter.grad.isfinite().all(), name

    @pytest.mark.parametrize("changes", [{}, {**MOE}, {"qk_norm": True, "rope_scaling": YARN}])
    def test_float64_stays_float64(self, changes):
        model = random_model(**changes).double()
        output = model(random_ids(2, 8), targets=random_ids(2, 8, seed=2))
        wanted = [output.hidden_states, output.token_losses, output.log_sum_exp]
        wanted += [output.balance_loss] if model.config.use_moe else []
        assert {tensor.dtype for tensor in wanted} == {torch.float64}
        # Central differences see the analytic gradient to many digits only if no step rounds to float32.
        weight = model.model.layers[0].self_attn.q_proj.weight
        output.token_losses.sum().backward()
        slope = weight.grad[1, 2].item()
        losses = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                weight[1, 2] += step
                losses.append(model(random_ids(2, 8), targets=random_ids(2, 8, seed=2)).token_losses.sum().item())
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8)

    def test_meta_device_gives_shapes_without_memory(self):
        with torch.device("meta"):
            model = CausalLM(LMConfig.preset("base"))
            output = model(torch.zeros(2, 64, dtype=torch.long))
        assert output.logits.device.type == "meta"
        assert output.logits.shape == (2, 64, 6400)


class TestDropout:
    def test_only_while_training(self):
        model = random_model(dropout=0.5)
        first, second = model(random_ids(1, 20)).logits, model(random_ids(1, 20)).logits
        assert torch.equal(first, second)
        model.train()
        assert not torch.equal(model(random_ids(1, 20)).logits, model(random_ids(1, 20)).logits)

    def test_keeps_the_mean(self):
        """Attention's dropout too: averaged over many draws, the output is that without dropout."""
        torch.manual_seed(0)
        config = LMConfig(**TINY, dropout=0.3)
        attention, model = Attention(config, 0), CausalLM(config)
        inputs = model.model._attention_inputs(random_ids(1, 6), None, None, None, [6])
        hidden_states = torch.randn(1, 6, config.dim)
        with torch.no_grad():
            expected = attention.eval()(hidden_states, inputs)
            attention.train()
            mean = torch.stack([attention(hidden_states, inputs) for _ in range(3000)]).mean(0)
        assert (mean - expected).abs().max() < 0.1 * expected.abs().max()
