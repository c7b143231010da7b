"""Who can write to a store but has no key gets nothing believed: no ref, release, base, cache, or old one."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from made_keys import make_key
from releases import EDITABLE, MODEL, checkpoint, raw, register, save, stage

from corrigenda.errors import SetupError, SignatureError, UsageError
from corrigenda.storage.delivery import lora
from corrigenda.storage.delivery.pull import check, find, pull
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.cache import Cache
from corrigenda.storage.objects.keys import NOBODY, Keyring, key_id
from corrigenda.storage.releases import manifests, publish, refs, signatures, snapshots
from corrigenda.storage.releases.publish import Candidate
from corrigenda.storage.releases.refs import Ref


@pytest.fixture
def ours(tmp_path):
    return Keyring([make_key(tmp_path / "ours.pem")])


@pytest.fixture
def host(tmp_path, ours):
    """The keys of one that only pulls."""
    return Keyring(trusted=[tmp_path / "ours.pub"])


@pytest.fixture
def base(local_store, tmp_path, ours):
    directory = save(tmp_path / "base", checkpoint())
    return publish.register_base(local_store, MODEL, directory, source="test", editable=EDITABLE, keys=ours)


def released(store, base, keys, seed=7):
    """A release as a run publishes it."""
    seen = refs.read(store, MODEL, "latest")
    head = manifests.by_digest(store, seen.ref.manifest)
    candidate = Candidate(layer=1, settings={"seed": seed})
    made = stage(store, base, {EDITABLE[1]: raw(seed)}, candidate, parent=head)
    signatures.keep(store, made, keys)
    publish.promote(store, made, seen=seen, keys=keys)
    return made


def ref_bytes(store, name="latest"):
    return store.get(refs.key(MODEL, name))[0]


def put_ref(store, body, name="latest"):
    """As whoever can write to the store does it."""
    (store.root / refs.key(MODEL, name)).write_bytes(body)


def test_a_run_builds_on_no_ref_that_others_moved(local_store, base, ours):
    """Neither to a release of their own nor to one of ours, be it an older one or a candidate."""
    first, second = released(local_store, base, ours), released(local_store, base, ours, seed=8)
    assert snapshots.current(local_store, MODEL, ours).release == second
    evil = manifests.write(local_store, replace(second, number=9, parent=second.digest))
    for to in (evil, first):
        seen = refs.read(local_store, MODEL, "latest")
        refs.advance(local_store, MODEL, "latest", seen=seen, to=Ref.to(to, "passed the gates"))
        with pytest.raises(SignatureError, match="was not moved by anybody whose key is trusted"):
            snapshots.current(local_store, MODEL, ours)
        assert snapshots.current(local_store, MODEL).release == to


def test_a_signed_candidate_that_was_never_published_is_not_latest(local_store, base, ours, host, tmp_path):
    candidate = stage(local_store, base, {EDITABLE[1]: raw(3)}, parent=base)
    signatures.keep(local_store, candidate, ours)
    put_ref(local_store, refs.to_bytes(Ref.to(candidate, "passed the gates")))
    with pytest.raises(SignatureError):
        pull(local_store, MODEL, "latest", tmp_path / "dest", keys=host)
    # A ref's seal says which ref of which model it is.
    refs.advance(
        local_store,
        MODEL,
        "canary",
        seen=refs.read(local_store, MODEL, "canary"),
        to=Ref.to(candidate, "staged"),
        keys=ours,
    )
    put_ref(local_store, ref_bytes(local_store, "canary"))
    with pytest.raises(SignatureError):
        pull(local_store, MODEL, "latest", tmp_path / "dest", keys=host)
    assert pull(local_store, MODEL, "canary", tmp_path / "dest", keys=host).release == candidate


def test_every_field_of_a_ref_is_sealed(local_store, base, ours):
    ref = refs.read(local_store, MODEL, "latest").ref
    assert refs.is_sealed(ref, MODEL, "latest", ours)
    others = {"release": 1, "manifest": "0" * 64, "moved_at": "2020-01-01T00:00:00+00:00", "reason": "x"}
    others |= {"previous": "0" * 64, "sequence": ref.sequence + 1, "expires_at": ref.moved_at}
    for name, value in others.items():
        assert not refs.is_sealed(replace(ref, **{name: value}), MODEL, "latest", ours), name
    assert not refs.is_sealed(ref, "other", "latest", ours)
    assert not refs.is_sealed(ref, MODEL, "canary", ours)


def test_a_registration_takes_over_no_manifest_of_others(local_store, tmp_path, ours):
    """What lies under release 0 is signed as ours: it must be ours to the last field."""
    directory = save(tmp_path / "base", checkpoint())
    honest = publish.register_base(local_store, "other", directory, source="test", editable=EDITABLE)
    evil = replace(honest, model=MODEL, files=honest.files | {"evil.py": honest.files["config.json"]})
    manifests.write(local_store, evil)
    with pytest.raises(UsageError, match="not what this would write"):
        publish.register_base(local_store, MODEL, directory, source="test", editable=EDITABLE, keys=ours)
    assert refs.read(local_store, MODEL, "latest").ref is None


def test_a_killed_registration_is_taken_over(local_store, tmp_path, ours):
    directory = save(tmp_path / "base", checkpoint())

    def dies(_):
        raise KeyboardInterrupt

    named = {"source": "test", "editable": EDITABLE, "keys": ours}
    with pytest.raises(KeyboardInterrupt):
        publish.register_base(local_store, MODEL, directory, prepare=dies, **named)
    base = publish.register_base(local_store, MODEL, directory, **named)
    assert snapshots.current(local_store, MODEL, ours).release == base


def test_a_base_is_verified_before_it_is_subtracted(local_store, base, ours, host, tmp_path):
    made = released(local_store, base, ours)
    lora.export(local_store, made, tmp_path / "good", keys=host)
    fake = replace(base, files=publish.replaced_files(local_store, base, {EDITABLE[1]: raw(99)}))
    blobs.put(local_store, manifests.to_bytes(fake))
    (local_store.root / manifests.key(MODEL, 0)).write_bytes(manifests.to_bytes(fake))
    with pytest.raises(SignatureError):
        lora.export(local_store, made, tmp_path / "evil", keys=host)
    assert not (tmp_path / "evil").exists()


def test_an_old_ref_is_refused_by_a_host_that_has_seen_a_later_one(local_store, base, ours, host, tmp_path):
    dest = tmp_path / "dest"
    first = released(local_store, base, ours)
    old = ref_bytes(local_store)
    second = released(local_store, base, ours, seed=8)
    pull(local_store, MODEL, "latest", dest, keys=host)
    put_ref(local_store, old)
    with pytest.raises(SignatureError, match="goes back"):
        pull(local_store, MODEL, "latest", dest, keys=host)
    assert check(dest).release == second
    assert pull(local_store, MODEL, "latest", dest, keys=host, allow_older=True).release == first
    assert pull(local_store, MODEL, "latest", dest, keys=host).release == first
    assert pull(local_store, MODEL, "2", dest, keys=host).release == second


def test_a_rollback_is_a_later_ref(local_store, base, ours, host, tmp_path):
    dest = tmp_path / "dest"
    first = released(local_store, base, ours)
    released(local_store, base, ours, seed=8)
    pull(local_store, MODEL, "latest", dest, keys=host)
    publish.rollback(local_store, MODEL, to=1, keys=ours)
    assert pull(local_store, MODEL, "latest", dest, keys=host).release == first


def test_two_refs_of_one_sequence_are_no_ref(local_store, base, ours, host, tmp_path):
    """A publisher's store that was forked says two things at once."""
    dest = tmp_path / "dest"
    made = released(local_store, base, ours)
    pull(local_store, MODEL, "latest", dest, keys=host)
    there = refs.read(local_store, MODEL, "latest").ref
    twin = replace(there, manifest=base.digest, release=0, seals={})
    put_ref(
        local_store,
        refs.to_bytes(replace(twin, seals=ours.seal("ref", refs._sealable(twin, MODEL, "latest")))),
    )
    assert pull(local_store, MODEL, "latest", tmp_path / "other", keys=host).release == base != made
    with pytest.raises(SignatureError, match="goes back"):
        pull(local_store, MODEL, "latest", dest, keys=host)


