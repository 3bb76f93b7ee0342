"""A bad update is named and left out, whatever it is; the others' mean does not feel it.

The matrix is that of the design's measurements: eight honest sites and a bad one, over the very
records that travel.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from confrere_common.arrays import PACKED, FiledArray, record
from confrere_common.errors import ExchangeError
from confrere_common.exchange import Update
from confrere_common.family import Named
from confrere_common.limits import Limits
from confrere_common.pack import views
from confrere_common.wire import answer_records, read_answer
from confrere_server.admission import (
    Gate,
    Repute,
    Verdict,
    after_round,
    capped,
    cleared,
    judged,
    length_of,
    read_repute,
    surely_uncut,
    weight_cap,
)
from confrere_server.rule import RULES

HONEST = 8
TEMPLATE = {"w": torch.zeros(6, 5), "b": torch.zeros(7)}
KNOWN = Repute(lengths=(0.06, 0.07, 0.05))
GATE = Gate(
    template=TEMPLATE,
    limits=Limits(clip_ratio=2.0, norm_ratio=10.0),
    repute=KNOWN,
    enrolled={"bad": 100},
)


def update(site: str, seed: int = 0, images: int = 100, **changes: Any) -> Update:
    generator = torch.Generator().manual_seed(seed)
    delta = {
        name: 0.01 * torch.randn(tensor.shape, generator=generator) + 0.01
        for name, tensor in TEMPLATE.items()
    }
    plain = {"site": site, "round": 4, "delta": delta, "images": images, "metrics": {"loss": 1.0}}
    return Update(**{**plain, **changes})


def honest() -> list[Update]:
    return [update(f"site-{seed}", seed, images=90 + seed) for seed in range(HONEST)]


def mean(updates: list[Update]) -> Mapping[str, Tensor]:
    copies = (replace(one, delta={n: t.clone() for n, t in one.delta.items()}) for one in updates)
    return RULES.member("mean")(copies, RULES.configure(Named(name="mean", knobs={})))


# ---------------------------------------------------------------------------- the matrix


def raw(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def with_array(name: str, data: bytes, **said: Any) -> Callable[[RecordDict], None]:
    plain = {"dtype": "float32", "shape": (7,), "stype": "numpy.ndarray", "data": data}

    def change(records: RecordDict) -> None:
        arrays = dict(records["delta"])
        records["delta"] = ArrayRecord({**arrays, name: Array(**{**plain, **said})})

    return change


def scaled(factor: float) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        arrays = {name: one.numpy() * np.float32(factor) for name, one in records["delta"].items()}
        records["delta"] = ArrayRecord({name: Array(one) for name, one in arrays.items()})

    return change


def filled(value: float) -> Callable[[RecordDict], None]:
    return with_array("b", raw(np.full(7, value, np.float32)))


def weighing(images: float) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        said = dict(records["answer"])
        records["answer"] = ConfigRecord({**said, "images": images})
        scaled(-1)(records)

    return change


def without(name: str) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        arrays = {key: one for key, one in records["delta"].items() if key != name}
        records["delta"] = ArrayRecord(arrays)

    return change


def told(count: int) -> Callable[[RecordDict], None]:
    def change(records: RecordDict) -> None:
        records["metrics"] = MetricRecord({f"figure {number}": 0.0 for number in range(count)})

    return change


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
    + b"\n"
    + bytes(28)
)
OBJECT = HUGE.replace(b"<f4", b"|O ").replace(b"1000000000000", b"7            ")

MATRIX: Mapping[str, tuple[Callable[[RecordDict], None], str]] = {
    "NaN": (filled(np.nan), "holds NaN or infinite"),
    "infinity": (filled(np.inf), "holds NaN or infinite"),
    "a hundred times too long": (scaled(100), "its length is"),
    "a billion images, turned round": (weighing(10**9), "names 1000000000 images; it enrolled"),
    "minus 900 images": (weighing(-900), "it names -900 images"),
    "no images": (weighing(0), "it names 0 images"),
    "NaN images": (weighing(float("nan")), "no answer of this version"),
    "a part of an image": (weighing(99.5), "no answer of this version"),
    "a wrong shape": (with_array("b", raw(np.ones(8, np.float32))), "has shape (8,)"),
    "a shape that broadcasts": (with_array("b", raw(np.ones(1, np.float32))), "has shape (1,)"),
    "no shape": (with_array("b", raw(np.ones((), np.float32))), "has shape ()"),
    "text": (with_array("b", raw(np.array(["x"] * 7))), "no array of float32"),
    "objects": (with_array("b", OBJECT), "no array of float32"),
    "a huge header": (with_array("b", HUGE), "claims 1000000000000 entries"),
    "complex numbers": (with_array("b", raw(np.ones(7, np.complex64))), "no array of float32"),
    "doubles": (with_array("b", raw(np.ones(7))), "no array of float32"),
    "whole numbers": (with_array("b", raw(np.ones(7, np.int64))), "no array of float32"),
    "a missing tensor": (without("b"), "names differ"),
    "a tensor too many": (with_array("x", raw(np.ones(7, np.float32))), "names differ"),
    "no bytes": (with_array("b", b""), "no .npy of version"),
    "bytes cut short": (with_array("b", raw(np.ones(7, np.float32))[:-4]), "24 came"),
    "bytes too many": (with_array("b", raw(np.ones(7, np.float32)) + b"\0"), "29 came"),
    "another serialisation": (with_array("b", raw(np.ones(7, np.float32)), stype="torch"), "'b'"),
    "a thousand figures": (told(1000), "it tells 1000 figures"),
}


def plainly(one: Update) -> RecordDict:
    """Return an answer as a plain Flower client sends it: an array for each tensor."""
    records = answer_records(one)
    arrays = {name: Array(tensor.numpy()) for name, tensor in one.delta.items()}
    records["delta"] = ArrayRecord(arrays)
    return records


def arrived(change: Callable[[RecordDict], None]) -> Verdict:
    """Return what becomes of a bad site's answer, from the bytes that travel on."""
    records = plainly(update("bad", 99))
    change(records)
    return verdict_of(records)


