import json
import math

import numpy as np
import pytest

from trainer.stability import CALM_STEPS, EXPERT_STEPS, LAYER_LEAST, LEAST, LOST_SKIPPED, WINDOW, Stability

Row = tuple[float, float, float]  # loss, gradient norm, update ratio


def healthy_run(
    seed: int, steps: int = 300, noise: float = 0.05, warmup: int = 50, min_ratio: float = 0.0
) -> list[Row]:
    """Numbers as small runs give them: a falling loss, a rising, then falling learning rate, and noise."""
    random = np.random.default_rng(seed)
    rows = []
    for step in range(steps):
        rate = min(1.0, (step + 1) / warmup)
        if step > 0.8 * steps:  # wsd's decay
            rate = min_ratio + (1 - min_ratio) * (steps - 1 - step) / (0.2 * steps)
        loss = 1.5 + 4 * math.exp(-step / 60) + noise * random.standard_normal()
        gradient = (0.3 + 2 * math.exp(-step / 30)) * math.exp(4 * noise * random.standard_normal())
        rows.append((abs(loss), gradient, 0.01 * rate * math.exp(noise * random.standard_normal())))
    return rows


def diverging_run(seed: int, noise: float = 0.05) -> list[Row]:
    """The same with thirtyfold updates from step 100 on, which the loss feels a step later."""
    rows = healthy_run(seed, noise=noise)
    for step in range(100, 110):
        loss, gradient, ratio = rows[step]
        harm = step - 100
        rows[step] = (loss + 0.8 * harm, gradient * (1 + harm), ratio * 30)
    for step in range(110, 300):
        loss, gradient, ratio = rows[step]
        rows[step] = (loss + 3, gradient, ratio)
    return rows


