"""A certificate that is of no use is found out before anything listens, and the sentence says why."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from backtalk.certificates import check_pair
from backtalk.config import Settings
from backtalk.errors import InvalidCertificate
from tests.certificates import issue

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_a_good_pair_gives_no_cause_for_words(tmp_path: Path, authority: trustme.CA) -> None:
    pair = issue(tmp_path, authority, not_after=NOW + timedelta(days=90))
    assert check_pair(pair.certificate, pair.key) == []


def test_a_key_that_others_can_read_and_an_end_that_is_near_are_warned_of(
    tmp_path: Path, authority: trustme.CA
) -> None:
    ends = NOW + timedelta(days=3)
    pair = issue(tmp_path, authority, not_after=ends)
    pair.key.chmod(0o644)
    readable, near = check_pair(pair.certificate, pair.key)
    assert "chmod 600" in readable
    assert f"{ends:%Y-%m-%d}" in near


def test_the_times_are_those_that_openssl_reads(tmp_path: Path, authority: trustme.CA) -> None:
    for year in (2031, 2055):  # one has two digits of the year, the other four
        pair = issue(tmp_path, authority, not_after=datetime(year, 5, 6, 7, 8, 9, tzinfo=UTC))
        found = subprocess.run(
            ["openssl", "x509", "-noout", "-enddate", "-in", pair.certificate],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert found.strip() == f"notAfter=May  6 07:08:09 {year} GMT"
        check_pair(pair.certificate, pair.key, datetime(year, 5, 6, 7, 8, 8, tzinfo=UTC))
        with pytest.raises(InvalidCertificate, match=f"ended on {year}-05-06 07:08"):
            check_pair(pair.certificate, pair.key, datetime(year, 5, 6, 7, 8, 9, tzinfo=UTC))


def test_one_that_does_not_hold_yet_is_refused(tmp_path: Path, authority: trustme.CA) -> None:
    pair = issue(tmp_path, authority, not_before=NOW + timedelta(days=1), not_after=NOW + timedelta(days=2))
    with pytest.raises(InvalidCertificate, match="begins on"):
        check_pair(pair.certificate, pair.key)


def test_what_is_missing_unreadable_or_no_certificate_is_named(tmp_path: Path, authority: trustme.CA) -> None:
    pair = issue(tmp_path, authority)
    other = issue_apart(tmp_path, authority)
    text = tmp_path / "text.pem"
    text.write_text("hello")
    for certificate, key, said in (
        (tmp_path / "none.pem", pair.key, "certificate .*none.pem cannot be read: No such file"),
        (pair.certificate, tmp_path / "none.key", "key .*none.key cannot be read: No such file"),
        (tmp_path, pair.key, "Is a directory"),
        (text, pair.key, "no certificate and key in PEM"),
        (pair.certificate, text, "no certificate and key in PEM"),
        (pair.key, pair.certificate, "no certificate and key in PEM"),
        (pair.certificate, other, "is not that of the certificate"),
    ):
        with pytest.raises(InvalidCertificate, match=said):
            check_pair(certificate, key)


def issue_apart(folder: Path, authority: trustme.CA) -> Path:
    """The key of another certificate."""
    (folder / "other").mkdir()
    return issue(folder / "other", authority).key


def test_a_key_with_a_password_is_refused_rather_than_asked_about(
    tmp_path: Path, authority: trustme.CA
) -> None:
    pair = issue(tmp_path, authority)
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", pair.key, "-out", locked]
    subprocess.run(command, check=True)
    with pytest.raises(InvalidCertificate, match="without a password"):
        check_pair(pair.certificate, locked)


def test_one_without_the_other_is_a_bad_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs both"):
        Settings.load(tls_cert=tmp_path / "server.pem")
