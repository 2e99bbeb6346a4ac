"""Duplicates against the plain definition: every document compared with every earlier one that stays."""

import pickle
import random

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from dataset import dedup
from dataset.cleaning import digest
from dataset.dedup import EXACT, KEEP, NEAR, DuplicateFinder, NearDuplicateSettings, NearKeys
from dataset.duplicates import near_search
from dataset.duplicates.shingles import ShingleStore, normalise, shingle_sets
from model.errors import UserError

GIGABYTE = 1 << 30
DEFAULT = NearDuplicateSettings()


def brute_force(texts, threshold, ngram=5):
    """The definition, with sets of substrings: no hash, no index."""
    seen, kept, decisions = set(), [], []
    for text in texts:
        normal = normalise(text)
        own = {normal[i : i + ngram] for i in range(len(normal) - ngram + 1)}
        if text in seen:
            decisions.append(EXACT)
        elif own and any(len(own & other) / len(own | other) >= threshold for other in kept):
            decisions.append(NEAR)
        else:
            decisions.append(KEEP)
            kept.append(own or {text})
        seen.add(text)
    return decisions


def digests_of(texts):
    return np.frombuffer(b"".join(map(digest, texts)), np.uint8).reshape(len(texts), 16)


def finder_of(folder, texts, settings, memory_bytes=GIGABYTE, at_once=50):
    finder = DuplicateFinder(folder, memory_bytes, settings)
    keys = NearKeys(settings) if settings else None
    for start in range(0, len(texts), at_once):
        some = texts[start : start + at_once]
        finder.add(digests_of(some), *(keys(some) if keys else ()))
    return finder


def decide(folder, texts, settings=DEFAULT, **options):
    return finder_of(folder, texts, settings, **options).finish().tolist()


def edited_texts(seed, count, num_words=60, longest=40):
    """Texts made of few words, more than half of them edits of earlier ones: many are alike, to every degree."""
    chance = random.Random(seed)
    alphabet = "abcdefghij天地人你我他"
    words = ["".join(chance.choices(alphabet, k=chance.randint(1, 5))) for _ in range(num_words)]
    texts = []
    for _ in range(count):
        if texts and chance.random() < 0.6:
            own = chance.choice(texts).split(" ")
            for _ in range(chance.randint(0, 3)):
                own[chance.randrange(len(own))] = chance.choice(words)
        else:
            own = chance.choices(words, k=chance.randint(1, longest))
        text = " ".join(own)
        texts.append(text.upper() if chance.random() < 0.1 else text)
    return texts


def template_texts(count):
    """Alike but hardly ever alike enough: what differs between two is more than the threshold allows."""
    chance = random.Random(3)
    names = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=9)) for _ in range(400)]
    return [
        f"the weather report of the national service for {chance.choice(names)} on day {chance.randint(1, 28)} says "
        f"that it will be {chance.choice(names)} with {chance.randint(-20, 40)} degrees, thanks for listening as always"
        for _ in range(count)
    ]


# --- the decisions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "seed"), [(0.85, 1), (0.85, 2), (0.6, 3), (1.0, 4)])
def test_the_decisions_are_those_of_the_definition(tmp_path, threshold, seed):
    texts = edited_texts(seed, 500)
    expected = brute_force(texts, threshold)
    assert min(np.bincount(expected, minlength=3)) >= 3  # all three kinds occur
    assert decide(tmp_path, texts, NearDuplicateSettings(threshold)) == expected


def test_little_memory_gives_the_same_decisions(tmp_path):
    texts = edited_texts(5, 3000)
    roomy, tight = finder_of(tmp_path / "a", texts, NearDuplicateSettings()), None
    tight = finder_of(tmp_path / "b", texts, NearDuplicateSettings(), memory_bytes=0)
    assert tight._band_index.num_runs > 2 and tight._digest_index.num_runs
    assert not roomy._band_index.num_runs and not roomy._digest_index.num_runs
    assert roomy.finish().tolist() == tight.finish().tolist()
    assert roomy.index_bytes == tight.index_bytes


