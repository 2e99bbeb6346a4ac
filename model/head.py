"""The output head: from hidden states to logits, or straight to losses without all logits at once."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100  # a target that is not trained on (PyTorch's and transformers' convention)

# Logits of this many elements are made in one piece (128 MiB in fp32); more are made chunk by chunk, and made
# again in the backward pass, so that memory does not grow with batch × vocabulary.
MAX_LOGIT_ELEMENTS = 2**25

# Where more of the positions than this are trained, as in pretraining, gathering them costs more than it saves.
GATHERED_SHARE = 0.9


class LMHead(nn.Module):
    """A linear map to the vocabulary. `weight` [vocab_size, dim] may be the embedding matrix itself."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Logits [..., vocab_size], in at least float32."""
        logits = self.product(hidden_states)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def product(self, hidden_states: Tensor) -> Tensor:
        """The same in the dtype of the product."""
        return nn.functional.linear(hidden_states, self.weight)

    def forward(self, hidden_states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Per-token losses.

        Args:
            hidden_states: [batch, seq, dim].
            targets: [batch, seq] token ids; `IGNORED` where nothing is trained.

        Returns:
            −log p of each target, and the log-sum-exp of each position's logits (for a z-loss), both [batch,
            seq] and both 0 where the target is ignored.
        """
        flat_hidden, flat_targets = hidden_states.flatten(0, -2), targets.flatten()
        trained = flat_targets != IGNORED
        # Three quarters of a fine-tuning batch are the user's words: no logits are made for those. On a GPU
        # counting the targets would stall it, so there every position is computed.
        if trained.device.type == "cpu" and trained.count_nonzero() < GATHERED_SHARE * len(trained):
            places = trained.nonzero().squeeze(-1)
            found = self._losses(flat_hidden.index_select(0, places), flat_targets[places])
            losses, log_sum_exp = (each.new_zeros(len(flat_targets)).index_put((places,), each) for each in found)
        else:
            losses, log_sum_exp = self._losses(flat_hidden, flat_targets)
        return losses.view(targets.shape), log_sum_exp.view(targets.shape)

    def _losses(self, flat_hidden: Tensor, flat_targets: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` on [tokens, dim] and [tokens], a chunk at a time when there are many."""
        chunk = max(1, MAX_LOGIT_ELEMENTS // self.weight.shape[0])
        if len(flat_targets) <= chunk:
            return self._token_losses(flat_hidden, flat_targets)
        pieces = [
            checkpoint(self._token_losses, hidden, target, use_reentrant=False)
            for hidden, target in zip(flat_hidden.split(chunk), flat_targets.split(chunk), strict=True)
        ]
        losses, log_sum_exp = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return losses, log_sum_exp

    def _token_losses(self, hidden_states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(hidden_states)
        losses = nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
        ignored = targets == IGNORED
        # −log p = log-sum-exp − logit, so the log-sum-exp costs one look-up and no second pass over the
        # logits. By index and not by `gather`, which would keep all logits for the backward pass once more.
        places = torch.arange(len(targets), device=targets.device)
        target_logits = logits[places, targets.masked_fill(ignored, 0)]
        return losses, (target_logits + losses).masked_fill(ignored, 0.0)