def test_a_ref_that_nobody_confirms_expires(local_store, base, ours, host, tmp_path):
    made = released(local_store, base, Keyring(ours.signers, valid=timedelta(days=-1)))
    for dest in (tmp_path / "dest", tmp_path / "fresh"):
        with pytest.raises(SignatureError, match="not confirmed in time"):
            pull(local_store, MODEL, "latest", dest, keys=host)
    assert pull(local_store, MODEL, "latest", tmp_path / "dest", keys=host, allow_older=True).release == made
    weekly = Keyring(ours.signers, valid=timedelta(days=7))
    seen = refs.read(local_store, MODEL, "latest")
    assert refs.is_due(seen.ref, weekly) and not refs.is_due(seen.ref, ours)
    refs.confirm(local_store, MODEL, "latest", seen=seen, keys=weekly)
    assert not refs.is_due(refs.read(local_store, MODEL, "latest").ref, weekly)
    assert pull(local_store, MODEL, "latest", tmp_path / "dest", keys=host).was_current
    assert len(list(refs.log(local_store, MODEL, "latest"))) == 2  # confirmed, not moved


def test_who_has_verified_once_goes_on_verifying(local_store, base, ours, host, tmp_path):
    """Also by another way to the store, where no key is named."""
    dest = tmp_path / "dest"
    pull(local_store, MODEL, "latest", dest, keys=host)
    released(local_store, base, NOBODY)
    with pytest.raises(SignatureError):
        pull(local_store, MODEL, "latest", dest)
    assert pull(local_store, MODEL, "latest", dest, keys=None).release.number == 1


