"""`redacted` hides every secret, and leaves all other text as it is."""

from __future__ import annotations

import pytest

from usageledger.gateway.webhooks.signing import new_secret
from usageledger.runtime.redaction import has_password, redacted
from usageledger.sdk.tokens import mint_account_token, new_key

KEY, SECRET = new_key("0a1b2c3d"), new_secret()
TOKEN = mint_account_token(KEY, "acct_1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nobody at redis://:pw@h:6379/0 (x)", "nobody at redis://***@h:6379/0 (x)"),
        ("rediss+sentinel://me:p@ss@a:1,b:2/n/0", "rediss+sentinel://***@a:1,b:2/n/0"),
        ("redis://h:1/0?password=abc&db=2", "redis://h:1/0?password=***&db=2"),
        (f"the key {KEY} is refused", "the key ulk_0a1b2c3d_*** is refused"),
        (f"signed with {SECRET}.", "signed with whsec_***."),
        (f"token={TOKEN}", "token=***"),
        ("Authorization: Bearer abcdefgh.ijkl", "Authorization: Bearer ***"),
        (">>> 'requirepass \"hunter22\"'", ">>> 'requirepass ***'"),
    ],
)  # fmt: skip
def test_a_secret_is_hidden_by_its_form(text: str, shown: str) -> None:
    assert redacted(text, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "redis://127.0.0.1:6379/0 and kafka 127.0.0.1:9092",
        "ann@example.com asked http://127.0.0.1/console",
        "Send it as `Authorization: Bearer …`",
        '{"a":"http://h/","b":"x@y"}',
        "the key 0a1b2c3d was revoked",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text, {}) == text


def test_a_secret_that_a_variable_contains_is_hidden_wherever_it_appears() -> None:
    variables = {
        "USAGELEDGER_KAFKA_SASL_PASSWORD": "plain words",
        "USAGELEDGER_REDIS_URL": "redis://me:a%2Fb%2Fc@h/0",
    }
    assert redacted("refused: plain words", variables) == "refused: ***"
    assert redacted("AUTH a/b/c, a%2Fb%2Fc", variables) == "AUTH ***, ***"


def test_user_info_in_an_address_is_recognised() -> None:
    assert has_password("redis://:secret@h/0")
    assert not has_password("redis://h/0")
