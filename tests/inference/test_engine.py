"""Generation against transformers' on the same weights, alone against in company, and how answers end."""

import random

import pytest
import torch

from inference.engine import decode, generate, prefill, stream
from inference.sampling_params import SamplingParams
from model.errors import UserError
from tests.tiny_model import tiny_model, tiny_tokenizer, transformers_twin

TOKENIZER = tiny_tokenizer()
MAX_SEQ_LEN = 128


def random_prompts(count: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    source = random.Random(seed)
    return [
        [source.randrange(64, TOKENIZER.vocab_size) for _ in range(source.randint(1, longest))] for _ in range(count)
    ]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False, "n_kv_heads": 4}, {"n_kv_heads": 1, "head_dim": 16}])
def test_greedy_text_is_that_of_transformers(dtype, changes):
    model = tiny_model(dtype=dtype, **changes)
    twin = transformers_twin(model)
    prompts = random_prompts(5)
    settings = SamplingParams(temperature=0, max_new_tokens=25, stop_token_ids=[])
    completions = generate(model, TOKENIZER, prompts, settings, batch_size=3)
    for prompt, completion in zip(prompts, completions, strict=True):
        whole = twin.generate(torch.tensor([prompt]), max_new_tokens=25, do_sample=False, eos_token_id=None)
        assert completion.token_ids == whole[0, len(prompt) :].tolist()
        assert len(set(completion.token_ids)) > 5, "a model that repeats one token would prove nothing"


def test_repetition_settings_see_the_prompt_as_in_transformers(model):
    prompts = random_prompts(4, seed=3)
    settings = SamplingParams(
        temperature=0, max_new_tokens=25, stop_token_ids=[], repetition_penalty=1.5, no_repeat_ngram_size=2
    )
    completions = generate(model, TOKENIZER, prompts, settings)
    twin = transformers_twin(model)
    for prompt, completion in zip(prompts, completions, strict=True):
        whole = twin.generate(
            torch.tensor([prompt]),
            max_new_tokens=25,
            do_sample=False,
            eos_token_id=None,
            repetition_penalty=1.5,
            no_repeat_ngram_size=2,
        )
        assert completion.token_ids == whole[0, len(prompt) :].tolist()


@pytest.mark.parametrize("changes", [{}, {"use_moe": True}, {"sliding_window": 8}])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_the_same_alone_and_in_company(temperature, changes):
    model = tiny_model(**changes)
    prompts = random_prompts(9)
    # So many stop tokens that the sequences leave the batch one after another.
    stops = list(range(0, 340, 12))
    settings = SamplingParams(temperature=temperature, max_new_tokens=30, seed=5, stop_token_ids=stops)
    together = generate(model, TOKENIZER, prompts, settings, batch_size=4)
    for index, prompt in enumerate(prompts):
        assert generate(model, TOKENIZER, [prompt], settings, indices=[index]) == [together[index]]
        assert "".join(stream(model, TOKENIZER, prompt, settings, index=index)) == together[index].text
    lengths = {len(completion.token_ids) for completion in together}
    assert len(lengths) > 4


def test_a_seed_gives_the_same_text_and_another_seed_another(model):
    prompts = random_prompts(1) * 3

    def texts(seed: int) -> list[str]:
        settings = SamplingParams(temperature=1, top_p=1, max_new_tokens=20, seed=seed, stop_token_ids=[])
        return [completion.text for completion in generate(model, TOKENIZER, prompts, settings)]

    assert texts(1) == texts(1)
    assert len({*texts(1), *texts(2)}) == 6  # equal prompts of one call differ as well
    assert texts(-1) != texts(-1)


def test_chunked_prefill_reads_the_same(model):
    prompts = random_prompts(6, longest=60)
    whole, whole_cache = prefill(model, prompts, MAX_SEQ_LEN)
    for chunk_size in (1, 7, 16):
        chunked, cache = prefill(model, prompts, MAX_SEQ_LEN, chunk_size)
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-10)
        assert cache.lengths == whole_cache.lengths == [len(prompt) for prompt in prompts]
        # And what follows, too: the cache holds the same.
        tokens = [70] * len(prompts)
        expected = model(torch.tensor([[*prompts[0], 70]]), logits="last").logits
        torch.testing.assert_close(decode(model, tokens, cache)[:1], expected, rtol=0, atol=1e-10)


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(model):
    prompt = random_prompts(1)[0]
    free = SamplingParams(temperature=0, max_new_tokens=20, stop_token_ids=[])
    token_ids = generate(model, TOKENIZER, [prompt], free)[0].token_ids
    stop = token_ids[7]
    first = token_ids.index(stop)
    settings = SamplingParams(temperature=0, max_new_tokens=20, stop_token_ids=[stop])
    completion = generate(model, TOKENIZER, [prompt], settings)[0]
    assert completion.token_ids == token_ids[:first]
    assert completion.finish_reason == "stop"
    assert completion.num_prompt_tokens == len(prompt)


