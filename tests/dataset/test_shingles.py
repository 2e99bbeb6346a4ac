import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.duplicates import shingles
from dataset.duplicates.shingles import ShingleStore, normalise, shingle_sets

# Few characters, so that texts share shingles; some of the kinds that break byte arithmetic.
texts = st.lists(st.text("ab 天地\U0001f331\ud800é", max_size=30), max_size=12)


def sets_of(some, ngram):
    """The plain definition: sets of substrings."""
    normal = [normalise(text) for text in some]
    return [{text[i : i + ngram] for i in range(len(text) - ngram + 1)} for text in normal]


def split(hashes, lengths):
    return np.split(hashes, np.cumsum(lengths)[:-1]) if len(lengths) else []


@given(texts, st.integers(1, 6))
def test_hashes_stand_for_substrings(some, ngram):
    hashes, lengths = shingle_sets(some, ngram)
    assert hashes.dtype == np.uint32 and lengths.dtype == np.int32 and lengths.sum() == len(hashes)
    found, expected = [set(own.tolist()) for own in split(hashes, lengths)], sets_of(some, ngram)
    assert lengths.tolist() == [len(own) for own in expected] == [len(own) for own in found]
    for i, own in enumerate(found):
        for j, other in enumerate(found):
            assert len(own & other) == len(expected[i] & expected[j])


@given(texts)
def test_hashes_of_a_text_do_not_depend_on_its_neighbours(some):
    hashes, lengths = shingle_sets(some, 3)
    for text, own in zip(some, split(hashes, lengths), strict=True):
        alone, _ = shingle_sets([text], 3)
        assert own.tolist() == alone.tolist() == sorted(set(alone.tolist()))


@given(texts, st.integers(1, 4))
def test_long_texts_are_hashed_in_pieces_to_the_same_sets(some, ngram):
    whole = shingle_sets(some, ngram)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shingles, "_BATCH_CHARS", 7)
        in_pieces = shingle_sets(some, ngram)
    assert all(np.array_equal(one, other) for one, other in zip(whole, in_pieces, strict=True))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello  World\n", "hello world"),
        ("ＡＢＣ１２３", "abc123"),
        ("你好，世界", "你好,世界"),
        ("\u3000标题\u3000正文", "标题 正文"),
        ("Straße", "STRASSE"),
    ],
)
def test_width_case_and_white_space_do_not_count(one, other):
    assert normalise(one) == normalise(other)
    assert np.array_equal(*(shingle_sets([text], 2)[0] for text in (one, other)))


def test_a_shingle_has_the_same_hash_in_every_process_and_version():
    """Shards of an interrupted build hold them."""
    hashes, lengths = shingle_sets(["seedling 小苗", "tiny"], 5)
    assert lengths.tolist() == [7, 0]
    assert hashes.tolist() == [
        615795767,
        686375428,
        687155290,
        2380030462,
        2766840861,
        3736619327,
        3815011184,
    ]


@given(st.lists(st.text("abc", min_size=3, max_size=40), min_size=2, max_size=8))
def test_the_store_computes_exact_similarities(tmp_path_factory, some):
    store = ShingleStore(tmp_path_factory.mktemp("store"))
    for half in (some[:1], some[1:]):
        store.append(*shingle_sets(half, 3))
    store.open()
    expected = sets_of(some, 3)
    others = np.arange(1, len(some))
    similarities = [len(expected[0] & own) / len(expected[0] | own) for own in expected[1:]]
    assert store.jaccard(0, others).tolist() == similarities
    assert store.sizes(others).tolist() == [len(own) for own in expected[1:]]
    assert np.concatenate(list(store.parts(others, 5))).tolist() == others.tolist()
    assert all(store.sizes(part).sum() <= 5 or len(part) == 1 for part in store.parts(others, 5))
    assert store.num_bytes == 4 * sum(map(len, expected)) + 8 * (len(some) + 1)
    store.close()


def test_a_store_of_nothing(tmp_path):
    store = ShingleStore(tmp_path)
    store.append(*shingle_sets(["ab", ""], 5))
    store.open()
    assert store.sizes(np.array([0, 1])).tolist() == [0, 0] and len(store.of(1)) == 0