def verdict_of(records: RecordDict) -> Verdict:
    try:
        answer = read_answer(records)
    except ExchangeError as fault:
        return Verdict(site="bad", fault=str(fault))
    assert isinstance(answer, Update)
    return judged(answer, GATE)


@pytest.mark.parametrize("what", MATRIX)
def test_the_matrix_of_attacks_leaves_the_honest_mean_as_it_is(what: str) -> None:
    change, due = MATRIX[what]

    verdict = arrived(change)
    others = [judged(one, GATE) for one in honest()]

    assert verdict.update is None
    assert due in verdict.fault
    assert all(one.fault == "" for one in others)
    joined = mean([one.update for one in others if one.update is not None])
    assert all(torch.equal(joined[name], mean(honest())[name]) for name in joined)


def packed_as(delta: Mapping[str, Tensor], length: int = 0, **changed: Any) -> bytes:
    """Return tensors as they are packed, with other words about 'b' and as many bytes more."""
    head, *rest = views(delta)
    said = json.loads(bytes(head)[8:])
    if "b" in said:
        said["b"].update(changed)
    text = json.dumps(said).encode()
    whole = len(text).to_bytes(8, "little") + text + b"".join(rest)
    return whole + bytes(length) if length >= 0 else whole[:length]


def with_b(value: Any) -> dict[str, Tensor]:
    return {**update("bad", 99).delta, "b": torch.as_tensor(value)}


SOUND = dict(update("bad", 99).delta)