@pytest.fixture
def crowded(monkeypatch):
    """Limits so low that every step spills, larger groups fill several batches, and every group is crowded."""
    for module in (dedup, near_search):
        monkeypatch.setattr(module, "SMALLEST_MEMORY", 1024)  # 8 records of a band index, 4 memberships, 2 digests
    monkeypatch.setattr(near_search, "LARGEST_BAND_GROUP", 1)
    monkeypatch.setattr(near_search, "_LONGEST_KEPT_LIST", 8)
    monkeypatch.setattr(near_search, "_SHINGLES_AT_ONCE", 100)
    monkeypatch.setattr(near_search, "_NUM_COUNTERS", 1 << 10)


@pytest.mark.parametrize(("threshold", "seed"), [(0.85, 1), (0.85, 2), (0.6, 3)])
def test_crowded_groups_lose_nothing(tmp_path, crowded, threshold, seed):
    texts = edited_texts(seed, 300, num_words=500)
    finder = finder_of(tmp_path, texts, NearDuplicateSettings(threshold), memory_bytes=0)
    expected = brute_force(texts, threshold)
    assert finder.finish().tolist() == expected
    assert expected.count(NEAR) > 12 and finder.num_cut_short == 0


@pytest.mark.parametrize("count", [2, 7, 8, 9, 10, 16, 17])
def test_a_group_of_any_size_loses_nobody(tmp_path, crowded, count):
    """A band index of 8 records: the last batch of a group has any number of members, down to one."""
    body = edited_texts(1, 1, longest=40)[0] * 10
    texts = [body + " " * number for number in range(count)]  # no copies, but equal as they are compared
    assert decide(tmp_path, texts, memory_bytes=0) == [KEEP] + [NEAR] * (count - 1)


@pytest.mark.parametrize("longer_first", [True, False])
def test_crowded_documents_of_different_lengths_meet(tmp_path, crowded, monkeypatch, longer_first):
    """What the longer one has alone fills its short prefix: only its long one shows what they have in common."""
    monkeypatch.setattr(near_search, "_NUM_COUNTERS", 1 << 22)  # each shingle has a counter of its own
    characters = map(chr, range(0x4E00, 0x9000))
    texts = []
    for _ in range(20):
        core = "".join(next(characters) for _ in range(200))
        longer = core + "".join(next(characters) for _ in range(26))
        texts += [longer, core] if longer_first else [core, longer]
    assert brute_force(texts, 0.85) == [KEEP, NEAR] * 20
    assert decide(tmp_path, texts, memory_bytes=0) == [KEEP, NEAR] * 20


def test_crowded_documents_meet_by_what_only_two_of_them_have(tmp_path, crowded):
    characters = map(chr, range(0x4E00, 0x9000))
    head = "".join(next(characters) for _ in range(160))
    texts = [head + "".join(next(characters) for _ in range(40)) for _ in range(30)]
    texts += ["x" + text[1:] for text in texts]
    assert decide(tmp_path, texts, memory_bytes=0) == brute_force(texts, 0.85) == [KEEP] * 30 + [NEAR] * 30


def test_templates_are_decided_right_without_comparing_all_with_all(tmp_path, monkeypatch):
    compared = 0
    jaccard = ShingleStore.jaccard

    def counted(self, document, others):
        nonlocal compared
        compared += len(others)
        return jaccard(self, document, others)

    monkeypatch.setattr(ShingleStore, "jaccard", counted)
    texts = template_texts(300)
    texts += [text.replace("always", "ever") for text in texts[::10]]
    finder = finder_of(tmp_path, texts, NearDuplicateSettings())
    decisions = finder.finish()
    assert decisions.tolist() == brute_force(texts, 0.85)
    assert (decisions[300:] == NEAR).all() and finder.num_cut_short == 0
    assert compared < 0.1 * len(texts) ** 2 / 2


def test_one_large_cluster_is_compared_with_its_first_document(tmp_path, monkeypatch):
    compared = []
    jaccard = ShingleStore.jaccard
    monkeypatch.setattr(
        ShingleStore, "jaccard", lambda *arguments: compared.append(len(arguments[2])) or jaccard(*arguments)
    )
    body = edited_texts(1, 1, longest=40)[0] * 10
    texts = [f"{body} {number}" for number in range(500)]
    assert decide(tmp_path, texts) == [KEEP] + [NEAR] * 499
    assert sum(compared) == 499