def test_an_upgraded_host_takes_an_unsealed_ref_only_when_told(local_store, base, ours, host, tmp_path):
    ref = refs.read(local_store, MODEL, "latest").ref
    put_ref(local_store, refs.to_bytes(replace(ref, sequence=0, seals={})))
    assert b"sequence" not in ref_bytes(local_store)
    with pytest.raises(SignatureError):
        find(local_store, MODEL, "latest", host)
    assert find(local_store, MODEL, "latest", host, allow_older=True).release == base
    assert find(local_store, MODEL, "0", host).release == base


def test_refs_are_sealed_by_old_and_new_keys_while_keys_change(local_store, base, ours, host, tmp_path):
    newer = make_key(tmp_path / "newer.pem", "a password")
    made = released(local_store, base, Keyring([*ours.signers, newer]))
    for name in ("ours", "newer"):
        keys = Keyring(trusted=[tmp_path / f"{name}.pub"])
        assert pull(local_store, MODEL, "latest", tmp_path / name, keys=keys).release == made


def test_a_rollback_that_hosts_would_refuse_says_so_and_moves_nothing(local_store, tmp_path, ours, host):
    base = register(local_store, save(tmp_path / "base", checkpoint()))
    released(local_store, base, ours)
    before = ref_bytes(local_store)
    with pytest.raises(SignatureError, match="is not signed"):
        publish.rollback(local_store, MODEL, to=0, keys=ours)
    with pytest.raises(SetupError, match="no key here to sign with"):
        publish.rollback(local_store, MODEL, to=0, keys=host)
    assert ref_bytes(local_store) == before
    signatures.keep(local_store, base, ours)
    assert publish.rollback(local_store, MODEL, to=0, keys=ours)[0] == base


def test_a_rollback_mends_a_ref_that_others_moved(local_store, base, ours, host, tmp_path):
    made = released(local_store, base, ours)
    pull(local_store, MODEL, "latest", tmp_path / "dest", keys=host)
    evil = manifests.write(local_store, replace(made, number=9, parent=None))
    put_ref(local_store, refs.to_bytes(Ref.to(evil, "x")))
    publish.rollback(local_store, MODEL, to=1, keys=ours)
    assert pull(local_store, MODEL, "latest", tmp_path / "dest", keys=host).release == made


def test_a_cache_believes_what_its_keys_sealed_in_its_own_place(local_store, ours, host, tmp_path):
    sealed, open_to_all = Cache(local_store, ours), Cache(local_store)
    sealed.remember("covariance", "a", b"ours")
    sealed.remember_pack("edits", "scope", b"ours")
    assert sealed.lookup("covariance", "a") == b"ours" == Cache(local_store, host).lookup("covariance", "a")
    local_store.copy("cache/covariance/a", "cache/covariance/b")
    local_store.copy("cache/covariance/a", "cache/metric/a")
    open_to_all.remember("covariance", "c", b"evil")
    open_to_all.remember_pack("edits", "scope", b"evil")
    for kind, name in (("covariance", "b"), ("metric", "a"), ("covariance", "c")):
        assert sealed.lookup(kind, name) is None
        assert open_to_all.lookup(kind, name) is not None
    assert sealed.lookup_packs("edits", "scope") == [b"ours"]
    sealed.remember("covariance", "c", b"evil")  # the same bytes, vouched for now
    assert sealed.lookup("covariance", "c") == b"evil"


@pytest.mark.parametrize("seals", [None, [], "x", 1, {"a": 1}, {"KEY": None}, {"KEY": "!"}, {"KEY": "aGk="}])
def test_a_hostile_seal_is_none(local_store, ours, seals):
    (key,) = ours.public
    if isinstance(seals, dict):
        seals = {name.replace("KEY", key): value for name, value in seals.items()}
    ref = blobs.put(local_store, b"evil")
    local_store.create("cache/metric/a", json.dumps(ref.to_json() | {"seals": seals}).encode())
    assert Cache(local_store, ours).lookup("metric", "a") is None


def test_unsigned_fleets_write_what_they_always_wrote(local_store, tmp_path):
    Cache(local_store).remember("metric", "a", b"1")
    assert set(json.loads(local_store.get("cache/metric/a")[0])) == {"digest", "size"}
    register(local_store, save(tmp_path / "base", checkpoint()))
    assert "seals" not in json.loads(ref_bytes(local_store))


def test_a_key_that_cannot_be_opened_here_vouches_for_nothing(local_store, ours, tmp_path):
    Cache(local_store, ours).remember("metric", "a", b"1")
    absent = Keyring([replace(ours.signers[0], path=tmp_path / "absent.pem")])
    assert Cache(local_store, absent).lookup("metric", "a") is None
    with pytest.raises(SetupError):
        absent.require_signers()
    assert key_id(ours.signers[0].public_pem()) in ours.public
