from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import fuzzing

from finch_hub.texts.named_secrets import is_named_secret
from finch_hub.texts.secret_shapes import redact, redact_values

ROOT = Path(__file__).parents[3]
SECRET = "C4nary-7f3aQz"
KEY = "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n"

LEAKS = [
    # addresses
    f"redis://:{SECRET}@host:6379/0",
    f"redis://{SECRET}@host",
    f"redis://u:with@{SECRET}@h/0",
    f"redis://u:with/?#{SECRET}@h/0",
    f"postgresql+psycopg://user:{SECRET}@host/db",
    f"https://user:{SECRET}@h/x",
    f"https://{SECRET}@h/x",
    f"https://{SECRET}:x-oauth-basic@h/x",
    f"https://u:p/{SECRET}@h/x",
    f"s3://{SECRET}@bucket/key",
    f"git+https://oauth2:{SECRET}@git.example/a/b.git@main",
    f"https:\\/\\/u:{SECRET}@h\\/x",
    f"https%3A%2F%2Fu%3A{SECRET}%40h%2Fx",
    f"url=https%253A%252F%252Fu%253A{SECRET}%2540h",
    f"https:/u:{SECRET}@h/x",
    f"no such folder: s3:/k:{SECRET}@b/x",
    f"finch:{SECRET}@db:5432/finch",
    f"user:{SECRET}@tcp(db:3306)/x",
    f"//user:{SECRET}@db/x",
    f"cannot parse https://user:{SECRET}",
    f"redis://u:with@more/{SECRET}@h/0",
    # parameters of addresses
    f"postgresql://u@/db?host=/tmp&password={SECRET}&x=1",
    f"https://b.example/x?X-Amz-Algorithm=A&X-Amz-Credential={SECRET}%2F2020&X-Amz-Signature={SECRET}&y=1",
    f"https://b.example/x?X-Amz-Security-Token={SECRET}",
    f"https://storage.example/x?X-Goog-Credential={SECRET}&X-Goog-Signature={SECRET}",
    f"https://a.blob.example/c/x?sv=2020&sig={SECRET}%3D&se=1",
    f"https://h/x?token={SECRET}",
    f"https://h/x?a=1&key={SECRET}",
    f"https://h/x?a=1&amp;access_token={SECRET}",
    f"s3://b/x?a=1;secret={SECRET};b=2",
    f"https://f.azurewebsites.example/api/x?code={SECRET}==&a=1",
    f"https://h/x?a=1&session_id={SECRET}",
    f"https://h/x?ticket={SECRET}",
    f"https://h/x?assertion={SECRET}&hmac={SECRET}",
    f"https://api.telegram.org/bot12345678:{SECRET}/getMe",
    f"https://x.webhook.office.com/webhook/1-2@3/IncomingWebhook/{SECRET}",
    # connection strings
    f"host=db user=u password={SECRET} dbname=x",
    f"host=db password = {SECRET}",
    f"host=db password='it\\'s {SECRET}' dbname=x",
    f"Server=x;Uid=u;Pwd={SECRET};Database=d",
    f"PWD={{{SECRET};x}};y=1",
    f"{'Driver=x;' * 40}PWD={{a b;{SECRET}}};y=1",
    f"Password='it''s {SECRET}';y=1",
    f"DefaultEndpointsProtocol=https;AccountName=n;AccountKey={SECRET}==;EndpointSuffix=x",
    f"Endpoint=sb://x/;SharedAccessKeyName=R;SharedAccessKey={SECRET}",
    f"SharedAccessSignature={SECRET}",
    f"password={SECRET}&more host=x",
    f"password=more;{SECRET} host=x",
    # headers
    f"Authorization: Bearer {SECRET}",
    f"Proxy-Authorization: Negotiate {SECRET}",
    f"Authorization: AWS4-HMAC-SHA256 Credential=AK/2020, SignedHeaders=a;b, Signature={SECRET}",
    f"{{'Authorization': 'Bearer {SECRET}'}}",
    f"(b'authorization', b'Bearer {SECRET}')",
    f"Authorization%3A%20Bearer%20{SECRET}",
    f"x-api-key: {SECRET}",
    f"X-Vault-Token: {SECRET}",
    f"Cookie: sid={SECRET}; a=b",
    f"Set-Cookie: session={SECRET}; HttpOnly",
    f"refused Bearer {SECRET}",
    # names and values, as JSON, Python, YAML, shells and query strings write them
    f'{{"api_key": "{SECRET}"}}',
    f'{{"password":"{SECRET}"}}',
    f'{{\\"password\\": \\"{SECRET}\\"}}',
    f"{{'token': '{SECRET}'}}",
    f"{{'token': ['{SECRET}']}}",
    f"{{b'secret': b'{SECRET}'}}",
    f"('password', '{SECRET}')",
    f"Login(user='u', password='{SECRET}')",
    f"password => {SECRET}",
    f"--password {SECRET}",
    f"--password={SECRET}",
    f"--api-key '{SECRET}'",
    f"MY_PASS={SECRET}",
    f"DB_PWD={SECRET}",
    f"bindpw={SECRET}",
    f"dbpw: {SECRET}",
    f"creds={SECRET}",
    f"fernet_key={SECRET}",
    f"X_KEY={SECRET}",
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"userPwd={SECRET}",
    f"password: {SECRET}",
    f"signature={SECRET}",
    f"password=${SECRET}",
    f"{{'password': '<{SECRET}'}}",
    f"sig={SECRET}",
    f"password%3D{SECRET}%26x%3D1",
    f"a\\u0026token\\u003d{SECRET}\\u0026b",
    f"my password is {SECRET}",
    f"machine h login u password {SECRET}",
    f"Invalid API key provided: {SECRET}",
    f"the token '{SECRET}' has expired",
    f"<password>{SECRET}</password>",
    f'<add key="password" value="{SECRET}"/>',
    f'{{"name": "password", "value": "{SECRET}"}}',
    f"curl -u user:{SECRET} https://h",
    f"pw={SECRET}",
    # command lines
    f"['curl', '-u', 'user:{SECRET}', 'https://h']",
    f"mysql -u root -p{SECRET} finch",
    f"mysqldump --host db -p'{SECRET} more' finch",
    f"Command '['mysql', '-h', 'db', '-p{SECRET}', 'x']' returned non-zero exit status 1.",
    f"sshpass -p {SECRET} ssh -p 22 u@h",
    f"sshpass -p{SECRET} ssh h",
    f'sshpass -p "it is {SECRET}" ssh h',
    f"Command '['sshpass', '-p', '{SECRET}', 'ssh', 'h']' returned non-zero exit status 5.",
    f'{{"cmd": "[\\"sshpass\\", \\"-p\\", \\"{SECRET}\\"]"}}',
    f"mongosh db.example -u u -p {SECRET}",
    f"redis-cli -h h -a {SECRET} ping",
    f"ldapsearch -x -D cn=u -w {SECRET} -b x",
    f"docker login -u u -p {SECRET} registry.example",
    f"['docker', 'login', '-u', 'u', '-p', '{SECRET}']",
    f"sqlcmd -S h -U u -P {SECRET}",
    f"unzip -P {SECRET} file.zip",
    f"7z x -p{SECRET} file.7z",
    # odd spellings
    f"\x1b[36mpassword\x1b[0m=\x1b[35m{SECRET}\x1b[0m",
    f"password\x00={SECRET}",
    f"pass\u200bword\u2060: \xad{SECRET}",
    f"\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44\uff1d{SECRET}",
    f"p\u0430\u0455\u0455word={SECRET}",
    f"https://u:{SECRET}\uff20h/",
    f"https:\\x2f\\x2fu:{SECRET}\\x40h",
    f"https:\\u002f\\u002fu:{SECRET}\\u0040h",
    f"https%3a//u:{SECRET}@h",
    f"https://u:{SECRET}%40h/x",
    f"p%61ssword%3d{SECRET}",
    f"%22client_secret%22%3A%22{SECRET}%22",
    f"password&#61;{SECRET}",
    f"&quot;password&quot;:&#x20;&quot;{SECRET}&quot;",
    f'{{\\"password\\"\\u003a \\"{SECRET}\\"}}',
    # more names and places
    f"SplitResult(scheme='s', netloc='u:{SECRET}@h', path='')",
    f'{{"SecretString": "{SECRET}"}}',
    f"x-functions-key: {SECRET}",
    f"curl -uuser:{SECRET} https://h",
    # private keys
    KEY.format(SECRET),
    KEY.format(SECRET).replace("\n", "\\n"),
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\nx {SECRET}",
    "QUJD\n".join(["", "C4nary7f3aQz", "-----END PRIVATE KEY-----"]).replace("C4nary7f3aQz", "C4nary/7f3aQz"),
    f"https://hooks.slack.com/services/T0/B0/{SECRET}",
]
TOKENS = [
    "hf_abcDEF1234567890ab", "sk-proj-abc123DEF456ghi789", "sk_live_abcdef1234567890", "ghp_abcdefghij1234567890",
    "github_pat_11ABCDEFG0123456789_abc", "glpat-abcDEF1234567890-xyz", "AKIAIOSFODNN7EXAMPLE",
    "xoxb-1234567890-abcdef",    "AIzaSyA-1234567890abcdefghijklmnopqrstuv", "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "hvs.CAESIJabcdefghij123456", "pypi-AgEIcHlwaS5vcmcCJ",
    "xoxc-1234567890-abcdef", "xoxd-abcDEF1234567890", "hf_jwt_abcdefghijKLMN123", "ABIA1234567890ABCDEF",
    "glsa_abcdefGHIJ1234567890abcdefGHIJ12_1234abcd", "ATATT3xFfGF0abcdefGHIJ1234567890", "whsec_abcDEF1234567890abc",
    "xai-abcDEF1234567890abcdef", "wandb_v1_abcDEF1234567890", "dapi0123456789abcdef0123456789abcdef",
    "doo_v1_0123456789abcdef0123456789abcdef", "dckr_oat_abcDEF1234567890",
    "SG.abcdefghijklmnop1.abcdefghijklmnop2", "Basic dXNlcjpwYXNzd29yZDEy", "Authorization: Basic dXNlcjpwYXNzd29yZDEy",
]  # fmt: skip
ORDINARY = [
    "see https://github.com/a/b/tree/x@y and write to a@b.example",
    "git+https://github.com/o/r@main#egg=x",
    "https://host:8080/x@y",
    "https://medium.com/@user/post",
    "https://host:PORT/x",
    "http://[::1]:80/x@y",
    "hf://datasets/u/r@main/f",
    "docker://img@sha256:abc and docker.io/lib/img:1.25@sha256:0123456789abcdef",
    "redis://localhost:6379/0",
    "give redis://:PASSWORD@HOST:6379/0, or postgresql+psycopg://finch:PASSWORD@db.example/finch",
    "postgresql://finch@/finch?host=/tmp/x",
    "postgresql://h1:5432,h2:5432/db",
    "ssh://git@github.com/x",
    '{"a":"https://a.b","mail":"x@y.z"}',
    "https://host/x?code=understanding&session=12&hash=0123456789abcdef&ticket=none",
    "code=C0deOfEvent12345 session=evening-2026-11-30, hmac=sha256-of-the-file",
    "/bot/x and https://api.telegram.org/robots",
    "https://host/x?tokenizer=small&keyspace=a&tokens=12",
    "s3://bucket/key@v1",
    "at 12:30 write to a@b.example",
    "the ratio is 3:4@5/6",
    "pad_token=<|endoftext|> eos_token='</s>' max_tokens=100 token_id=5",
    'special tokens: {"bos_token": "<s>", "unk_token": "[UNK]", "pad_token": null}',
    "sorted(rows, key=lambda row: row.key)",
    "the broker rejected the login: invalid username-password pair (check the password in FINCH_BROKER_URL)",
    'password authentication failed for user "finch"',
    "fe_sendauth: no password supplied",
    "sha256=" + "0af3" * 16,
    "artifact " + "0af3" * 16 + " is missing",
    "/home/u/a:b@c/d and C:/Users/x@y",
    "def f(password: str, token: str = 'x', key: bytes | None = None) -> None",
    "password=None, secret=None, token=null",
    "token=understanding",
    "token = tokenizer.eos_token",
    'password = getpass("of the database")',
    "monkey=banana12345 compass=12345678 turkey: roast2000",
    "PWD=/home/me/work OLDPWD=/tmp",
    "the secret of success: work hard",
    "Bearer authentication failed",
    "Basic training for cats",
    "Token classification-model-v2 was trained",
    "key: abcdefgh12345",
    "use password='…' here, or api_key='<yours>' and token=$TOKEN",
    "signature: (x: int) -> str",
    "Wherefore the Lord said unto him: thy secret: is it not known?",
    "loss=0.5 at step=12:30, grad_norm=1e-3; q_proj.lora_A.weight: [8, 64]",
    "docker run -u 1000:1000 image",
    "the password in FINCH_BROKER_URL is wrong, and the secret is out",
    "the token '<|im_end|>' and the token 'understanding' have ids",
    "if password > 5 or key>limit12: pw=0.5",
    "passwords: see the page on passwords",
    "could not read /run/secrets/db_password: Permission2 denied; artifact store /secret: OSError: stale",
    "the password: PermissionError(13)",
    "-----BEGIN PUBLIC KEY-----",
    "mysql -u root -p finch, sshpass -e ssh -p 22 h, and mysql -h db -P 3306",
    "['mysql', '-p', 'finch'] and docker run -p 8080:80 x",
    "unzip -p file.zip x | mkdir -p a/b && redis-cli -p 6379",
    "\x1b[1mthe password\x1b[0m is \uff37\uff52\uff4f\uff4e\uff47, \u043f\u0430\u0440\u043e\u043b\u044c",
    "a%20b%3Ac%26d &amp; &lt;token&gt; &copy; C:\\\\x64 50%25 100%",
    "at '12:30@home' and 'a:word@place'",
    "def cat(*, sort_key='name', group_key='base@dtype'): ...",
]


