"""Signatures: made and checked by the real library, and refused when anything at all is not as signed."""

from __future__ import annotations

import base64
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from made_keys import make_key
from releases import MODEL, checkpoint, register, release, save
from store_servers import scaled
from typer.testing import CliRunner

from corrigenda.cli import release as release_commands
from corrigenda.cli import sharing, upkeep
from corrigenda.errors import SetupError, SignatureError
from corrigenda.storage.delivery.pull import check, pull
from corrigenda.storage.objects.keys import Keyring, SigningKey, key_id
from corrigenda.storage.releases import gc, layouts, manifests, refs, signatures
from corrigenda.storage.releases.gc import Policy
from corrigenda.storage.releases.refs import Ref


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path / "key.pem")


@pytest.fixture
def public(tmp_path, key):
    return [tmp_path / "key.pub"]


def signature_key(release, key):
    return signatures.key(release, key_id(key.public_pem()))


@pytest.fixture
def base(local_store, tmp_path):
    return register(local_store, save(tmp_path / "base", checkpoint()))


def test_a_signed_release_is_pulled_and_checked_offline(local_store, base, key, public, tmp_path):
    made = release(local_store, base, seed=7)
    before = made.digest
    assert signatures.keep(local_store, made, Keyring([key]))
    assert not signatures.keep(local_store, made, Keyring([key]))
    dest = tmp_path / "dest"
    assert pull(local_store, MODEL, "1", dest, keys=Keyring(trusted=public)).release.digest == before
    shutil.rmtree(local_store.root)
    assert check(dest, Keyring(trusted=public)).faults == () == check(dest).faults


def test_other_tools_for_model_signatures_accept_the_pulled_directory_and_the_prefix(
    local_store, base, key, public, tmp_path
):
    from model_signing import verifying

    signatures.keep(local_store, base, Keyring([key]))
    pull(local_store, MODEL, "0", tmp_path / "dest", keys=Keyring(trusted=public))
    laid_out = local_store.root / layouts.assemble(local_store, base)
    signed = {tmp_path / "dest": tmp_path / "dest/.corrigenda/model.sig", laid_out: laid_out / "model.sig"}
    for directory, signature in signed.items():
        config = verifying.Config().use_elliptic_key_verifier(public_key=public[0])
        config.verify(directory.resolve(), signature)
        (directory / "extra.py").write_text("import os")
        with pytest.raises(ValueError, match="Extra files"):
            config.verify(directory.resolve(), signature)


def test_what_is_not_signed_is_refused_and_nothing_is_fetched(local_store, base, public, tmp_path):
    with pytest.raises(SignatureError, match="is not signed") as refused:
        pull(local_store, MODEL, "0", tmp_path / "dest", keys=Keyring(trusted=public))
    assert "corrigenda sign tiny@0" in refused.value.remedy
    assert not (tmp_path / "dest").exists() and not (tmp_path / ".dest.corrigenda").exists()


def test_another_key_is_refused_and_one_of_several_is_enough(local_store, base, key, public, tmp_path):
    make_key(tmp_path / "other.pem", curve=ec.SECP384R1())
    other = tmp_path / "other.pub"
    signatures.keep(local_store, base, Keyring([key]))
    with pytest.raises(SignatureError, match="not by a key that is trusted here"):
        pull(local_store, MODEL, "0", tmp_path / "dest", keys=Keyring(trusted=[other]))
    pull(local_store, MODEL, "0", tmp_path / "dest", keys=Keyring(trusted=[other, *public]))
    with pytest.raises(SignatureError, match="not good"):
        check(tmp_path / "dest", Keyring(trusted=[other]))


def test_while_keys_change_hosts_with_the_old_one_and_hosts_with_the_new_one_go_on(
    local_store, base, key, public, tmp_path
):
    signatures.keep(local_store, base, Keyring([key]))
    newer = Keyring([make_key(tmp_path / "newer.pem", "a password", ec.SECP521R1())])
    assert signatures.keep(local_store, base, newer) and not signatures.keep(local_store, base, newer)
    for name, keys in (("new", [tmp_path / "newer.pub"]), ("old", public)):
        pull(local_store, MODEL, "0", tmp_path / name, keys=Keyring(trusted=keys))


def test_a_signature_of_before_keys_had_ids_is_still_good(local_store, base, key, public, tmp_path):
    local_store.create(signatures.key(base), signatures.sign(base, key))
    assert pull(local_store, MODEL, "0", tmp_path / "dest", keys=Keyring(trusted=public)).release == base


def test_a_signature_of_another_release_is_refused(local_store, base, key, public):
    """Older releases, candidates that differ in their gates alone, other models of the same files."""
    made = release(local_store, base, seed=7)
    body = signatures.sign(made, key)
    signatures.verify(body, made, [public[0].read_bytes()])
    others = [
        base,
        replace(made, gates={"passed": True}),
        replace(made, number=2),
        replace(made, model="other"),
        replace(made, files=dict(base.files)),
        replace(made, parent=None),
    ]
    for other in others:
        with pytest.raises(SignatureError):
            signatures.verify(body, other, [public[0].read_bytes()])


def test_whoever_can_write_the_store_but_has_no_key_is_refused(local_store, base, key, public, tmp_path):
    """A changed manifest under a moved ref, with the old signature put beside it."""
    signatures.keep(local_store, base, Keyring([key]))
    evil = replace(base, files=dict(base.files) | {"config.json": base.files["tokenizer.json"]})
    manifests.blobs.put(local_store, manifests.to_bytes(evil))
    seen = refs.read(local_store, MODEL, "latest")
    refs.advance(local_store, MODEL, "latest", seen=seen, to=Ref.to(evil, "evil"))
    local_store.copy(signature_key(base, key), signature_key(evil, key))
    pull(local_store, MODEL, "latest", tmp_path / "trusting")
    for allow_older, why in ((False, "was not moved by"), (True, "not good")):
        with pytest.raises(SignatureError, match=why):
            pull(
                local_store,
                MODEL,
                "latest",
                tmp_path / "dest",
                keys=Keyring(trusted=public),
                allow_older=allow_older,
            )


