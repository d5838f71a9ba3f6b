"""PosGen's splits: the pinned ones, prefixes that none shares, contexts that training never has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from posgen_problems import exactly, oracle, problems, random_sequences, standard

from refrope.held_out import context_codes
from refrope.posgen import TASKS, contexts, digest, generate, make_splits, pair_lag, pairs

# SHA-256 of train, validation, test and of all three, for the default sizes and seed 1.
STANDARD = {
    ("recursive", "disjoint"): (
        "c6b6831f0e6d8cf38c416f5fd1d504b48dee9351a0fd664bd01f7d789423a75f",
        "ab1a13c56beb5773ef9eea2e7fec16e4b61bccf58aae950a3ee83f0738f8b45a",
        "a1c69a6daa59f0a3835f091a9f86aec83bc00a6fa39f9476f015632b8c815cd7",
        "b56cd7dae6bfb0883a1e423b099cfbc8ee43217ce1ad95cab98e7c0b054c2ffe",
    ),
    ("cot", "disjoint"): (
        "a0a7fa7260780a580ce008aa46da05f0e12ddbad03fde05b9d135f0b0ce57917",
        "cba720506517566c9a6ad1a7d118c177861970846e50b4696a635a132f9af055",
        "302cae52f77ca4c44e780510a54e5f48ac6632d58a3ee8e487f8897c96bb95d6",
        "78631160deccf849acc574ef02880d78bfbc5dfcb7f853a8a5e3ab85f536284f",
    ),
    ("semirecursive", "disjoint"): (
        "552395dba391c1240395285e4b03c786768bff1cc84016b2f9e2477d521c8845",
        "451ffa542409faea0e54165dfc1aef5fcd4dfb6c24f1895d0930d9e33ff24cf4",
        "19fb180b969a4efaa4576706f3ad4e9131632f082f647c3155a332127b07536c",
        "61c27ba0bddefc12254a2c895899d72c4ed3b2d4d193c17da0a7bd0e9bcc5258",
    ),
    ("recursive", "official"): (
        "0554cfbdd92c2b7c6a47e4cf8e8f5ef912d97eb0fe4501e4e2a9587d96a93048",
        "198974af62dea5fab0ca683843c75a13c512df3d1973f403fbc4138ba55f0920",
        "78a18a52f9b55a4046a0ff878cccae3e2b65b04fa5a5e07ca93695e997085674",
        "df8f1e16688a9a667011c983ce1af97699bada74a326c0c9b0ef883e601c13c9",
    ),
    ("cot", "official"): (
        "6c07c1e86aea47fc42bfff2725d6fd4deb30da6f4eed5ba159890996bad6d7e4",
        "b77f40a87ca76712f6d8abd366f374c628c03a4558a78d636d5b2c44cca014d1",
        "ff0843dcfecfc74851a9ea51f2c10f4f43338e5ab54a3024663206402d6bb09f",
        "23230adbeee211a2a0d478cdd685e283c52e663b11116bfc8836a235628710fa",
    ),
    ("semirecursive", "official"): (
        "80a8e4f788bddd238d8c94d7dc8361432a77afc7bf5f670bc7f4682e5013051c",
        "458929a599487ca475d49a48543b40d89a81a7858932e7c2a79159ae3e39b04c",
        "5f2efb042aa56eaee54c2984d28eb8635af54133a31e58368e8b68aaa3ae2af1",
        "77cb2f94cd9f773dac7a45d1cef36f2833591f0da501343a06e2c4f2e958b13e",
    ),
    ("recursive", "held-out"): (
        "2f96278a07437c49de9b63a27e9cd1b7f4258bf2994bf8ba3ce090829ad7f1f8",
        "fd004a5a6495ad1540f10b1eed8384263f6af18e18898f726acf2212de97db94",
        "b0f34533aaedecc00a0460dbad5b64eac0ac545f585aca294778fb31e2cbd8e9",
        "c5ba1de358526b6131b946d6b4cb541d7e7ed28523c35652d647022b86931e15",
    ),
    ("cot", "held-out"): (
        "82a90a18920c17960d089cd4fc52c2f237b3a25efdba4bad8b574f734e989c3e",
        "0da4a9616c4ecc14d70750580c3bfbe43e1d3b0e40e578ec279ea0ae0d867b30",
        "e0700361237b9944774a968605622a13c3d8fbba0b7a610afa8d6764c5f6947a",
        "2c1a9fca140c4f15ddf41a56b510fac99f39d5176160f9ce65d4a943fd48166c",
    ),
    ("semirecursive", "held-out"): (
        "ef25741d3c9c3b8dafbb03072c80538ae9ae834d34b406dd719bc8ec05137123",
        "bef7ee059c237d32d125aba4ad8555c5a095efd702921ba609f4fc616a4a050e",
        "1613caeb65830261328c6d316e680a08a0da3f4518091965c9a58a6726dedde1",
        "ad0432b7616037796bed1e138e6fb744168e4afdf04ce0a37d78ae7bdceabdb4",
    ),
    ("recursive", "held-out-pairs"): (
        "356d075987571dd0f7a2f6b1857845494afab0b31a3a0f912bcb2a9f5423c933",
        "fd004a5a6495ad1540f10b1eed8384263f6af18e18898f726acf2212de97db94",
        "b0f34533aaedecc00a0460dbad5b64eac0ac545f585aca294778fb31e2cbd8e9",
        "68a8c1c791a2318afaf3bf512255668bcbac49aecc577997e1a39b83cd438c4a",
    ),
    ("cot", "held-out-pairs"): (
        "3c8365639c7ec72f4a28523b81b4706407a499c717a4c834fde64c123357c56a",
        "0da4a9616c4ecc14d70750580c3bfbe43e1d3b0e40e578ec279ea0ae0d867b30",
        "e0700361237b9944774a968605622a13c3d8fbba0b7a610afa8d6764c5f6947a",
        "8f4ebfd2079dd8b2d2fdd86f3b7ff153dd176c7ac413144b0d27ff38dc00db65",
    ),
    ("semirecursive", "held-out-pairs"): (
        "bea35a4f6257e9e8d48276c1c1571a206aa44af43835a0a5c2fe7da787d3cab8",
        "bef7ee059c237d32d125aba4ad8555c5a095efd702921ba609f4fc616a4a050e",
        "1613caeb65830261328c6d316e680a08a0da3f4518091965c9a58a6726dedde1",
        "08e7e27e58a56bdf4d19dd19955dda2608326b1580f3de56d17b12cece48ff98",
    ),
}
# That of the 835 contexts which training never meets in recipe held-out, and the pairs in held-out-pairs.
HELD_OUT = "0085c253295b6e1da04e686ea4eac3cc2e72ee9630de49b43d17461c8f89e3f9"
HELD_OUT_PAIRS = [[3, 13], [2, 8], [12, 12]]

# ---- splits


@pytest.mark.parametrize(("task", "recipe"), STANDARD)
def test_the_standard_splits_are_pinned(task, recipe):
    made = standard(task, recipe)
    hashes = [digest(array) for array in (made.train, made.validation, made.test)]
    assert (*hashes, digest(made)) == STANDARD[task, recipe]


@pytest.mark.parametrize(("task", "recipe"), STANDARD)
def test_the_standard_splits_have_the_papers_sizes_and_are_continued_from_their_prefixes(task, recipe):
    made = standard(task, recipe)
    assert made.train.shape == (10_000, 64)
    assert made.validation.shape == made.test.shape == (1_000, 256)
    for split in (made.train, made.validation, made.test):
        assert np.array_equal(split, generate(task, split[:, :4], split.shape[1]))
        assert not split.flags.writeable


def distinct(*arrays):
    return {tuple(row) for array in arrays for row in array[:, :4].tolist()}


def test_disjoint_prefixes_are_all_different_and_the_same_for_every_task():
    made = standard("recursive", "disjoint")
    assert len(distinct(made.train, made.validation, made.test)) == 12_000
    for task in TASKS:
        other = standard(task, "disjoint")
        for name in ("train", "validation", "test"):
            assert np.array_equal(getattr(other, name)[:, :4], getattr(made, name)[:, :4])


@given(
    modulus=st.integers(2, 5),
    j=st.integers(1, 2),
    k=st.integers(1, 2),
    seed=st.integers(0, 2**40),
    shares=st.tuples(*[st.integers(0, 5)] * 3),
    task=st.sampled_from(TASKS),
)
def test_disjoint_prefixes_are_different_for_all_sizes(modulus, j, k, seed, shares, task):
    train, validation, test = (modulus ** (j + k) * share // max(sum(shares), 1) for share in shares)
    sizes = {"train": train, "validation": validation, "test": test}
    made = make_splits(task, seed=seed, train_length=9, test_length=11, modulus=modulus, j=j, k=k, **sizes)
    rows = [tuple(row[: j + k]) for name in sizes for row in getattr(made, name).tolist()]
    assert len(rows) == len(set(rows)) == train + validation + test
    assert {name: len(getattr(made, name)) for name in sizes} == sizes


def test_all_83521_prefixes_may_be_asked_for_and_not_one_more():
    made = make_splits("cot", seed=1, train=83_000, validation=500, test=21, train_length=4, test_length=4)
    assert len(distinct(made.train, made.validation, made.test)) == 83_521
    message = (
        "make_splits: train + validation + test is 83000 + 500 + 22 = 83522, "
        "expected at most 17**4 = 83521, the number of different prefixes"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        make_splits("cot", seed=1, train=83_000, validation=500, test=22)


def test_more_prefixes_than_an_int64_can_count_are_no_problem():
    made = make_splits("cot", seed=1, train=50, validation=5, test=5, j=10, k=20)
    assert made.train.shape == (50, 64)
    assert len({tuple(row) for row in made.train[:, :30].tolist()}) == 50


def test_disjoint_splits_depend_on_the_seed_alone():
    sizes = {"train": 300, "validation": 30, "test": 30}
    again = [digest(make_splits("cot", seed=seed, **sizes)) for seed in (1, 1, 2, 2**64 + 1)]
    assert again[0] == again[1]
    assert len(set(again)) == 3


def test_official_prefixes_are_2380_increasing_ones_over_and_over():
    train = standard("cot", "official").train
    assert len(distinct(train)) == 2_380
    assert (np.diff(train[:, :4], axis=1) > 0).all()
    assert train[:3, :4].tolist() == [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 5]]
    assert train[2379, :4].tolist() == [13, 14, 15, 16]
    assert np.array_equal(train[2380:], train[:-2380])


@pytest.mark.parametrize("task", TASKS)
def test_every_official_validation_and_test_sequence_begins_with_a_training_sequence(task):
    made = standard(task, "official")
    seen = {row.tobytes() for row in made.train}
    assert np.array_equal(made.validation[:, :64], made.train[:1000])
    assert np.array_equal(made.test[:, :64], made.train[1000:2000])
    assert all(row[:64].tobytes() in seen for row in [*made.validation, *made.test])


def test_official_splits_do_not_depend_on_the_seed_and_may_have_more_test_than_training_sequences():
    sizes = {"train": 2, "validation": 3, "test": 4, "test_length": 9, "train_length": 5}
    made = make_splits("cot", recipe="official", seed=8, modulus=5, **sizes)
    assert made.train[:, :4].tolist() == [[0, 1, 2, 3], [0, 1, 2, 4]]
    assert made.validation[:, :4].tolist() == [[0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 3, 4]]
    assert made.test[:, :4].tolist() == [[0, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2, 4]]
    assert digest(made) == digest(make_splits("cot", recipe="official", seed=9, modulus=5, **sizes))


# ---- contexts held out


@given(problem=problems())
def test_contexts_are_what_the_rule_is_given(problem):
    task, prefixes, length, modulus, j, k = problem
    given_to_the_rule = []

    def spy(far, near, modulus):
        given_to_the_rule.append(np.hstack([far, near]))
        return (far.sum(axis=1) + near.sum(axis=1)) % modulus

    x = generate(task, prefixes, length, modulus, j, k, spy)
    read = contexts(task, x, modulus, j, k)
    assert read.shape == (len(prefixes), length - (j + k), j + k)
    assert np.array_equal(read, np.array(given_to_the_rule).reshape(-1, len(prefixes), j + k).swapaxes(0, 1))


def test_contexts_are_numbered_by_their_digits():
    assert context_codes(np.array([[0, 0, 0], [0, 0, 4], [0, 1, 0], [4, 4, 4]]), 5).tolist() == [0, 4, 5, 124]


SMALL = {"recipe": "held-out", "seed": 3, "modulus": 5, "j": 2, "k": 1, "train_length": 9, "test_length": 11}


def met(task, prefix, length, modulus, j, k):
    """The contexts that a sequence meets, in plain Python."""
    seen = set()

    def spy(far, near):
        seen.add((*far, *near))
        return (sum(far) + sum(near)) % modulus

    oracle(task, prefix, length, j, k, spy)
    return seen


@pytest.mark.parametrize("task", TASKS)
def test_training_has_all_sequences_asked_for_that_meet_no_held_out_context_and_not_one_more(task):
    made = make_splits(task, train=1, validation=4, test=3, held_out=0.04, **SMALL)
    held_out = {tuple(row) for row in made.held_out.tolist()}
    assert len(held_out) == len(made.held_out) == 5  # 4 % of 125
    tested = {tuple(row[:3]) for split in (made.validation, made.test) for row in split.tolist()}
    assert len(tested) == 7
    every = {(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    fit = {prefix for prefix in every - tested if not met(task, prefix, 9, 5, 2, 1) & held_out}
    assert 50 < len(fit) < 118
    whole = make_splits(task, train=len(fit), validation=4, test=3, held_out=0.04, **SMALL)
    assert {tuple(row[:3]) for row in whole.train.tolist()} == fit
    assert np.array_equal(whole.train, generate(task, whole.train[:, :3], 9, 5, 2, 1))
    message = (
        f"make_splits: train is {len(fit) + 1}, expected at most {len(fit)}, the prefixes left whose 9 tokens meet "
        "none of the 5 held-out contexts; hold out a smaller share"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        make_splits(task, train=len(fit) + 1, validation=4, test=3, held_out=0.04, **SMALL)


def test_what_is_held_out_and_tested_depends_on_neither_the_task_nor_the_number_of_training_sequences():
    made = [standard(task, "held-out") for task in TASKS]
    made.append(make_splits("cot", recipe="held-out", seed=1, train=10))
    for each in made:
        assert digest(each.held_out) == HELD_OUT
        assert not each.held_out.flags.writeable
        for name in ("validation", "test"):
            assert np.array_equal(getattr(each, name)[:, :4], getattr(made[0], name)[:, :4])
    assert np.array_equal(made[3].train, made[1].train[:10])
    assert digest(make_splits("cot", recipe="held-out", seed=2, train=0).held_out) != HELD_OUT


@pytest.mark.parametrize("task", TASKS)
def test_no_standard_training_step_has_a_held_out_context_and_one_test_step_in_a_hundred_has(task):
    made = standard(task, "held-out")
    assert len(distinct(made.train, made.validation, made.test)) == 12_000
    held_out, trained, tested = (
        context_codes(read, 17) for read in (made.held_out, contexts(task, made.train), contexts(task, made.test))
    )
    assert held_out.shape == (835,)  # 1 % of 17**4
    assert not np.isin(trained, held_out).any()
    # 252,000 steps, 2,520 expected; standard deviation 50 if steps were independent, thrice that allowed.
    assert abs(np.isin(tested, held_out).sum() - 2_520) < 150
    unseen = 1 - np.isin(tested, trained).mean()
    assert (0.01 < unseen < 0.02) if task == "semirecursive" else (0.15 < unseen < 0.25)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("j", "k"), [(1, 3), (2, 1)])
def test_pairs_are_the_last_token_and_the_one_a_lag_back(task, j, k):
    x = random_sequences(task, 30)
    lag = j + k + 1 if task == "recursive" else k + 1
    assert pair_lag(task, j, k) == lag
    read = pairs(task, x, 17, j, k)
    assert read.shape == (500, 30 - lag, 2)
    for step in range(lag, 30):
        assert np.array_equal(read[:, step - lag], x[:, [step - lag, step - 1]])
    assert pairs(task, x[:, :lag], 17, j, k).shape == (500, 0, 2)


@pytest.mark.parametrize("task", TASKS)
def test_no_training_step_has_a_held_out_pair_and_one_test_step_in_a_hundred_has(task):
    made = standard(task, "held-out-pairs")
    assert made.held_out.tolist() == HELD_OUT_PAIRS
    assert not made.held_out.flags.writeable
    held_out = {tuple(pair) for pair in HELD_OUT_PAIRS}
    lag = 5 if task == "recursive" else 4
    found = [
        sum((row[step - lag], row[step - 1]) in held_out for row in x.tolist() for step in range(lag, x.shape[1]))
        for x in (made.train, made.test)
    ]
    assert found[0] == 0
    # 3 of 289 pairs, 252 steps of 1,000 sequences: 2,616 expected; a cycle of 96 tokens doubles its spread, thrice 100.
    assert abs(found[1] - 2_616) < 300
    others = context_codes(pairs(task, made.train), 17)
    assert len(np.unique(others)) == 286


@pytest.mark.parametrize("recipe", ["disjoint", "official"])
def test_other_recipes_hold_nothing_out(recipe):
    assert standard("cot", recipe).held_out.shape == (0, 4)


def test_a_dataset_says_what_it_was_made_from():
    sizes = {"train": 5, "validation": 2, "test": 1, "train_length": 7, "test_length": 8}
    made = make_splits("cot", seed=3, modulus=5, j=2, k=1, rule="latin", **sizes)
    assert (made.task, made.recipe, made.seed) == ("cot", "disjoint", 3)
    assert (made.modulus, made.j, made.k, made.train_length, made.test_length) == (5, 2, 1, 7, 8)
    assert made.rule == "LookupRule(name='latin', modulus=5, seed=0)"
    assert standard("cot", "official").rule == "sum_rule"
