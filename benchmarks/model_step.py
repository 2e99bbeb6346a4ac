"""A training step of ours against transformers' with the same weights: tokens a second, in pairs.

    python -m benchmarks.model_step                    # small against LlamaForCausalLM
    python -m benchmarks.model_step --preset moe       # against GraniteMoeSharedForCausalLM

A step is forward, backward, AdamW and zeroing the gradients, eager, in float32 on a CPU or in bf16 autocast
on a GPU. The two take turns in one process, the order changing each round, so that a busy machine disturbs
both alike; the ratio is the median over the rounds' own ratios, its interval a bootstrap over the rounds.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.stock_models import stock_model
from model.config import PRESETS, LMConfig
from model.decoder import CausalLM
from model.device import choose_device, choose_precision, synchronize


def main() -> None:
    """Time both models in turns and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", choices=PRESETS, help="architecture")
    parser.add_argument("--batch_size", type=int, default=4, help="rows of the micro-batch")
    parser.add_argument("--seq_len", type=int, default=512, help="tokens of a row")
    parser.add_argument("--repeats", type=int, default=12, help="rounds that are timed, after two that are not")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    precision = choose_precision("auto", device)

    torch.manual_seed(0)
    ours = CausalLM(LMConfig.preset(arguments.preset, max_seq_len=arguments.seq_len)).to(device).train()
    theirs = stock_model(ours).train()
    input_ids = torch.randint(0, ours.config.vocab_size, (arguments.batch_size, arguments.seq_len + 1), device=device)

    def our_loss() -> Tensor:
        output = ours(input_ids[:, :-1], targets=input_ids[:, 1:])
        loss = output.token_losses.mean()
        if output.balance_loss is not None:
            loss = loss + ours.config.aux_loss_alpha * output.balance_loss / arguments.batch_size
        return loss

    def their_loss() -> Tensor:
        # transformers shifts the labels itself: both read seq_len tokens and predict the same ones, but the
        # last.
        return theirs(input_ids[:, :-1], labels=input_ids[:, :-1], use_cache=False).loss

    def step_of(model: torch.nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], tuple[float, float]]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def step() -> tuple[float, float]:
            synchronize(device)
            start, start_cpu = time.perf_counter(), time.process_time()
            with precision.autocast():
                loss = loss_of()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            synchronize(device)
            return time.perf_counter() - start, time.process_time() - start_cpu

        return step

    steps = {"ours": step_of(ours, our_loss), "theirs": step_of(theirs, their_loss)}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for round_number in range(-2, arguments.repeats):
        names = list(steps) if round_number % 2 else list(reversed(steps))
        for name in names:
            elapsed = steps[name]()
            if round_number >= 0:
                seconds[name].append(elapsed)

    num_tokens = arguments.batch_size * arguments.seq_len
    print(
        f"{arguments.preset}: {ours.config.num_parameters():,} parameters, "
        f"{arguments.batch_size} × {arguments.seq_len} tokens a step, {device.type}, {precision.compute}, "
        f"{arguments.threads} threads, {arguments.repeats} rounds"
    )
    timings = {name: np.array(pairs) for name, pairs in seconds.items()}  # [rounds, (wall, CPU)]
    for label, name in (("Seedling", "ours"), (type(theirs).__name__, "theirs")):
        print(f"{label:<28} {num_tokens / np.median(timings[name][:, 0]):>9,.0f} tokens/s (median)")
    _print_ratio("ratio ours / transformers", timings["theirs"][:, 0] / timings["ours"][:, 0])
    if device.type == "cpu":
        # On a machine that others use too, the seconds of computing are the steadier measure.
        _print_ratio("the same in CPU seconds", timings["theirs"][:, 1] / timings["ours"][:, 1])


def _print_ratio(label: str, ratios: np.ndarray) -> None:
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    interval = f"95 % interval {low:.3f} to {high:.3f}; asked 1.0x"
    print(f"{label:<28} {np.median(ratios):>9.3f}x ({interval})")


if __name__ == "__main__":
    main()
