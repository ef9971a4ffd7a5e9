"""The pure parts of OPERA: products of attention, penalties, the trail of a search."""

import math

import pytest
import torch

from scr.decoding.beams import BeamRules, Beams
from scr.decoding.over_trust import BAN, OUT_OF_REACH, log_shares, most_common, over_trust, with_penalties, with_row
from scr.decoding.rollback import FIRST, Moment, Trail


def rows_of(seed, length, keys=4):
    """Attention rows of an answer's tokens, over the prompt's keys and their own."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(keys + index + 1, generator=generator) for index in range(length)]


def test_the_sums_are_the_logarithms_of_the_products():
    rows, sums = rows_of(0, 6), torch.zeros(0)
    for length, row in enumerate(rows):
        sums = with_row(sums, log_shares(row, list(range(4, 5 + length)), scale=50.0))
        for column in range(length + 1):
            product = math.prod(
                50 * float(rows[index][4 + column] / rows[index].sum()) for index in range(column, length + 1)
            )
            assert sums[column].item() == pytest.approx(math.log(product), rel=1e-4, abs=1e-4)


def test_over_trust_is_the_strongest_product_times_its_small_factor():
    products = torch.tensor([[2.0, 5e6, 3e6], [0.5, 0.0, 0.1]])
    amount, column = over_trust(products.log())
    assert column.tolist() == [1, 0]
    assert torch.allclose(amount, torch.tensor([0.5, 0.5e-7]), rtol=1e-4)


def test_half_precision_saturates_and_takes_the_first():
    sums = torch.tensor([[20.0, 40.0, 50.0], [-60.0, -40.0, -50.0], [16.0, 17.0, 3.0]])
    amount, column = over_trust(sums, half=True)
    assert column.tolist() == [1, 0, 1]
    assert amount[:2].tolist() == [math.inf, 0]
    assert amount[2].item() == pytest.approx(1e-7 * math.exp(17), rel=1e-3)
    assert over_trust(sums)[1].tolist() == [2, 1, 1], "without it none is like another"


def test_penalties_keep_the_candidates_above_all_others():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.5, -4.0]])
    found = with_penalties(logits, torch.tensor([[0, 2]]), torch.tensor([[BAN, 0.25]]))
    assert found.tolist() == [[3 - BAN, 2 - OUT_OF_REACH, 0.75, 0.5 - OUT_OF_REACH, -4 - OUT_OF_REACH]]
    assert found[0].argsort(descending=True).tolist() == [2, 0, 1, 3, 4]


def test_the_most_common_value_is_the_smallest_of_several():
    assert most_common(torch.tensor([[3, 1, 3, 1, 0], [7, 7, 2, 2, 2]])).tolist() == [1, 2]
    assert int(most_common(torch.tensor([5]))) == 5


def trail_of(length, threshold=2, tries=2):
    """Two beams that change places at every step, and take the tokens 10 · step and 10 · step + 1."""
    tokens = torch.zeros(2, 1, dtype=torch.long)
    return extended(Trail(Beams.of_prompt(tokens), threshold, tries), length)


def extended(trail, length):
    swap = torch.tensor([1, 0])
    for step in range(len(trail.moments) - 1, length):
        tokens = trail.now.beams.tokens
        new = torch.tensor([[10 * step], [10 * step + 1]])
        beams = Beams.of_prompt(torch.cat([tokens[swap], new], dim=1))
        trail.go_on(Moment(beams, swap, torch.zeros(2, step), torch.zeros(2, step, dtype=torch.long)))
    return trail


def locations(column, times, others=3):
    return torch.tensor([[column] * times + [1] * others, [1] * others + [column] * times])


def test_a_search_goes_back_when_all_beams_have_trusted_one_column_for_long():
    trail = trail_of(16)
    assert trail.where_to(locations(12, 3), 12) == 13
    assert trail.where_to(locations(12, 2), 12) is None
    assert trail.where_to(torch.tensor([[12] * 3, [12, 12, 1]]), 12) is None, "one beam has not"
    assert trail.where_to(locations(FIRST - 1, 3), FIRST - 1) is None
    assert trail.where_to(locations(FIRST, 3), FIRST) == FIRST + 1
    assert trail.where_to(locations(15, 3), 15) == 15, "a step at least"
    assert Trail(trail.now.beams, None, 2).where_to(locations(12, 9), 12) is None


def test_it_goes_back_to_one_place_so_often_then_to_the_one_before_then_no_more():
    trail = trail_of(16)
    for kept in (13, 13, 12, 12, None):
        assert trail.where_to(locations(12, 3), 12) == kept
        if kept is not None:
            trail.go_back(kept, vocab=300)
            assert trail.now.beams.tokens.shape[1] == kept + 1
            extended(trail, 16)


def test_what_was_taken_is_banned_there_until_the_search_goes_back_further():
    trail = trail_of(16)
    trail.go_back(13, vocab=300)
    # Beam 0 had gone on with token 131, and beam 1 with 130.
    assert trail.banned(300).nonzero().tolist() == [[0, 131], [1, 130]]
    tokens = torch.cat([trail.now.beams.tokens, torch.tensor([[7], [8]])], dim=1)
    trail.go_on(Moment(Beams.of_prompt(tokens), torch.tensor([0, 0]), torch.zeros(2, 13), torch.zeros(2, 13)))
    assert not trail.banned(300).any()
    trail.go_back(13, vocab=300)
    assert trail.banned(300).nonzero().tolist() == [[0, 7], [0, 8], [0, 131], [1, 130]]
    trail.go_back(12, vocab=300)
    assert trail.banned(300).nonzero().tolist() == [[0, 121], [1, 120]]
    extended(trail, 13)
    assert not trail.banned(300).any(), "of a moment that is no more"


def test_ancestors_are_the_beams_by_whose_side_each_token_was_fed():
    trail = trail_of(4)
    # Today's beams are those after the 4th token; each token before the last was fed after one swap less.
    assert [line.tolist() for line in trail.ancestors()] == [[1, 0], [0, 1], [1, 0]]
    assert len(trail_of(1).ancestors()) == 0


def test_a_search_that_never_goes_back_keeps_no_past():
    trail = trail_of(0, threshold=None)
    for _ in range(3):
        trail.go_on(trail.now)
    assert len(trail.moments) == 1


@pytest.mark.parametrize("early", [True, False])
def test_with_early_stopping_a_search_is_over_when_all_places_are_taken(early):
    rules = BeamRules(beams=2, kept=4, prompt=1, longest=9, length_penalty=1.0, early_stopping=early)

    def stops(tokens):
        return tokens[:, -1] == 3

    beams, _ = Beams.of_prompt(torch.zeros(2, 1, dtype=torch.long)).step(
        torch.tensor([[-0.5, -3, -4, -2], [0, 0, 0, 0]]), rules, stops
    )
    assert (beams.has_ended.tolist(), beams.over) == ([True, False], False)
    beams, came_from = beams.step(torch.tensor([[-0.2, -3, -4, -0.1], [-9.0, -9, -9, -9]]), rules, stops)
    assert [tokens.tolist() for tokens in beams.ended] == [[0, 0, 3], [0, 3]]
    assert beams.ended_scores.tolist() == pytest.approx([-0.3, -2.0])
    assert beams.tokens[0].tolist() == [0, 0, 0]
    assert int(came_from[0]) == 0
    assert beams.over == early, "an open beam may still beat the worse one"
