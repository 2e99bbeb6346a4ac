import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.config import LMConfig
from model.decoder import CausalLM
from trainer.objectives import LanguageModeling

DENSE = LMConfig(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=50, max_seq_len=16)


def _batch(rows=3, seq=12, vocab=50):
    torch.manual_seed(1)
    tokens = torch.randint(0, vocab, (rows, seq + 1))
    targets = tokens[:, 1:].clone()
    targets[:, ::3] = -100
    return {
        "input_ids": tokens[:, :-1],
        "targets": targets,
        "segment_ids": torch.zeros(rows, seq, dtype=torch.long),
        "position_ids": torch.arange(seq).expand(rows, seq),
    }


def test_loss_and_gradients_are_those_of_transformers():
    model = CausalLM(DENSE)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=DENSE.hidden_dim,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=DENSE.norm_eps,
            tie_word_embeddings=True,
        )
    )
    theirs.load_state_dict(model.state_dict())
    batch = _batch()
    term = LanguageModeling(document_mask=False)(model, batch)["loss"]
    num_targets = (batch["targets"] != -100).sum()
    loss = term.total / num_targets
    # transformers shifts the labels itself: the same targets, one place to the right.
    labels = torch.cat([torch.full((3, 1), -100), batch["targets"]], dim=1)[:, :-1]
    last = batch["targets"][:, -1]
    expected = theirs(input_ids=batch["input_ids"], labels=labels, num_items_in_batch=1).loss
    logits = theirs(batch["input_ids"]).logits[:, -1]
    expected = expected + torch.nn.functional.cross_entropy(logits, last, ignore_index=-100, reduction="sum")
    expected = expected / num_targets
    assert term.unit == "tokens"
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6)


def test_z_loss_is_the_squared_log_sum_exp_of_trained_positions():
    model, batch = CausalLM(DENSE), _batch()
    terms = LanguageModeling(document_mask=False, z_loss=1e-4)(model, batch)
    logits = model(batch["input_ids"]).logits
    expected = logits.logsumexp(-1)[batch["targets"] != -100].square().sum()
    torch.testing.assert_close(terms["z_loss"].total, expected, rtol=1e-5, atol=1e-4)
    assert terms["z_loss"].weight == 1e-4


@pytest.mark.parametrize("num_experts_per_tok", [1, 2, 4])
def test_balance_loss_reaches_the_objective_and_the_router(num_experts_per_tok):
    config = DENSE.with_changes(
        use_moe=True,
        num_experts_per_tok=num_experts_per_tok,
        norm_topk_prob=num_experts_per_tok > 1,
        aux_loss_alpha=0.02,
    )
    model = CausalLM(config)
    term = LanguageModeling(document_mask=False)(model, _batch())["balance_loss"]
    assert (term.unit, term.weight) == ("segments", 0.02)
    (term.total * term.weight).backward()
    gradients = [layer.mlp.router.weight.grad for layer in model.model.layers]
    if num_experts_per_tok < 4:  # with all experts chosen every router is balanced
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_document_mask_hides_earlier_segments():
    model, batch = CausalLM(DENSE).eval(), _batch()
    batch["segment_ids"] = (torch.arange(12) >= 5).long().expand(3, 12)
    batch["position_ids"] = torch.cat([torch.arange(5), torch.arange(7)]).expand(3, 12)
    losses = []
    for first_token in (3, 4):
        batch["input_ids"][:, 0] = first_token
        only_second = {**batch, "targets": batch["targets"].masked_fill(batch["segment_ids"] == 0, -100)}
        masked = LanguageModeling(document_mask=True)(model, only_second)["loss"].total
        plain = LanguageModeling(document_mask=False)(model, only_second)["loss"].total
        losses.append((masked, plain))
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]