@pytest.mark.parametrize("text", LEAKS)
def test_secret_is_replaced(text: str) -> None:
    for given_text in (text, f"could not work: {text}, trying again", f"line one\n{text}\nline three"):
        assert SECRET not in redact(given_text)
        assert "C4nary/" not in redact(given_text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", LEAKS)
def test_secret_in_a_field_of_json_is_replaced(text: str) -> None:
    for data in ({"a": [text]}, [{"b": {"c": text}}], {text: 1}):
        assert SECRET not in json.dumps(redact_values(data))


def test_text_around_an_odd_spelling_stays() -> None:
    text = f"\u043f\u0430\u0440 \x1b[1m&amp; p%61ssword\u200b = {SECRET} \x1b[0m%20 end"
    assert redact(text) == text.replace(SECRET, "***")


@pytest.mark.parametrize("token", TOKENS)
def test_token_is_known_by_its_beginning(token: str) -> None:
    secret = token.rpartition(" ")[2]
    for text in (token, f"refused {token}.", f'{{"a": "{token}"}}', f"x={token}&y", f"({token})\n"):
        assert secret not in redact(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_kept(text: str) -> None:
    assert redact(text) == text
    assert redact_values({"text": text, "list": [text]}) == {"text": text, "list": [text]}


def test_pages_and_messages_of_the_project_are_kept() -> None:
    for file in (*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "tests/unit/messages.txt"):
        text = file.read_text(encoding="utf-8")
        if file.name.startswith("0128"):
            continue  # has secrets as examples
        assert redact(text) == text, file


@pytest.mark.parametrize("separator", ["\n", " ", " — ", "\n\n", ". "])
def test_ordinary_texts_are_kept_side_by_side(separator: str) -> None:
    for texts in itertools.product(ORDINARY, repeat=2):
        text = separator.join(texts)
        assert redact(text) == text


@given(
    st.lists(st.text(st.characters(categories=["L", "N", "Zs"]), max_size=20), max_size=30),
    st.sampled_from([" ", "\n", ", ", " (", ") ", "/", ". ", "-", "_"]),
)
@settings(max_examples=fuzzing.examples(100))
def test_words_paths_and_sentences_are_kept(words: list[str], separator: str) -> None:
    text = separator.join(words)
    assert redact(text) == text


@given(st.binary(min_size=32, max_size=32), st.sampled_from(["{}", "blob {} is damaged", "blobs/{}", "sha256:{}"]))
def test_hashes_are_kept(digest: bytes, form: str) -> None:
    text = form.format(digest.hex())
    assert redact(text) == text


@given(
    st.text(max_size=60),
    st.sampled_from(["://u:{}@h/", " password={} ", '"api_key": "{}"', "Authorization: Bearer {}\n", "&sig={}&"]),
    st.text(max_size=60),
)
@settings(max_examples=fuzzing.examples(200))
def test_secret_is_replaced_in_any_text(before: str, form: str, after: str) -> None:
    text = f"{before} x{form.format(SECRET)} {after}"
    assert SECRET not in redact(text) or SECRET in before + after


@given(st.text(st.sampled_from("ab:/@=&;%'\"\\ \n{}[](),?#3A2F4025password-token.key")))
@settings(max_examples=fuzzing.examples(300))
def test_redaction_twice_changes_nothing_more_and_never_fails(text: str) -> None:
    assert isinstance(redact(redact(text)), str)


PIECES = [
    "a", "a://", "a://b:", "https://u:p@", "redis://u:p", "redis://", "x:/", "%3A%2F%2F", "https%3A%2F%2Fa%40", "@",
    "a:b@", "password=", "password='", "password=\\'", 'key=\\\\\\"', "password={", "password=a;", "&;", "token",
    "pass-", "api_", "cookie:", "authorization: Bearer ", "Bearer ", "Basic ", "sk-", "eyJaaaaaaaa.", "\\", '"', " ",
    "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "hooks.slack.com/services/", "%25", "pwd", "key.", "\n",
    "%70", "&quot;", "\u0430", "\u200b", "\x1b[", "\x1b[0m", "\uff1d",
    "mysql ", "mysql -p", "sshpass -p ", "docker login ", "-p", "-p'",
]  # fmt: skip


@pytest.mark.slow
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), st.sampled_from(["", "@", '"', "x", "\n"]))
@settings(max_examples=fuzzing.examples(25), deadline=None)
def test_long_texts_are_read_in_linear_time(pieces: list[str], end: str) -> None:
    piece = "".join(pieces)
    redact(piece * (200_000 // len(piece)) + end)  # takes minutes if a pattern needs the square of the length


@pytest.mark.parametrize("piece", PIECES)
def test_long_texts_of_one_piece_are_read_in_linear_time(piece: str) -> None:
    redact(piece * (200_000 // len(piece)))


@pytest.mark.parametrize("piece", ["_", "a_", "A_", "_.a", "aB"])
def test_long_values_are_read_in_linear_time(piece: str) -> None:
    redact(f"password: {piece * 100_000}~ api_key={piece * 100_000}5 a://{piece * 100_000}~@b")  # or never


@pytest.mark.parametrize(
    "name",
    ["password", "api_key", "DB_PASS", "clientSecret", "X-Vault-Token", "token", "sig", "pass\u200bword", "p%61ss"],
)
def test_value_under_the_name_of_a_secret_is_replaced(name: str) -> None:
    assert is_named_secret(name, SECRET)
    assert redact_values({name: SECRET, "b": 1}) == {name: "***", "b": 1}


@pytest.mark.parametrize("name", ["password", "api_key", "token"])
def test_values_within_the_value_of_a_secret_are_replaced(name: str) -> None:
    inner = {"value": SECRET, "n": 1}
    assert redact_values({name: [SECRET, [SECRET]]}) == {name: ["***", ["***"]]}
    assert redact_values({name: inner}) == {name: {**inner, "value": "***"}}
    assert redact_values({"text": inner}) == {"text": inner}


@pytest.mark.parametrize(
    ("name", "value"),
    [("password", ""), ("password", "***"), ("tokens", "12345678a"), ("key", SECRET), ("token", "understanding"),
     ("pad_token", "<|endoftext|>"), ("keyword", SECRET), ("compass", SECRET), ("text", SECRET)],
)  # fmt: skip
def test_value_under_another_name_is_kept(name: str, value: str) -> None:
    assert not is_named_secret(name, value)
    assert redact_values({name: value}) == {name: value}