def watch(rows: list[Row], stability: Stability | None = None, first: int = 0):
    stability = stability or Stability()
    return [stability.observe_step(first + number, *row) for number, row in enumerate(rows)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("warmup", [1, 50, 200])
def test_a_healthy_run_is_left_in_peace(seed, noise, warmup):
    verdicts = watch(healthy_run(seed, noise=noise, warmup=warmup))
    assert not [alarm for verdict in verdicts for alarm in verdict.alarms]
    assert not any(verdict.is_spike or verdict.is_lost for verdict in verdicts)


@pytest.mark.parametrize("seed", range(5))
def test_an_alarm_comes_before_the_loss_leaves_and_then_a_spike(seed):
    rows = diverging_run(seed)
    verdicts = watch(rows)
    alarmed = next(step for step, verdict in enumerate(verdicts) if verdict.alarms)
    spiked = next(step for step, verdict in enumerate(verdicts) if verdict.is_spike)
    losses = np.array([row[0] for row in rows])
    before = losses[50:100]
    left = next(step for step in range(100, 300) if losses[step] > before.mean() + 6 * before.std())
    assert alarmed == 100 < left <= spiked < 106
    assert verdicts[spiked].first_suspect_step == 100
    assert verdicts[100].alarms[0].startswith("step 100: the update is ")
    assert "learning rate" in verdicts[100].alarms[0]


def test_an_alarm_is_given_once_an_episode():
    rows = healthy_run(0)
    for step in [*range(100, 110), *range(112, 115), *range(160, 165)]:
        loss, gradient, ratio = rows[step]
        rows[step] = (loss, gradient, ratio * 20)
    alarmed = [step for step, verdict in enumerate(watch(rows)) if verdict.alarms]
    assert alarmed == [100, 160]


def test_one_odd_batch_is_no_spike_and_is_forgotten():
    rows = healthy_run(0)
    rows[120] = (30.0, *rows[120][1:])
    stability = Stability()
    quiet = []
    for step, row in enumerate(rows):
        verdict = stability.observe_step(step, *row)
        assert not verdict.is_spike and not verdict.alarms
        assert stability.is_calm
        quiet.append(stability.is_quiet)
    assert [step for step in range(300) if not quiet[step]] == [120]


def test_what_chance_does_not_explain_keeps_steps_from_being_saved():
    rows = healthy_run(0)
    for step in (120, 121):
        rows[step] = (rows[step][0] + 1, *rows[step][1:])
    stability = Stability()
    calm = []
    for step, row in enumerate(rows):
        verdict = stability.observe_step(step, *row)
        assert not verdict.is_spike and not verdict.alarms
        calm.append(stability.is_calm)
        if step == 121:
            assert verdict.first_suspect_step == 119  # the loss is that of the weights before the update
    assert [step for step in range(300) if not calm[step]] == list(range(121, 121 + CALM_STEPS))


def test_an_episode_begins_with_the_first_of_its_signs():
    """The gradient is sure at its second step; the loss, which left before, at its fourth: odd batches are known."""
    rows = [(loss, 1.0, 0.01) for loss, _, _ in healthy_run(0)]
    for step in range(40, 110, 10):
        rows[step] = (rows[step][0] + 4, *rows[step][1:])
    for step in range(119, 130):
        rows[step] = (rows[step][0] + 4, 50.0 if step > 119 else 1.0, 0.01)
    verdicts = watch(rows, Stability(guessing=math.log(6400)))
    assert [verdicts[step].first_suspect_step for step in (120, 121, 122)] == [None, 119, 118]
    spiked = next(step for step, verdict in enumerate(verdicts) if verdict.is_spike)
    assert verdicts[spiked].first_suspect_step == 118


def known_by_heart(seed: int, odd_share: float, steps: int = 1000) -> list[Row]:
    """A fine-tuning that knows its facts by heart; now and then comes a batch of what nobody can guess."""
    random = np.random.default_rng(seed)
    rows = []
    for step in range(steps):
        loss, gradient = 0.05 + math.exp(-step / 20), 0.6
        if random.random() < odd_share:
            loss, gradient = random.uniform(0.4, 1.2), 3.0
        rows.append((loss * math.exp(0.3 * random.standard_normal()), gradient, 0.01))
    return rows


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("odd_share", [0.02, 0.05, 0.2])
def test_odd_batches_that_come_often_are_no_spikes(seed, odd_share):
    rows = known_by_heart(seed, odd_share)
    stability, calm = Stability(guessing=math.log(6400)), 0
    for step, row in enumerate(rows):
        verdict = stability.observe_step(step, *row)
        assert not verdict.is_spike and not verdict.alarms
        calm += stability.is_calm
    assert calm > 0.9 * len(rows), "otherwise there would be no step to save"


@pytest.mark.parametrize("seed", range(10))
def test_damage_shows_between_odd_batches(seed):
    rows = known_by_heart(seed, 0.05)
    damaged = [*rows[:600], *((loss + 0.5, gradient, ratio) for loss, gradient, ratio in rows[600:])]
    verdicts = watch(damaged, Stability(guessing=math.log(6400)))
    spiked = next(step for step, verdict in enumerate(verdicts) if verdict.is_spike)
    assert 600 < spiked < 607
    first = verdicts[spiked].first_suspect_step
    assert first is not None and 590 < first < 600


@pytest.mark.parametrize(("rise", "alarmed", "spiked"), [(1.0, 122, 123), (20.0, 121, 121)])
def test_a_loss_that_leaves_without_warning_is_a_spike(rise, alarmed, spiked):
    """The higher the loss, the sooner: no batch is as odd as to be worse than guessing."""
    rows = [
        (loss + rise * (number >= 120), gradient, 0.01) for number, (loss, gradient, _) in enumerate(healthy_run(0))
    ]
    verdicts = watch(rows)
    assert next(step for step, verdict in enumerate(verdicts) if verdict.is_spike) == spiked
    assert verdicts[spiked].first_suspect_step == 119
    assert "loss" in verdicts[alarmed].alarms[0] and not verdicts[alarmed - 1].alarms


def test_in_the_wake_of_an_alarm_noisy_losses_are_judged_together():
    """Rows of a few tokens: the loss rises by four deviations, which no single step shows clearly."""
    random = np.random.default_rng(0)
    quiet = [(3 + 0.3 * random.standard_normal(), 1.0, 0.01) for _ in range(130)]
    risen = [(loss + 1.2 * (step > 100), gradient, ratio) for step, (loss, gradient, ratio) in enumerate(quiet)]
    alarmed = [(*row[:2], row[2] * (30 if step == 100 else 1)) for step, row in enumerate(risen)]
    harmless = [(*row[:2], row[2] * (30 if step == 100 else 1)) for step, row in enumerate(quiet)]
    assert not any(verdict.is_spike for verdict in watch(risen))
    assert any(verdict.is_spike for verdict in watch(alarmed))
    assert not any(verdict.is_spike for verdict in watch(harmless))


def test_a_gradient_that_grows_steadily_is_noticed():
    rows = healthy_run(0)
    for step in range(150, 200):
        loss, gradient, ratio = rows[step]
        rows[step] = (loss, gradient * 1.2 ** (step - 150), ratio)
    alarms = [alarm for verdict in watch(rows[:200]) for alarm in verdict.alarms]
    assert len(alarms) == 1
    assert "gradient norm" in alarms[0]


def test_a_loss_that_creeps_up_is_noticed():
    rows = [
        (loss + 0.02 * max(0, step - 150), gradient, ratio)
        for step, (loss, gradient, ratio) in enumerate(healthy_run(0))
    ]
    verdicts = watch(rows)
    alarms = [alarm for verdict in verdicts for alarm in verdict.alarms]
    assert "had been down to" in alarms[0]
    assert not any(verdict.is_spike for verdict in verdicts)


@pytest.mark.parametrize("first", [0, 40])
def test_a_model_that_has_become_worse_than_untrained_is_lost(first):
    """From the start, too: then there was never a calm to compare with."""
    rows = [
        (loss + 0.1 * max(0, step - first), gradient, ratio)
        for step, (loss, gradient, ratio) in enumerate(healthy_run(0))
    ]
    verdicts = watch(rows)
    lost = [step for step, verdict in enumerate(verdicts) if verdict.is_lost]
    untrained = rows[0][0]
    assert rows[lost[0]][0] > 1.25 * untrained
    assert lost == list(range(lost[0], len(rows)))
    assert f"{untrained:.2f} is that of an untrained model" in verdicts[lost[0]].alarms[-1]
    assert not any(verdict.is_lost for verdict in watch(rows, Stability(guessing=rows[-1][0])))


def test_losses_that_explode_at_once_are_no_noise():
    random = np.random.default_rng(0)
    rows = [(5.0, 1.0, 0.01)] + [(5 * 10 ** random.uniform(1, 6), 1.0, 0.01) for _ in range(40)]
    assert next(step for step, verdict in enumerate(watch(rows)) if verdict.is_lost) == LEAST - 1


def test_an_easy_first_batch_makes_no_run_lost():
    """Of a fine-tuning on single rows: ordinary losses may be several times the first."""
    rows = [(0.4, 1.0, 0.01), *((loss + 1, gradient, ratio) for loss, gradient, ratio in healthy_run(0, noise=0.5))]
    assert not any(verdict.is_lost for verdict in watch(rows, Stability(guessing=math.log(6400))))


def test_a_new_level_is_the_usual_one_in_the_end():
    rows = [
        (loss, gradient, ratio * (10 if step >= 100 else 1))
        for step, (loss, gradient, ratio) in enumerate(healthy_run(0))
    ]
    stability = Stability()
    verdicts = watch(rows[:100], stability) + watch(rows[100 : 110 + WINDOW], stability, first=100)
    assert [step for step, verdict in enumerate(verdicts) if verdict.alarms] == [100]
    assert stability.is_calm


@pytest.mark.parametrize("cut", [1, 19, 50, 101, 103, 112, 125])
def test_a_resumed_run_judges_as_the_uninterrupted_one(cut):
    rows = diverging_run(1)
    uninterrupted = watch(rows)
    first = Stability()
    watch(rows[:cut], first)
    saved = json.dumps(first.state(), allow_nan=False)
    watch(rows[cut:], first, cut)  # what goes on does not change what was saved
    second = Stability(json.loads(saved))
    assert json.dumps(second.state()) == saved
    assert watch(rows[cut:], second, cut) == uninterrupted[cut:]


def test_what_was_saved_stays_as_it_was():
    first = Stability()
    watch(healthy_run(0)[:60], first)
    observe_logged(first, 0)
    saved = first.state()
    copy = json.dumps(saved)
    again = Stability(saved)
    for stability in (first, again):
        watch(diverging_run(0)[60:], stability, 60)
        observe_logged(stability, 1)
    assert json.dumps(saved) == copy
    assert len(copy) < 10_000


def observe_logged(stability: Stability, step: int) -> None:
    stability.observe_layers(step, [1.0, 2.0], [3.0, 4.0])
    stability.observe_experts(step, [[0.5, 0.5], [0.99, 0.01]])


def test_an_update_ratio_is_not_needed():
    rows = diverging_run(0)
    stability = Stability()
    verdicts = [stability.observe_step(step, loss, gradient, None) for step, (loss, gradient, _) in enumerate(rows)]
    assert any(verdict.is_spike for verdict in verdicts)


def test_zeros_are_no_reason_to_stop():
    rows = healthy_run(0)[:60] + [(2.0, 0.0, 0.0)] * 40
    assert not [alarm for verdict in watch(rows) for alarm in verdict.alarms]


def test_five_updates_left_out_in_a_row_are_a_spike():
    stability = Stability()
    rows = healthy_run(0)
    watch(rows[:60], stability)
    verdicts = [stability.observe_skipped(step) for step in range(60, 64)]
    assert not any(verdict.is_spike or verdict.alarms for verdict in verdicts)
    assert not stability.is_calm
    stability.observe_step(64, *rows[64])
    verdicts = [stability.observe_skipped(step) for step in range(65, 71)]
    assert [verdict.is_spike for verdict in verdicts] == [False] * 4 + [True] * 2
    assert [len(verdict.alarms) for verdict in verdicts] == [0, 0, 0, 0, 1, 0]
    assert verdicts[4].first_suspect_step == 59


def test_updates_that_are_left_out_for_ever_are_lost():
    stability = Stability()
    verdicts = [stability.observe_skipped(step) for step in range(LOST_SKIPPED)]
    assert [verdict.is_lost for verdict in verdicts] == [False] * (LOST_SKIPPED - 1) + [True]


def test_a_layer_that_drifts_is_named_once():
    stability, alarms = Stability(), []
    for number in range(LAYER_LEAST + 8):
        growth = 50.0 if number >= LAYER_LEAST + 2 else 1.0
        # Layer 1's hidden states grow quickly at first, as a young model's do.
        alarms += stability.observe_layers(number * 10, [min(2.0**number, 64.0), 5.0 * growth], [1.0, 2.0])
    assert len(alarms) == 1
    assert alarms[0].startswith(f"step {(LAYER_LEAST + 2) * 10}: ")
    assert "layer 2 " in alarms[0] and "50 times" in alarms[0]


@pytest.mark.parametrize(("logits", "expected"), [([30.0] * 20, 0), ([60.0] * 20, 0), ([101.0] * 20, 1)])
def test_large_attention_logits_are_noticed(logits, expected):
    stability = Stability()
    alarms = [alarm for step, value in enumerate(logits) for alarm in stability.observe_layers(step, [1.0], [value])]
    assert len(alarms) == expected
    assert all("attention logit of layer 1 is 101" in alarm for alarm in alarms)


def test_attention_logits_that_grow_are_noticed_before_the_limit():
    stability = Stability()
    for step in range(LAYER_LEAST):
        assert not stability.observe_layers(step, [1.0], [10.0])
    assert len(stability.observe_layers(LAYER_LEAST, [1.0], [60.0])) == 1


def test_experts_that_starve_or_crowd_are_named():
    stability = Stability()
    balanced, starved = [0.25, 0.25, 0.25, 0.25], [0.5, 0.3, 0.2 - 0.01, 0.01]
    alarms = []
    for step in range(EXPERT_STEPS - 1):
        alarms += stability.observe_experts(step, [balanced, starved])
    assert not alarms
    alarms = stability.observe_experts(EXPERT_STEPS, [balanced, starved])
    assert len(alarms) == 2
    assert "expert 1 of layer 2 takes 50.0%" in alarms[0]
    assert "expert 4 of layer 2 gets 1.0%" in alarms[1]
    assert not stability.observe_experts(EXPERT_STEPS + 1, [balanced, starved])
    assert not stability.observe_experts(EXPERT_STEPS + 2, [balanced, balanced])


@pytest.mark.parametrize("num_experts", [1, 2, 4, 64])
def test_balanced_experts_are_left_in_peace(num_experts):
    stability = Stability()
    random = np.random.default_rng(0)
    for step in range(50):
        load = random.dirichlet([20] * num_experts, size=3).tolist()
        assert not stability.observe_experts(step, load)
