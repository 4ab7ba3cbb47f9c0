import stat
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.security import signing_keys
from pipeline.settings import Settings


def _settings(tmp_path: Path, **more: object) -> Settings:
    return Settings(data_dir=tmp_path, **more)  # pyright: ignore[reportArgumentType]


def test_the_demo_key_is_the_same_everywhere() -> None:
    assert signing_keys.demo_key().key_id == signing_keys.demo_key().key_id == "766187154addd901"


def test_a_key_is_made_once_and_trusted_in_its_folder(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    first, second = signing_keys.signing_key(settings), signing_keys.signing_key(settings)
    assert first.key_id == second.key_id != signing_keys.demo_key().key_id
    assert list(signing_keys.keyring(settings)) == [first.key_id]
    file = tmp_path / "keys" / "signing.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir() if path.is_file()] == ["signing.pem"]


def test_an_actuator_needs_the_public_half_only(tmp_path: Path) -> None:
    allocator = _settings(tmp_path / "allocator")
    signed_with = signing_keys.signing_key(allocator)
    public = next((tmp_path / "allocator" / "keys" / "trusted").iterdir())
    actuator = _settings(tmp_path / "actuator", signing_key_file=public)
    assert list(signing_keys.keyring(actuator)) == [signed_with.key_id]
    with pytest.raises(UsageError, match="holds no Ed25519 private key"):
        signing_keys.signing_key(actuator)


def test_the_demo_key_is_trusted_only_where_it_is_asked_for(tmp_path: Path) -> None:
    demo = _settings(tmp_path, demo_keys=True)
    assert list(signing_keys.keyring(demo)) == [signing_keys.signing_key(demo).key_id]
    signing_keys.signing_key(_settings(tmp_path))
    assert signing_keys.demo_key().key_id not in signing_keys.keyring(_settings(tmp_path))


def test_without_a_key_nothing_can_be_verified(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no key to verify commands with"):
        signing_keys.keyring(_settings(tmp_path))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    with pytest.raises(UsageError, match=r"cannot read key .*wrong\.pem: No such file"):
        signing_keys.read_private(wrong)
    wrong.write_text("hello")
    with pytest.raises(UsageError, match="holds no Ed25519 private key"):
        signing_keys.read_private(wrong)
    with pytest.raises(UsageError, match="holds no Ed25519 public key"):
        signing_keys.read_public(wrong)


def test_a_private_key_does_not_show() -> None:
    assert repr(signing_keys.demo_key()) == "SigningKey()"