PACKS: Mapping[str, tuple[bytes, str]] = {
    "NaN": (packed_as(with_b([torch.nan] * 7)), "holds NaN or infinite"),
    "infinity": (packed_as(with_b([torch.inf] * 7)), "holds NaN or infinite"),
    "too long": (packed_as({n: 100 * t for n, t in SOUND.items()}), "its length is"),
    "a wrong shape": (packed_as(with_b([1.0] * 8)), "has shape (8,)"),
    "a shape that broadcasts": (packed_as(with_b([1.0])), "has shape (1,)"),
    "no shape": (packed_as(with_b(1.0)), "has shape ()"),
    "doubles": (packed_as(with_b(torch.ones(7).double())), "no array of float32"),
    "whole numbers": (packed_as(with_b(torch.ones(7).int())), "no array of float32"),
    "complex numbers": (packed_as(SOUND, dtype="C64"), "cannot be read"),
    "a missing tensor": (packed_as({"w": SOUND["w"]}), "names differ"),
    "a tensor too many": (packed_as({**SOUND, "x": torch.ones(7)}), "names differ"),
    "a huge claim": (packed_as(SOUND, shape=[10**12]), "claims 1000000000000 entries"),
    "over another": (packed_as(SOUND, data_offsets=[0, 28]), "begins at byte"),
    "bytes cut short": (packed_as(SOUND, -4), "came"),
    "bytes too many": (packed_as(SOUND, 4), "came"),
    "no bytes": (b"", "cut short"),
    "a shape that torch has none of": (
        packed_as({**SOUND, "b": torch.ones(0)}, shape=[0, 10**30]),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("what", PACKS)
@pytest.mark.parametrize("filed", [False, True])
def test_a_bad_pack_is_left_out_wherever_it_lies(what: str, filed: bool, tmp_path: Path) -> None:
    content, due = PACKS[what]
    records = answer_records(update("bad", 99))
    said = {"dtype": "uint8", "shape": (len(content),), "stype": PACKED}
    if filed:
        (tmp_path / "pack").write_bytes(content)
        records["delta"] = record({"pack": FiledArray(said, (tmp_path / "pack").open("rb"))})
    else:
        records["delta"] = ArrayRecord({"pack": Array(**said, data=content)})

    verdict = verdict_of(records)

    assert verdict.update is None
    assert due in verdict.fault


def test_a_foreign_name_is_told_in_few_plain_marks() -> None:
    odd = "\x1b[2J\ud800" + 5000 * "x"

    verdict = verdict_of(replace_delta({**SOUND, odd: torch.ones(1)}))

    assert verdict.update is None
    assert len(verdict.fault) < 200
    assert verdict.fault.isascii()
    assert verdict.fault.isprintable()


def replace_delta(delta: Mapping[str, Tensor]) -> RecordDict:
    return answer_records(replace(update("bad", 99), delta=delta))


@pytest.mark.parametrize("name", ["x" * 65, "\x1b[2J", "a\nb"])
def test_a_figure_with_a_name_that_is_none_costs_its_site_the_round(name: str) -> None:
    verdict = judged(replace(update("bad", 99), metrics={name: 1.0}), GATE)

    assert verdict.update is None


def test_an_honest_pack_is_admitted_from_memory_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(packed_as(SOUND))
    said = {"dtype": "uint8", "shape": (1,), "stype": PACKED}
    filed = answer_records(update("bad", 99))
    filed["delta"] = record({"pack": FiledArray(said, (tmp_path / "pack").open("rb"))})

    verdicts = [verdict_of(one) for one in (filed, answer_records(update("bad", 99)))]

    assert [one.fault for one in verdicts] == ["", ""]
    lengths = {one.length for one in verdicts}
    assert len(lengths) == 1


def test_false_words_about_an_array_are_not_believed() -> None:
    good = raw(np.full(7, 0.01, np.float32))

    verdict = arrived(with_array("b", good, shape=(10**12,), dtype="object"))

    assert verdict.update is not None
    assert verdict.update.delta["b"].shape == (7,)


def test_an_honest_update_is_admitted_in_the_same_bits() -> None:
    one = update("bad")

    verdict = judged(one, replace(GATE, limits=Limits()))

    assert verdict.update is one
    assert verdict.length == pytest.approx(length_of(one.delta))


# ---------------------------------------------------------------------------- length


def test_a_fixed_limit_holds_from_the_first_round() -> None:
    gate = Gate(template=TEMPLATE, limits=Limits(norm=0.01))

    assert "federation.limits.norm is 0.01" in judged(update("a"), gate).fault
    assert judged(update("a"), replace(gate, limits=Limits(norm=1.0))).fault == ""


def test_a_long_update_is_shortened_to_the_bound_of_earlier_rounds() -> None:
    one = update("a")
    gate = replace(GATE, limits=Limits(clip_ratio=0.5))
    before = {name: tensor.clone() for name, tensor in one.delta.items()}

    verdict = judged(one, gate)

    assert verdict.update is not None
    assert length_of(verdict.update.delta) == pytest.approx(0.03, rel=1e-5)
    assert verdict.length == pytest.approx(0.03)
    assert all(torch.equal(one.delta[name], before[name]) for name in before)


def test_no_site_widens_its_own_limit_round_by_round() -> None:
    limits, repute, longest = Limits(norm_ratio=2.0), Repute(lengths=(1.0,)), 0.0

    for number in range(1, 6):  # 1.9 times as long as its last, every round
        sound = [Verdict(site=name, length=1.0) for name in ("a", "b")]
        gate = Gate(template=TEMPLATE, limits=limits, repute=repute)
        delta = {"w": torch.zeros(6, 5), "b": torch.zeros(7)}
        delta["w"][0, 0] = 1.9**number
        bad = judged(update("bad", delta=delta), gate)
        longest = max(longest, bad.length)
        repute = after_round(repute, [*sound, bad], number, limits)

    assert longest < 2.0
    assert repute.suspended == ("bad",)


def test_without_a_round_before_no_length_is_compared() -> None:
    gate = Gate(template=TEMPLATE, limits=Limits(clip_ratio=0.1, norm_ratio=1.1))

    assert judged(update("a"), gate).fault == ""


# ------------------------------------------------------------------------------ repute


def verdicts(**faults: str) -> list[Verdict]:
    return [Verdict(site=site, fault=fault, length=1.0) for site, fault in faults.items()]


def test_repeated_offence_suspends_a_site_until_it_is_cleared() -> None:
    repute, limits = Repute(), Limits(offences=3)

    for number in (1, 2):
        repute = after_round(repute, verdicts(bad="NaN", good=""), number, limits)
    assert repute.suspended == ()
    repute = after_round(repute, verdicts(bad="NaN", good=""), 3, limits)
    assert repute.suspended == ("bad",)
    repute = after_round(repute, verdicts(good=""), 40, limits)
    assert repute.suspended == ("bad",)

    repute = cleared(repute, "bad")

    assert repute.suspended == ()
    assert repute.offences == {}


def test_offences_long_ago_are_forgotten() -> None:
    repute, limits = Repute(), Limits(offences=2)

    for number in (1, 12, 23):
        repute = after_round(repute, verdicts(bad="NaN"), number, limits)

    assert repute.suspended == ()
    assert repute.offences == {"bad": (23,)}


def test_lengths_are_those_of_admitted_updates_of_the_last_rounds() -> None:
    repute = Repute()

    for number in range(1, 15):
        told = [
            Verdict(site="a", length=float(number)),
            Verdict(site="b", length=float(number)),
            Verdict(site="bad", fault="too long", length=1e9),
        ]
        repute = after_round(repute, told, number, Limits(offences=99))

    assert repute.lengths == tuple(float(number) for number in range(5, 15))


def test_a_round_without_updates_changes_no_length() -> None:
    assert after_round(KNOWN, [], 9, Limits()).lengths == KNOWN.lengths


def test_repute_is_saved_and_read_back() -> None:
    repute = after_round(KNOWN, verdicts(bad="NaN", good=""), 3, Limits(offences=1))

    assert read_repute(json.loads(json.dumps(repute.as_dict()))) == repute


# ------------------------------------------------------------------------------ weights


@settings(deadline=None, max_examples=200)
@given(
    weights=st.lists(st.integers(1, 10**9), min_size=1, max_size=12),
    share=st.sampled_from([0.1, 0.25, 1 / 3, 0.4, 0.5, 0.6, 1.0]),
)
def test_no_site_is_over_its_share_or_all_weigh_the_same(weights: list[int], share: float) -> None:
    cap = weight_cap(weights, share)
    cut = [min(weight, cap) for weight in weights]

    if share * len(weights) <= 1:
        assert cut == [min(weights)] * len(weights)
    else:
        assert max(cut) <= share * sum(cut) * (1 + 1e-9)
    # And no more is cut than must be: either nothing is, or the largest are at their share.
    if max(weights) > share * sum(weights) and share * len(weights) > 1:
        assert max(cut) >= share * sum(cut) * (1 - 1e-9)
    if max(weights) <= share * sum(weights) and share * len(weights) > 1:
        assert cut == weights


@pytest.mark.parametrize(
    ("weights", "due"),
    [
        ([5], [5]),  # alone, it is all there is
        ([1, 10**9], [1, 1]),  # of two, one must have at least a half
        ([100, 100, 10**9], [100, 100, 133]),
        ([100, 10**9, 10**9], [100, 200, 200]),
        ([100] * 5, [100] * 5),
        ([300, 200, 100, 100, 50], [300, 200, 100, 100, 50]),
    ],
)
def test_few_sites_are_cut_exactly_so(weights: list[int], due: list[int]) -> None:
    cut = [min(weight, int(weight_cap(weights, 0.4))) for weight in weights]

    assert cut == due


@settings(deadline=None, max_examples=100)
@given(
    images=st.lists(st.integers(1, 1000), min_size=1, max_size=9),
    share=st.sampled_from([0.3, 0.4, 0.5, 1.0]),
)
def test_a_stream_is_cut_as_the_whole_would_be_whatever_its_order(
    images: list[int], share: float
) -> None:
    updates = [update(f"site-{place}", images=count) for place, count in enumerate(images)]
    cap = weight_cap(images, share)

    found = {one.site: one.images for one in capped(iter(updates), share)}

    assert found == {
        f"site-{place}": max(1, int(min(count, cap))) for place, count in enumerate(images)
    }


@settings(deadline=None, max_examples=100)
@given(
    images=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    share=st.sampled_from([0.3, 0.4, 0.6]),
    data=st.data(),
)
def test_who_is_surely_uncut_is_so_whoever_answers(
    images: list[int], share: float, data: st.DataObject
) -> None:
    enrolled = {f"site-{place}": count for place, count in enumerate(images)}
    least = data.draw(st.integers(1, len(images)))
    answering = data.draw(st.permutations(list(enrolled)))
    answering = answering[: data.draw(st.integers(least, len(images)))]

    sure = surely_uncut(enrolled, share, least)
    cap = weight_cap([enrolled[site] for site in answering], share)

    assert all(enrolled[site] <= cap + 1e-9 for site in sure & set(answering))


def test_few_updates_are_held_back_while_a_stream_is_cut() -> None:
    taken = 0

    def stream() -> Any:
        nonlocal taken
        for place in range(50):
            taken += 1
            yield update(f"site-{place}", images=1 + 37 * place % 11)

    ahead = [taken - given for given, _ in enumerate(capped(stream(), 0.4))]

    assert max(ahead) <= 3


def test_a_site_that_claims_a_billion_images_moves_the_mean_by_its_share_alone() -> None:
    updates = [*honest(), update("bad", 99, images=10**9)]

    cut = list(capped(iter(updates), 0.4))

    bad = next(one for one in cut if one.site == "bad")
    assert bad.images <= 0.4 * sum(one.images for one in cut)


def test_hospitals_of_a_minority_keep_their_part_and_no_rule_that_drops_them_is_offered() -> None:
    """Three of one kind and two of another, all honest: Krum keeps nothing of the two."""
    kinds = [torch.tensor([1.0, 0.0])] * 3 + [torch.tensor([0.0, 1.0])] * 2
    template = {"w": torch.zeros(2)}
    gate = Gate(template=template, limits=Limits())
    updates = [
        Update(site=f"s{number}", round=1, delta={"w": kind.clone()}, images=100)
        for number, kind in enumerate(kinds)
    ]

    admitted = [verdict.update for one in updates if not (verdict := judged(one, gate)).fault]
    sound = [one for one in admitted if one is not None]
    joined = RULES.member("mean")(capped(sound, 0.4), RULES.configure(Named(name="mean", knobs={})))

    assert torch.allclose(joined["w"], torch.tensor([0.6, 0.4]))
    assert not {"krum", "multi_krum", "bulyan"} & set(RULES.names())