def test_stop_tokens_are_those_of_the_tokenizer_by_default(model, monkeypatch):
    monkeypatch.setattr("inference.engine.choose_tokens", lambda logits, *_: [3] * len(logits))
    completion = generate(model, TOKENIZER, [[70]], SamplingParams())[0]
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", [], "stop")


def scripted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make the model say `text`, token by token, whatever its logits."""
    token_ids = iter([*TOKENIZER.encode(text), *[3] * 50])
    monkeypatch.setattr("inference.engine.choose_tokens", lambda *_: [next(token_ids)])


@pytest.mark.parametrize(
    ("text", "stop", "expected", "reason"),
    [
        ("Paris. User: more", ["User:"], "Paris. ", "stop"),
        ("巴黎。用户：还有", ["用户："], "巴黎。", "stop"),
        (
            "Paris. Use",
            ["User:"],
            "Paris. Use",
            "stop",
        ),  # <|im_end|> after what only looked like a stop string
        ("Paris", ["xyz", "ri"], "Pa", "stop"),
        ("Paris", [], "Paris", "stop"),
    ],
)
def test_stop_strings(model, monkeypatch, text, stop, expected, reason):
    settings = SamplingParams(stop=stop)
    scripted(monkeypatch, text)
    completion = generate(model, TOKENIZER, [[70]], settings)[0]
    assert (completion.text, completion.finish_reason) == (expected, reason)
    scripted(monkeypatch, text)
    pieces = list(stream(model, TOKENIZER, [70], settings))
    assert "".join(pieces) == expected
    assert all(pieces)


def test_a_streamed_piece_is_whole_characters(model, monkeypatch):
    scripted(monkeypatch, "小苗🌱 grows")
    assert list(stream(model, TOKENIZER, [70], SamplingParams()))[:3] == ["小", "苗", "🌱"]


def test_length_ends_an_answer_and_what_was_held_back_appears(model, monkeypatch):
    token_ids = TOKENIZER.encode("Use")
    scripted(monkeypatch, "User:")
    settings = SamplingParams(max_new_tokens=len(token_ids), stop=["User:"])
    completion = generate(model, TOKENIZER, [[70]], settings)[0]
    assert (completion.text, completion.finish_reason) == ("Use", "length")
    assert completion.token_ids == token_ids


@pytest.mark.parametrize("length", [1, MAX_SEQ_LEN - 3, MAX_SEQ_LEN - 1])
def test_the_context_ends_an_answer(model, length):
    settings = SamplingParams(temperature=0, max_new_tokens=10_000, stop_token_ids=[])
    completion = generate(model, TOKENIZER, [[70] * length], settings)[0]
    assert len(completion.token_ids) == MAX_SEQ_LEN - length
    assert completion.finish_reason == "length"


def test_prompts_that_do_not_fit_are_refused_with_both_numbers(model):
    with pytest.raises(UserError, match=r"has 128 tokens.*context holds 128"):
        generate(model, TOKENIZER, [[70], [70] * MAX_SEQ_LEN], SamplingParams())
    with pytest.raises(UserError, match="prompt is empty"):
        list(stream(model, TOKENIZER, [], SamplingParams()))


def test_no_prompts_give_no_answers(model):
    assert generate(model, TOKENIZER, [], SamplingParams()) == []


def test_sampling_while_training_uses_no_dropout_and_leaves_the_mode():
    model = tiny_model(dropout=0.5)
    settings = SamplingParams(temperature=0, max_new_tokens=10, stop_token_ids=[])
    expected = generate(model, TOKENIZER, [[70, 71]], settings)
    model.train()
    assert generate(model, TOKENIZER, [[70, 71]], settings) == expected
    assert model.training
    # Nothing of the generation is left in the way of the next training step.
    model(torch.tensor([[70, 71]]), targets=torch.tensor([[71, 72]])).token_losses.sum().backward()
