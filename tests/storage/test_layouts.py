"""A prefix that anything reads which reads Hugging Face directories."""

from __future__ import annotations

import pytest
from releases import checkpoint, register, release, save

from corrigenda.storage import blobs, layouts


@pytest.mark.parametrize("name", ["local_store", "weed_store"])
def test_a_prefix_holds_the_whole_release_and_nothing_is_uploaded(request, name, tmp_path):
    store = request.getfixturevalue(name)
    base = register(store, save(tmp_path / "base", checkpoint()))
    made = release(store, base, seed=7)

    class NoUploads:
        def __getattr__(self, method):
            assert method in {"stat", "copy", "list", "url"}, method
            return getattr(store, method)

    prefix = layouts.assemble(NoUploads(), made)
    assert prefix == "hf/tiny/1/"
    found = {info.key.removeprefix(prefix): store.get(info.key)[0] for info in store.list(prefix)}
    assert found == {path: blobs.get(store, ref.digest) for path, ref in made.files.items()}
    assert layouts.assemble(NoUploads(), made) == prefix


def test_the_configuration_comes_last(local_store, tmp_path):
    base = register(local_store, save(tmp_path / "base", checkpoint()))
    copied = []

    class Watched:
        def __getattr__(self, method):
            return getattr(local_store, method)

        def copy(self, source, target):
            copied.append(target)
            local_store.copy(source, target)

    layouts.assemble(Watched(), base)
    assert copied[-1] == "hf/tiny/0/config.json" and len(copied) == len(base.files)