def test_limits_that_cost_recall_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(near_search, "_MOST_COMPARISONS", 1)
    monkeypatch.setattr(near_search, "_LONGEST_KEPT_LIST", 1)
    monkeypatch.setattr(near_search, "LARGEST_BAND_GROUP", 1)
    chance = random.Random(1)
    words = edited_texts(1, 1, longest=30)[0].split(" ")
    texts = [" ".join(word for word in words if chance.random() < 0.9) for _ in range(300)]
    finder = finder_of(tmp_path, texts, NearDuplicateSettings())
    decisions, expected = finder.finish(), np.array(brute_force(texts, 0.85))
    missed = ((decisions != NEAR) & (expected == NEAR)).sum()
    assert 0 < missed <= finder.num_cut_short


def test_only_what_is_near_a_document_that_stays_goes(tmp_path):
    body = "".join(map(chr, range(0x4E00, 0x4E00 + 200)))
    chain = ["x" * edited + body[edited:] for edited in (0, 20, 40)]
    sets = [set(shingle_sets([text], 5)[0].tolist()) for text in chain]
    alike = [len(a & b) / len(a | b) for a, b in ((sets[0], sets[1]), (sets[1], sets[2]), (sets[0], sets[2]))]
    assert alike[0] >= 0.8 and alike[1] >= 0.8 and alike[2] < 0.8
    settings = NearDuplicateSettings(0.8)
    assert decide(tmp_path, chain, settings) == [KEEP, NEAR, KEEP]
    assert decide(tmp_path, [chain[1], chain[0], chain[2]], settings) == [KEEP, NEAR, NEAR]
    # A copy of a document that goes is a copy; so is one of a document that stays.
    assert decide(tmp_path, [chain[0], chain[1], chain[1], chain[0]], settings) == [KEEP, NEAR, EXACT, EXACT]


def test_short_texts_are_compared_by_their_digests_alone(tmp_path):
    texts = ["好的", "好吗", "好的", "OK", "ok", "", " ", "", "four", "four", "fives", "FIVES"]
    expected = [KEEP, KEEP, EXACT, KEEP, KEEP, KEEP, KEEP, EXACT, KEEP, EXACT, KEEP, NEAR]
    assert decide(tmp_path, texts) == expected == brute_force(texts, 0.85)
    assert decide(tmp_path, texts[:8]) == expected[:8]  # not one of them has a shingle


def test_without_near_duplicates_only_copies_go(tmp_path):
    texts = edited_texts(1, 300)
    first = {text: number for number, text in reversed(list(enumerate(texts)))}
    expected = [KEEP if first[text] == number else EXACT for number, text in enumerate(texts)]
    finder = finder_of(tmp_path, texts, None)
    assert finder.finish().tolist() == expected
    assert finder.bytes_per_row == 12 + 16 + 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=60), st.integers(1, 20))
def test_digests_are_compared_whole_with_any_memory(tmp_path_factory, halves, at_once):
    """Digests that agree in the half that is sorted, and copies of one that fill several batches."""
    digests = np.array(halves, np.uint64).reshape(-1, 2).view(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "SMALLEST_MEMORY", 64 * at_once)
        finder = DuplicateFinder(tmp_path_factory.mktemp("finder"), 0)
        for start in range(0, len(digests), at_once):
            finder.add(digests[start : start + at_once])
        decisions = finder.finish().tolist()
    assert decisions == [EXACT if half in halves[:number] else KEEP for number, half in enumerate(halves)]


def test_no_documents_at_all(tmp_path):
    assert decide(tmp_path, []) == []
    assert decide(tmp_path, [], None) == []


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_how_documents_are_handed_over_changes_nothing(tmp_path, at_once):
    texts = edited_texts(7, 200)
    assert decide(tmp_path, texts, at_once=at_once) == decide(tmp_path, texts)


