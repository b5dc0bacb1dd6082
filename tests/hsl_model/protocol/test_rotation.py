"""What two keys say of each other, and the way from one to the next."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsl_model.protocol.manifest import public_key_text
from hsl_model.protocol.rotation import KeyRotation, SignedRotation, ancestry, is_sound, sign_rotation

KEYS = [Ed25519PrivateKey.generate() for _ in range(5)]
NAMES = [public_key_text(key) for key in KEYS]


def step(old: int, new: int, node_id: str = "site-1") -> SignedRotation:
    said = KeyRotation(node_id=node_id, old=NAMES[old], new=NAMES[new], access_sha256="ab" * 32)
    return sign_rotation(said, KEYS[old], KEYS[new])


def test_the_way_back_is_followed_as_far_as_both_signed() -> None:
    way = (step(0, 1), step(1, 2), step(2, 3))
    assert ancestry("site-1", NAMES[3], way) == (NAMES[3], NAMES[2], NAMES[1], NAMES[0])
    assert ancestry("site-1", NAMES[2], way) == (NAMES[2], NAMES[1], NAMES[0])
    assert ancestry("site-1", NAMES[4], way) == (NAMES[4],)
    assert ancestry("site-1", NAMES[3], (way[0], way[2])) == (NAMES[3], NAMES[2])


def test_a_circle_ends() -> None:
    assert ancestry("site-1", NAMES[0], (step(0, 1), step(1, 0))) == (NAMES[0], NAMES[1])


def forged(of: str) -> SignedRotation:
    """A stranger's (key 4) word for one of the two signatures, or another's statement."""
    good, strangers = step(0, 1), step(4, 4)
    other_access = good.rotation.model_copy(update={"access_sha256": "cd" * 32})
    return {
        "the old key": good.model_copy(update={"by_old": strangers.by_old}),
        "the new key": good.model_copy(update={"by_new": strangers.by_new}),
        "another node": step(0, 1, "site-2"),
        "other access": good.model_copy(update={"rotation": other_access}),
        "no base64": good.model_copy(update={"by_old": "!"}),
    }[of]


@pytest.mark.parametrize("of", ["the old key", "the new key", "another node", "other access", "no base64"])
def test_what_one_of_the_two_did_not_say_counts_for_nothing(of: str) -> None:
    assert is_sound(step(0, 1), "site-1")
    assert not is_sound(forged(of), "site-1")
    assert ancestry("site-1", NAMES[1], (forged(of),)) == (NAMES[1],)


def test_keys_that_are_not_the_named_ones_sign_nothing() -> None:
    said = KeyRotation(node_id="site-1", old=NAMES[0], new=NAMES[1], access_sha256="ab" * 32)
    with pytest.raises(ValueError, match="not the keys"):
        sign_rotation(said, KEYS[0], KEYS[2])
