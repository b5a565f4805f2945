"""The two families of ``benchmarks/parallel.py``: texts that fit, alike on every machine, held-out ones apart."""

import pytest
import torch

from benchmarks import parallel
from prism_plugin.tasks import HELD_OUT, TRAIN


@pytest.mark.parametrize("name", parallel.FAMILIES)
def test_texts_fit_and_a_wrong_one_does_not(name: str) -> None:
    task = parallel.line(name)
    texts = task.texts(3, 40, TRAIN)
    assert texts.shape == (40, task.length) and torch.equal(texts[5:9], task.texts(8, 4, TRAIN))
    shown = [task.render(row) for row in texts]
    assert all(parallel.fits(name, text) for text in shown) and len(set(shown)) == 40
    assert not set(shown) & {task.render(row) for row in task.texts(3, 40, HELD_OUT)}
    assert task.encode(shown[0]) == texts[0].tolist()
    prompts = task.prompts(40, 0, TRAIN, first=3)
    assert ((prompts == task.mask_id).sum(1) == 10).all()
    twice = texts.clone()
    twice[:, -1] = twice[:, -2]
    assert task.accuracy(texts, prompts)[0].all() and not task.accuracy(twice, prompts)[0].any()
    assert not task.accuracy(prompts, prompts)[0].any()


def test_a_newcomer_stands_at_every_place_and_the_line_keeps_its_order() -> None:
    task = parallel.line("waiting_line")
    shown = [task.render(row).split("|") for row in task.texts(0, 400, TRAIN)]
    places = [after.index(before[-1]) for before, after in shown]
    assert set(places) == set(range(10)) and max(map(places.count, range(10))) < 80
    assert not parallel.fits("waiting_line", "abcdefghij|jbacdefghi")