def test_an_interrupted_search_leaves_nothing_that_the_next_one_minds(tmp_path):
    texts = edited_texts(8, 700)
    interrupted = finder_of(tmp_path, [*texts[100:], "something else"], NearDuplicateSettings(), memory_bytes=0)
    assert interrupted._band_index.num_runs
    decisions = finder_of(tmp_path, texts, NearDuplicateSettings()).finish()
    assert decisions.tolist() == brute_force(texts, 0.85)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["decisions.bin"]


def test_the_index_says_how_large_it_is(tmp_path):
    texts = [f"{text} {number}" for number, text in enumerate(edited_texts(9, 300))]
    finder = finder_of(tmp_path, texts, NearDuplicateSettings(), memory_bytes=0)
    before = finder.index_bytes
    shingles = sum(len(shingle_sets([text], 5)[0]) for text in texts)
    compared = sum(len(normalise(text)) >= 5 for text in texts)
    assert before == 300 * (12 + 16 + 1) + compared * 16 * 12 + 4 * shingles + 8 * 301
    finder.finish()
    assert finder.index_bytes > before and finder.bytes_per_row == finder.index_bytes / 300


# --- the keys -----------------------------------------------------------------------------------------------


def test_signatures_are_those_of_datasketch():
    settings = NearDuplicateSettings(num_perm=64)
    keys = NearKeys(settings)
    hashes, lengths = shingle_sets([*edited_texts(1, 30), "", "tiny"], 5)
    signatures = keys.signatures(hashes, lengths)
    num_perm = settings.rows * settings.bands
    assert signatures.shape == (32, num_perm)
    for own, signature in zip(np.split(hashes, np.cumsum(lengths)[:-1]), signatures, strict=True):
        sketch = MinHash(num_perm, seed=1, hashfunc=int, scheme="affine32")
        sketch.update_batch(own)
        assert np.array_equal(signature, sketch.hashvalues if len(own) else np.zeros(num_perm))


def test_as_many_keys_agree_as_the_formula_says():
    """Each band of r rows agrees with probability J^r: checked at a similarity of one half."""
    settings = NearDuplicateSettings(0.5)
    keys, chance = NearKeys(settings), np.random.default_rng(0)
    drawn = chance.integers(0, 2**32, (400, 150), np.uint32)
    one, other = np.sort(drawn[:, :100]), np.sort(drawn[:, 50:])  # 50 of 150 in common: J = 1/3
    lengths = np.full(400, 100)
    agree = keys._band_keys(keys.signatures(one.ravel(), lengths)) == keys._band_keys(
        keys.signatures(other.ravel(), lengths)
    )
    expected = (1 / 3) ** settings.rows
    assert abs(agree.mean() - expected) < 5 * np.sqrt(expected / agree.size)


def test_equal_numbers_in_different_bands_make_different_keys():
    keys = NearKeys(NearDuplicateSettings())
    band_keys = keys._band_keys(np.full((2, keys._rows * keys._bands), 7, np.uint32))
    assert len(set(band_keys[0].tolist())) == keys._bands and np.array_equal(*band_keys)


def test_keys_work_after_the_way_to_a_worker():
    keys = NearKeys(NearDuplicateSettings())
    there = pickle.loads(pickle.dumps(keys))
    texts = edited_texts(1, 10)
    assert all(np.array_equal(one, other) for one, other in zip(keys(texts), there(texts), strict=True))


def test_the_default_bands_find_a_pair_at_the_threshold():
    settings = NearDuplicateSettings()
    assert (settings.bands, settings.rows) == (16, 8)
    assert settings.recall == pytest.approx(1 - (1 - 0.85**8) ** 16) and settings.recall > 0.99
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0):
        assert NearDuplicateSettings(threshold).recall >= 0.98


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"threshold": 0}, "expected a similarity above 0"),
        ({"threshold": 1.5}, "found 1.5"),
        ({"threshold": float("nan")}, "found nan"),
        ({"threshold": 0.01}, "too low"),
        ({"ngram": 0}, "at least 1"),
        ({"num_perm": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, named):
    with pytest.raises(UserError, match=named):
        NearDuplicateSettings(**settings)
