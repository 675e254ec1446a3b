import hashlib

from drift.files.checksums import checksum, joint_checksum, published_checksum, revision_of


def test_a_file_and_a_link_to_it(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    # FIPS 180-2, B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(tmp_path / "file") == checksum(tmp_path / "link") == expected


def test_progress_is_told_in_bytes(tmp_path):
    (tmp_path / "file").write_bytes(bytes(3 << 19))
    told = []
    checksum(tmp_path / "file", told.append)
    assert told == [1 << 20, 1 << 19]


def test_several_files_by_name_and_content_in_any_order(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"")
    lines = f"one {checksum(one)}\ntwo {checksum(two)}\n"
    assert joint_checksum([two, one]) == hashlib.sha256(lines.encode()).hexdigest()
    assert joint_checksum([one]) != joint_checksum([two]) != joint_checksum([one, two])


def test_the_hubs_cache_names_large_files_by_their_sha256(tmp_path):
    large, commit = hashlib.sha256(b"abc").hexdigest(), "c0ffee" + 34 * "0"
    cache = tmp_path / "models--me--model"
    snapshot = cache / "snapshots" / commit
    (snapshot / "unet").mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name, blob in {"unet/model.safetensors": large, "config.json": large[:40]}.items():
        (cache / "blobs" / blob).write_bytes(b"abc")
        (snapshot / name).symlink_to(cache / "blobs" / blob)
    assert published_checksum(snapshot / "unet/model.safetensors") == large
    assert published_checksum(snapshot / "config.json") is None  # small: git's SHA-1
    assert {revision_of(p) for p in (snapshot, snapshot / "unet")} == {commit}
    (tmp_path / large).write_bytes(b"")
    assert published_checksum(tmp_path / large) is revision_of(tmp_path) is None
    known = {}
    assert joint_checksum(snapshot.rglob("*.*"), known) == joint_checksum(snapshot.rglob("*.*"))
    assert known[(snapshot / "config.json").resolve()] == checksum(snapshot / "config.json")
