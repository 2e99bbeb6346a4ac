"""How far preference training has taken a model from the one it started as, seen on held-out questions."""

import numpy as np
import torch
from torch import Tensor

from dataset.mixed_set import AnySet
from inference.engine import generate
from inference.sampling_params import SamplingParams
from model.decoder import CausalLM
from model.device import Precision
from model.head import IGNORED
from trainer.engine import Engine
from trainer.parallel import Parallel
from trainer.samples import sample_prompts
from trainer.stages import Origin
from trainer.watch import evaluating

MOST_ELEMENTS = 2**24  # of the start's log-probabilities [places, vocab] that are kept (64 MiB)
ROWS, PROMPTS, ANSWER_TOKENS = 8, 8, 64
# A chosen answer whose tokens have become so many nats less probable, on average, is on its way out: the margin then
# only grows because the rejected one falls faster (arXiv:2402.13228).
COLLAPSE = 0.5


class DriftProbe:
    """Compares a model with its start, at places within chosen answers.

    Args:
        packed: pairs, held out where there are some.
        origin: the start; its model is moved to the device.
    """

    def __init__(self, packed: AnySet, origin: Origin, precision: Precision, parallel: Parallel) -> None:
        self._precision = precision
        self._start = self._start_losses = torch.empty(0)
        if not parallel.is_main or not packed.num_rows:
            return
        self._tokenizer, self._prompts = origin.tokenizer(), sample_prompts(packed, PROMPTS)
        rows = np.unique(np.linspace(0, packed.num_rows - 1, ROWS).astype(int))
        batch = {name: torch.from_numpy(array).to(precision.device) for name, array in packed.batch(rows).items()}
        is_chosen = (batch["segment_ids"] >= 0) & (batch["segment_ids"] % 2 == 0)
        places = (is_chosen & (batch["targets"] != IGNORED)).nonzero()
        most = max(1, MOST_ELEMENTS // origin.model.config.vocab_size)
        self._places = places[torch.linspace(0, len(places) - 1, min(most, len(places))).long()]
        self._batch, self._chosen = batch, tuple(places.T)
        start = origin.model.to(device=precision.device, dtype=precision.weights)
        self._start, self._start_losses = self._read(start)

    @torch.no_grad()
    def _read(self, model: CausalLM) -> tuple[Tensor, Tensor]:
        """log p of every next token at the places, [places, vocab], and −log p of each token of a chosen answer."""
        with evaluating(model), self._precision.autocast():
            output = model.forward(
                self._batch["input_ids"],
                targets=self._batch["targets"],
                position_ids=self._batch["position_ids"],
                segment_ids=self._batch["segment_ids"],
                document_mask=True,
            )
            logits = model.lm_head.logits(output.hidden_states[tuple(self._places.T)])
        assert output.token_losses is not None
        return logits.log_softmax(dim=-1), output.token_losses[self._chosen]

    def __call__(self, engine: Engine) -> tuple[dict[str, float], list[str]]:
        """What is measured, and alarms; every rank calls it, and the main process answers.

        `kl`: KL(π‖π_start) of the next token, nats, mean over the places. `chosen_drop`: how many nats less probable a
        token of the chosen answers is than at the start. `answer_tokens`: mean length of the model's own greedy ones.
        """
        with engine.speaking_model() as model:
            if model is None or not len(self._start):
                return {}, []
            now, losses = self._read(model)
            kl = (now.exp() * (now - self._start)).sum(dim=-1).mean().item()
            drop = (losses - self._start_losses).mean().item()
            params = SamplingParams(max_new_tokens=ANSWER_TOKENS, temperature=0)
            answers = generate(model, self._tokenizer, self._prompts, params)
        found = {"kl": kl, "chosen_drop": drop}
        if answers:
            found["answer_tokens"] = sum(len(each.token_ids) for each in answers) / len(answers)
        alarms = []
        if drop > COLLAPSE:
            alarms.append(
                f"chosen answers have become less probable, by {drop:.2f} nats a token: lower --learning_rate, raise "
                "--beta, or hold them with --sft_weight"
            )
        return found, alarms