def test_every_damaged_byte_of_what_is_signed_is_refused(base, key, public):
    """Bits of the statement and of the signature proper, not of the envelope's spelling around them."""
    body = json.loads(signatures.sign(base, key))
    pem = public[0].read_bytes()
    draw = random.Random(0)
    for _ in range(scaled(100)):
        tampered = json.loads(json.dumps(body))
        envelope = tampered["dsseEnvelope"]
        holder, name = draw.choice([(envelope, "payload"), (envelope["signatures"][0], "sig")])
        raw = bytearray(base64.b64decode(holder[name]))
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        holder[name] = base64.b64encode(raw).decode()
        with pytest.raises(SignatureError):
            signatures.verify(json.dumps(tampered).encode(), base, [pem])


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"\xff" * 50, b'{"dsseEnvelope": {"payload": "", "signatures": []}}'],
)
def test_any_bytes_are_refused_and_never_a_traceback(base, public, body):
    with pytest.raises(SignatureError):
        signatures.verify(body, base, [public[0].read_bytes()])


def test_a_directory_that_was_pulled_without_a_key_gets_its_signature_by_the_next_pull(
    local_store, base, key, public, tmp_path
):
    dest = tmp_path / "dest"
    signatures.keep(local_store, base, Keyring([key]))
    pull(local_store, MODEL, "0", dest)
    with pytest.raises(SignatureError, match="is not signed"):
        check(dest, Keyring(trusted=public))
    done = pull(local_store, MODEL, "0", dest, keys=Keyring(trusted=public))
    assert done.downloaded == 0 and not done.was_current
    assert check(dest, Keyring(trusted=public)).faults == ()
    assert pull(local_store, MODEL, "0", dest, keys=Keyring(trusted=public)).was_current
    assert pull(local_store, MODEL, "0", dest).was_current


def test_keys_that_cannot_be_used_are_one_clear_line(base, tmp_path, key):
    (tmp_path / "junk.pem").write_text("junk")
    edwards = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "edwards.pem").write_bytes(edwards)
    make_key(tmp_path / "closed.pem", "right")
    for wrong in (
        SigningKey(tmp_path / "absent.pem"),
        SigningKey(tmp_path / "junk.pem"),
        SigningKey(tmp_path / "edwards.pem"),
        SigningKey(tmp_path / "closed.pem"),
        SigningKey(tmp_path / "closed.pem", "wrong"),
    ):
        with pytest.raises(SetupError, match="signing key"):
            signatures.sign(base, wrong)
    assert signatures.sign(base, key)
    with pytest.raises(SetupError, match="public key cannot be read"):
        signatures.require_good([b"{}"], base, Keyring(trusted=[tmp_path / "key.pem"]))


def test_without_the_extra_it_is_said_what_to_install():
    code = (
        "import importlib.util as util; plain = util.find_spec\n"
        "util.find_spec = lambda n: None if n in ('model_signing', 'OpenSSL') else plain(n)\n"
        "from corrigenda.storage.releases import signatures\n"
        "from corrigenda.storage.objects import keys\n"
        "from corrigenda.errors import SetupError\n"
        "try:\n    keys.require_extra()\n"
        "except SetupError as fault:\n    print(fault)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "corrigenda[sign]" in said


def test_gc_keeps_the_signatures_of_kept_releases_only(local_store, base, key):
    gone = replace(base, number=9)
    for one in (base, gone):
        signatures.keep(local_store, one, Keyring([key]))
    doomed = {info.key for info in gc.plan(local_store, Policy(grace=timedelta(days=-1))).doomed}
    assert signature_key(gone, key) in doomed and signature_key(base, key) not in doomed


@pytest.fixture
def run(local_store, base, key, tmp_path, monkeypatch):
    (tmp_path / "fleet.toml").write_text(
        '[store]\nurl = "./store"\n[queue]\nurl = "./queue"\n'
        '[signing]\nkey = "key.pem"\npublic_keys = ["key.pub"]\n'
        '[[models]]\nname = "tiny"\nsource = "x"\n'
    )
    (tmp_path / "queue").mkdir()
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(pretty_exceptions_enable=False)
    for group in (release_commands, sharing, upkeep):
        group.register(app)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_sign_pull_and_doctor_at_the_terminal(run, local_store, base, key):
    assert "is not signed" in run("doctor").stdout
    assert isinstance(run("pull", MODEL, "dest").exception, SignatureError)
    assert isinstance(run("pull", MODEL, "dest", "--store", "store").exception, SignatureError)
    assert run("pull", MODEL, "unsigned", "--no-verify").exit_code == 0
    layouts.assemble(local_store, base)
    assert "tiny@0: signed" in run("sign", MODEL).stdout
    assert local_store.stat("hf/tiny/0/model.sig") is not None
    assert json.loads(run("sign", MODEL, "--json").stdout)["new"] is False
    assert "tiny@0" in run("pull", MODEL, "dest", "--store", "store").stdout
    assert "files are whole" in run("pull", MODEL, "dest", "--check", "--verify-key", "key.pub").stdout
    assert isinstance(run("pull", MODEL, "dest", "--check", "--verify-key", "key.pem").exception, SetupError)
    said = run("doctor")
    assert said.exit_code == 0 and "tiny@latest: is signed with a trusted key" in said.stdout
