import pytest
import torch

from hsl_model.seeding import generator, stream_seed, torch_generator


def test_equal_keys_give_equal_streams_and_other_keys_others() -> None:
    assert generator(1, "a", 2).random(5).tolist() == generator(1, "a", 2).random(5).tolist()
    assert generator(1, "a", 2).random(5).tolist() != generator(1, "a", 3).random(5).tolist()
    assert torch.equal(torch.rand(5, generator=torch_generator("x")), torch.rand(5, generator=torch_generator("x")))


@pytest.mark.parametrize("key", [(1, "12"), (11, "2"), ("1", "12"), ("112",), (1, 12), (1, "1", "2")])
def test_keys_that_look_alike_are_kept_apart(key: tuple[str | int, ...]) -> None:
    assert stream_seed(*key) != stream_seed(1, 1, 2)
    assert 0 <= stream_seed(*key) < 2**63


def test_a_seed_is_for_ever() -> None:
    """Changing the rule would change every run's result: the number is SHA-256's of the key's JSON."""
    assert stream_seed(0, "clinic-a", 1, 0, "dropout") == 7698650026024034075
