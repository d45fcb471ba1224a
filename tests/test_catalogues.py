"""Catalogues change: they follow their sources, and can be rolled back, verified, renamed and deleted."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ran
from crashes import picture, save
from test_store import tree

import simrec
from simrec import home, manifest, store
from simrec.catalogue import revising
from simrec.errors import DataError, ImageError, RequestError, SimrecError, StoreError
from simrec.recommender import Recommender
from simrec.verbs import generations, index
from simrec.verbs.encoding import Context, Unread


@pytest.fixture
def photos(tmp_path: Path, tiny: Path, own_home: Path) -> Path:
    """A folder of twelve pictures, of which `mine` is a catalogue."""
    shutil.copytree(tiny, own_home)
    save(tmp_path / "photos", *range(12))
    simrec.build("mine", str(tmp_path / "photos"), encoder="tiny")
    return tmp_path / "photos"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures were encoded, for each time."""
    counts: list[int] = []
    real = Recommender.encode

    def encode(self: Recommender, images: Any, *args: Any) -> Any:
        counts.append(len(images))
        return real(self, images, *args)

    monkeypatch.setattr(Recommender, "encode", encode)
    return counts


def ids(name: str = "mine") -> list[str]:
    return sorted(item.id for item in simrec.open(name).catalogue.all())


def code(id_: str) -> list[float]:
    """The kept code of an item of `mine`."""
    found = simrec.open("mine").catalogue.code(id_)
    assert found is not None
    return [round(float(number), 4) for number in found[0]]


def refused(change: Callable[[], object], kind: type[SimrecError], says: str, folder: Path) -> None:
    """Asserts that a change is refused in one line and changes nothing."""
    before = tree(folder)
    with pytest.raises(kind, match=says) as raised:
        change()
    assert "\n" not in str(raised.value)
    assert tree(folder) == before


# Sync.


def test_sync_says_what_it_did_and_the_catalogue_is_what_the_folder_is(photos: Path) -> None:
    save(photos, 20, 21)
    picture(30).save(photos / "000.png")
    (photos / "001.png").unlink()
    (photos / "002.png").rename(photos / "sofa.png")
    (photos / "broken.png").write_bytes(b"no picture")
    words = "2 added, 1 changed, 1 removed, 1 renamed, 9 unchanged, 1 unreadable"
    would = ran("index", "sync", "mine", "--dry-run")[1]
    assert would == "mine: would be 3 added, 1 changed, 1 removed, 1 renamed, 9 unchanged, 0 unreadable.\n"
    assert ran("index", "sync", "mine")[1] == f"mine: {words}.\n"
    assert ids() == sorted(path.name for path in photos.iterdir() if path.name != "broken.png")
    assert ran("index", "sync", "mine")[1].startswith("mine: 0 added, 0 changed, 0 removed, 0 renamed, 13 unchanged")


def test_a_dry_run_changes_nothing(photos: Path, own_home: Path) -> None:
    save(photos, 20)
    before = tree(own_home)
    assert index.sync("mine", dry_run=True).added == 1
    assert tree(own_home) == before


def test_only_what_is_new_or_changed_is_encoded(photos: Path, encoded: list[int]) -> None:
    (photos / "chairs").mkdir()
    (photos / "003.png").rename(photos / "chairs" / "003.png")
    (photos / "004.png").rename(photos / "renamed.png")
    shutil.copy(photos / "005.png", photos / "twice.png")
    os.utime(photos / "006.png", (1e9, 1e9))
    before = {name: code(name) for name in ("003.png", "004.png", "005.png")}
    encoded.clear()
    outcome = index.sync("mine")
    assert encoded == []
    assert (outcome.added, outcome.changed, outcome.renamed, outcome.removed) == (1, 0, 2, 0)
    assert code("chairs/003.png") == before["003.png"]
    assert code("renamed.png") == before["004.png"]
    assert code("twice.png") == code("005.png") == before["005.png"]
    save(photos, 20)
    picture(21).save(photos / "007.png")
    index.sync("mine")
    assert encoded == [2]


def test_an_item_whose_file_was_replaced_is_found_by_its_new_picture(photos: Path) -> None:
    old = simrec.open("mine").similar(photos / "008.png", 20)
    assert "008.png" not in [match.id for match in old]  # itself
    picture(99).save(photos / "008.png")
    index.sync("mine")
    opened = simrec.open("mine")
    picture(99).save(photos.parent / "asked.png")
    assert opened.similar(photos.parent / "asked.png", 1)[0].id != "008.png"  # an exact copy is no answer
    picture(100).save(photos.parent / "asked.png")
    assert opened.similar(photos.parent / "asked.png", 1)[0].id == "008.png"
    assert len(opened.similar(photos.parent / "asked.png", 100)) == 12


def test_fields_of_a_folder_follow_its_files(photos: Path) -> None:
    (photos / "bags").mkdir()
    (photos / "000.png").rename(photos / "bags" / "red.png")
    os.utime(photos / "bags" / "red.png", (1e9, 1e9))
    index.sync("mine")
    (item,) = simrec.open("mine").catalogue.items(["bags/red.png"])
    size = (photos / "bags" / "red.png").stat().st_size
    assert item.fields == {
        "folder": "bags", "name": "red.png", "bytes": size, "width": 28, "height": 28,
        "modified": "2001-09-09T01:46:40Z",
    }  # fmt: skip
    assert item.label == "bags"
    os.utime(photos / "bags" / "red.png", (2e9, 2e9))
    assert index.sync("mine").removed == 0
    (item,) = simrec.open("mine").catalogue.items(["bags/red.png"])
    assert item.fields["modified"] == "2033-05-18T03:33:20Z"


def test_a_picture_that_cant_be_read_any_more_keeps_its_item(photos: Path) -> None:
    before = code("004.png")
    (photos / "004.png").write_bytes(b"half of")
    outcome = index.sync("mine")
    assert (outcome.changed, outcome.unreadable, outcome.items) == (0, 1, 12)
    assert code("004.png") == before
    with pytest.raises(ImageError, match=r"004\.png"):
        index.sync("mine", unread=Unread(strict=True))


def test_old_pictures_that_stay_are_not_counted_as_left_out(photos: Path) -> None:
    notices: list[str] = []
    save(photos, *range(12, 24))
    index.sync("mine")
    for number in range(2, 25):
        (photos / f"{number:03d}.png").write_bytes(b"half of")
    assert index.sync("mine", context=Context(notice=notices.append)).items == 24
    assert notices[-1] == "left out 1 picture and kept 22 old pictures in all: 23 not a picture"
    (photos / "024.png").unlink()
    index.sync("mine", context=Context(notice=notices.append))
    assert notices[-1] == "kept 22 old pictures in all: 22 not a picture"


def test_build_on_a_catalogue_of_the_same_source_is_a_sync(photos: Path, encoded: list[int]) -> None:
    save(photos, 20)
    simrec.build("mine", str(photos))
    simrec.build("mine")
    assert encoded == [1]
    simrec.build("mine", from_scratch=True)
    assert encoded == [1, 13]
    with pytest.raises(StoreError, match="add --replace to replace it"):
        simrec.build("mine", str(photos.parent))


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_many_small_syncs_leave_few_segments_and_the_answers_of_one_build(photos: Path, dtype: Any) -> None:
    simrec.build("mine", dtype=dtype, from_scratch=True)
    learned = simrec.open("mine").catalogue.segments[0].learned
    for number in range(20, 31):
        save(photos, number)
        index.sync("mine")
    opened = simrec.open("mine")
    assert len(opened.catalogue.segments) == revising.SEGMENTS
    assert {one.learned for one in opened.catalogue.segments} == {learned}
    assert generations.verify("mine").problems == ()
    if dtype == "float32":  # of the others a new build takes other ranges or medians
        whole = simrec.build("whole", str(photos), encoder="tiny")
        for item in whole.catalogue.all():
            one, other = opened.similar(f"id:{item.id}", 5), whole.similar(f"id:{item.id}", 5)
            assert np.allclose([m.distance for m in one], [m.distance for m in other], atol=1e-5)


# What no sync may do.


def test_a_sync_that_would_remove_most_items_is_refused(photos: Path, own_home: Path) -> None:
    for number in range(7):
        (photos / f"{number:03d}.png").unlink()
    refused(lambda: index.sync("mine"), StoreError, "7 of its 12 items are gone, more than half: .* --yes", own_home)
    refused(lambda: simrec.build("mine"), StoreError, "more than half", own_home)
    assert index.sync("mine", yes=True).removed == 7
    assert len(ids()) == 5


def test_a_folder_that_cannot_be_read_for_a_moment_loses_no_items(
    photos: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(photos / "hats", 40, 41)
    assert index.sync("mine").added == 2
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith("hats"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(
        lambda: index.sync("mine", yes=True), DataError, "hats: this folder cannot be read, so nothing was", own_home
    )
    monkeypatch.setattr(os, "scandir", real)
    assert index.sync("mine").unchanged == 14


def test_a_sync_without_changes_says_that_a_file_is_missing(photos: Path, own_home: Path) -> None:
    (codes,) = own_home.glob("mine/segments/*/codes.faiss")
    codes.unlink()
    refused(lambda: index.sync("mine"), StoreError, "codes.faiss: cannot be read .* --from-scratch", own_home)
    refused(lambda: simrec.build("mine"), StoreError, "codes.faiss: cannot be read .* --from-scratch", own_home)
    assert simrec.build("mine", from_scratch=True).similar("id:000.png", 2)


def test_a_sync_may_remove_half_of_a_source(photos: Path) -> None:
    for number in range(6):
        (photos / f"{number:03d}.png").unlink()
    assert index.sync("mine").removed == 6


def test_a_source_that_is_suddenly_empty_or_gone_changes_nothing(photos: Path, own_home: Path) -> None:
    moved = photos.rename(photos.parent / "moved")
    gone = f"{photos}: is not there, so nothing was changed: .* --root"
    refused(lambda: index.sync("mine", yes=True), DataError, gone, own_home)
    photos.mkdir()  # a mount point
    refused(lambda: index.sync("mine", yes=True), DataError, "no pictures in this folder", own_home)
    photos.rmdir()
    moved.rename(photos)
    assert index.sync("mine").unchanged == 12


def test_clocks_that_run_backwards_hide_no_change(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(UTC) - timedelta(days=1)

    monkeypatch.setattr(manifest, "datetime", Yesterday)
    picture(60).save(photos / "003.png")
    os.utime(photos / "003.png", (1, 1))
    picture(61).save(photos / "004.png")
    os.utime(photos / "004.png", (-1e9, -1e9))
    picture(62).save(photos / "005.png")
    os.utime(photos / "005.png", (9e9, 9e9))
    assert index.sync("mine").changed == 3
    live, before = generations.history("mine")
    assert (live.number, live.live, before.number) == (2, True, 1)
    assert live.created < before.created
    assert int(generations.rollback("mine").generation.name) == 3


# Several sources, and removing.


@pytest.fixture
def more(photos: Path) -> Path:
    """Another source."""
    save(photos.parent / "more", *range(100, 104))
    return photos.parent / "more"


def test_another_source_is_added_and_each_is_followed(photos: Path, more: Path, own_home: Path) -> None:
    assert index.add("mine", str(more)).added == 4
    refused(lambda: index.add("mine", str(more)), RequestError, "already has this source: 'simrec index sync", own_home)
    save(photos, 20)
    save(more, 104)
    (more / "100.png").unlink()
    assert index.sync("mine", str(more)).added == 1
    assert index.sync("mine").added == 1
    opened = simrec.open("mine")
    origins = {item.id: item.origin for item in opened.catalogue.all()}
    assert origins["020.png"] == str(photos)
    assert origins["104.png"] == str(more)
    assert len(origins) == 17
    assert all(Path(item.source).is_file() for item in opened.catalogue.all())
    refused(lambda: index.sync("mine", str(photos.parent / "home")), SimrecError, ": ", own_home)


def test_ids_that_clash_are_refused_before_anything_is_written(photos: Path, more: Path, own_home: Path) -> None:
    shutil.copy(photos / "000.png", more / "003.png")
    refused(
        lambda: index.add("mine", str(more)), DataError, "an item of .*photos already has its id '003.png'", own_home
    )
    (more / "003.png").unlink()
    index.add("mine", str(more))
    save(photos, 101)  # which is in the other one
    refused(lambda: index.sync("mine"), DataError, "an item of .*more already has its id '101.png'", own_home)


def test_files_that_move_between_two_sources_keep_their_codes(photos: Path, more: Path, encoded: list[int]) -> None:
    index.add("mine", str(more))
    encoded.clear()
    (photos / "003.png").rename(more / "003.png")
    outcome = index.sync("mine")
    assert (outcome.renamed, outcome.unchanged, outcome.added, outcome.removed) == (1, 15, 0, 0)
    for path in more.iterdir():
        path.rename(photos / path.name)
    assert index.sync("mine", dry_run=True).renamed == 5
    assert index.sync("mine").renamed == 5
    assert index.sync("mine").unchanged == 16  # of the folder that is now empty, nothing is missing
    more.rmdir()
    assert index.sync("mine").unchanged == 16
    assert encoded == []
    assert {item.origin for item in simrec.open("mine").catalogue.all()} == {str(photos)}
    assert ids() == sorted(path.name for path in photos.iterdir())


def test_another_picture_with_the_id_and_the_stamp_of_one_that_is_gone_is_read(photos: Path, more: Path) -> None:
    index.add("mine", str(more))
    before, gone = code("003.png"), photos / "003.png"
    other = more / "003.png"
    picture(70).save(other)
    size = max(gone.stat().st_size, other.stat().st_size)
    for path in (gone, other):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))  # PNG ends before that
        os.utime(path, (1e9, 1e9))
    later = other.rename(photos.parent / "later.png")
    index.sync("mine")
    gone.unlink()
    later.rename(other)
    outcome = index.sync("mine")
    assert (outcome.changed, outcome.renamed, outcome.removed) == (1, 0, 0)
    assert code("003.png") != before


def test_an_id_that_two_sources_get_at_once_is_refused(photos: Path, more: Path, own_home: Path) -> None:
    index.add("mine", str(more))
    save(photos, 30)
    save(more, 30)
    refused(lambda: index.sync("mine"), DataError, "another source has its id '030.png' too", own_home)


def test_items_are_removed_by_id_and_a_sync_brings_them_back(photos: Path, own_home: Path) -> None:
    refused(lambda: index.remove("mine", ["000.png", "none.png"]), RequestError, "no item 'none.png' in mine", own_home)
    assert ran("index", "remove", "mine", "000.png", "011.png")[1].startswith("mine: 0 added, 0 changed, 2 removed")
    assert len(ids()) == 10
    opened = simrec.open("mine")
    assert opened.catalogue.items(["000.png"]) == []
    assert len(opened.similar("id:001.png", 100)) == 9
    assert (photos / "000.png").is_file()
    assert index.sync("mine").added == 2


def test_items_that_match_a_filter_are_removed(photos: Path, own_home: Path) -> None:
    where = "name < '007'"
    refused(lambda: index.remove("mine", where=where), RequestError, "7 of its 12 items match, .* --yes", own_home)
    refused(lambda: index.remove("mine", where="name = 'x'"), RequestError, "no item matches", own_home)
    assert index.remove("mine", where=where, yes=True).removed == 7
    assert ids() == [f"{number:03d}.png" for number in range(7, 12)]


def test_an_item_to_remove_may_be_named_as_queries_name_it(photos: Path) -> None:
    assert index.remove("mine", ["id:003.png"]).removed == 1
    assert "003.png" not in ids()


def test_all_items_can_be_removed_and_added_again(photos: Path) -> None:
    assert index.remove("mine", ids()).items == 0
    assert simrec.open("mine").similar(photos / "000.png", 3) == []
    assert generations.verify("mine").problems == ()
    assert index.sync("mine").added == 12
    assert len(simrec.open("mine").similar(photos / "000.png", 100)) == 11


# Fields that follow a list.


def priced(photos: Path, *prices: object, name: str = "prices.csv") -> Path:
    """A list of the first pictures with these prices."""
    lines = [f"photos/{number:03d}.png,{number:03d},{price}" for number, price in enumerate(prices)]
    return written(photos.parent / name, "path,id,price", *lines)


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def prices(name: str = "shop") -> dict[str, object]:
    return {item.id: item.fields.get("price") for item in simrec.open(name).catalogue.all()}


def test_a_column_is_numbers_again_when_its_last_text_is_corrected(photos: Path) -> None:
    notices: list[str] = []
    context = Context(notice=notices.append)
    simrec.build("shop", str(priced(photos, 5, 10, 15, 20)), encoder="tiny")
    priced(photos, 5, "n/a", 15, 20)
    assert index.sync("shop", context=context).changed == 1
    assert "shop: column 'price' held numbers; it is kept as text from now on" in notices[-1]
    assert index.sync("shop").unchanged == 4
    assert prices() == {"000": "5", "001": "n/a", "002": "15", "003": "20"}
    priced(photos, 5, 12, 15, 20)
    assert index.sync("shop").changed == 1
    assert prices() == {"000": 5, "001": 12, "002": 15, "003": 20}
    assert index.sync("shop").unchanged == 4
    assert simrec.open("shop").catalogue.matching("price < 13") == 2
    assert len(generations.history("shop")) == 3


def test_a_column_is_numbers_again_when_the_row_of_its_last_text_is_gone(photos: Path) -> None:
    simrec.build("shop", str(priced(photos, 1, 2, 3, 4, 5, "n/a")), encoder="tiny")
    priced(photos, 1, 2, 3, 4, 5)
    assert index.sync("shop").removed == 1
    assert prices() == {f"{number - 1:03d}": number for number in range(1, 6)}
    assert simrec.open("shop").catalogue.matching("price < 3") == 2


def test_a_column_is_numbers_again_when_picture_and_price_of_its_last_text_change(photos: Path) -> None:
    simrec.build("shop", str(priced(photos, 1, 2, 3, 4, 5, "n/a")), encoder="tiny")
    (photos / "011.png").replace(photos / "005.png")
    priced(photos, 1, 2, 3, 4, 5, 6)
    assert index.sync("shop").changed == 1
    assert prices() == {f"{number - 1:03d}": number for number in range(1, 7)}


def test_numbers_stay_texts_beside_another_sources_texts(photos: Path, more: Path) -> None:
    simrec.build("shop", str(priced(photos, 5, 10.5, 15)), encoder="tiny")
    other = written(photos.parent / "other.csv", "path,price", "more/100.png,on request", "more/101.png,00123")
    assert index.add("shop", str(other)).added == 2
    assert index.sync("shop").unchanged == 5
    written(other, "path,price", "more/100.png,7", "more/101.png,00123")  # 00123 isn't a number
    assert index.sync("shop").changed == 1
    assert prices()["more/101.png"] == "00123"
    assert index.sync("shop").unchanged == 5
    written(other, "path,price", "more/100.png,7", "more/101.png,123")
    assert index.sync("shop").changed == 1
    assert prices() == {"000": 5, "001": 10.5, "002": 15, "more/100.png": 7, "more/101.png": 123}


def test_numbers_for_some_items_of_a_column_of_texts_are_kept_as_texts_with_a_notice(photos: Path) -> None:
    simrec.build("shop", str(priced(photos, '"5,50"', '"10,00"')), encoder="tiny")
    notices: list[str] = []
    one = written(photos.parent / "one.csv", "id,price", "000,5.50")
    assert index.set_fields("shop", str(one), context=Context(notice=notices.append)).changed == 1
    assert len(notices) == 1
    assert "shop: column 'price' is still text, because other values of it are texts" in notices[0]
    notices.clear()
    both = written(photos.parent / "both.csv", "id,price", "000,5", "001,10.00")
    index.set_fields("shop", str(both), context=Context(notice=notices.append))
    assert notices == []
    assert prices() == {"000": 5, "001": 10}


def test_an_item_whose_picture_is_gone_from_the_disk_follows_its_row(photos: Path) -> None:
    notices: list[str] = []
    simrec.build("shop", str(priced(photos, 5, 10, 15)), encoder="tiny")
    (photos / "001.png").unlink()
    priced(photos, 50, 100, 150)
    outcome = index.sync("shop", context=Context(notice=notices.append))
    assert (outcome.changed, outcome.unchanged, outcome.unreadable, outcome.items) == (3, 0, 1, 3)
    assert prices() == {"000": 50, "001": 100, "002": 150}
    assert any(line.startswith(f"kept the old picture of {photos / '001.png'}: ") for line in notices)
    priced(photos, 50, 100)
    assert index.sync("shop").removed == 1


def test_fields_are_counted_when_they_change(photos: Path, own_home: Path) -> None:
    list_ = written(photos.parent / "sale.csv", "id,price", "000.png,3", "001.png,4", "none.png,5")
    assert ran("index", "fields", "mine", str(list_))[1].startswith(
        "mine: 0 added, 2 changed, 0 removed, 0 renamed, 10 "
    )
    made = len(generations.history("mine"))
    assert ran("index", "fields", "mine", str(list_))[1].startswith(
        "mine: 0 added, 0 changed, 0 removed, 0 renamed, 12 "
    )
    assert len(generations.history("mine")) == made
    empty = written(photos.parent / "labels.csv", "id,label", "000.png,a")
    refused(lambda: index.set_fields("mine", str(empty)), RequestError, "no other column: add a column", own_home)


# Catalogues that move.


def test_a_folder_that_moved_is_followed_without_encoding_anything(photos: Path, encoded: list[int]) -> None:
    moved = photos.rename(photos.parent / "elsewhere")
    save(moved, 20)
    outcome = index.sync("mine", root=moved)
    assert (outcome.added, outcome.removed, outcome.unchanged) == (1, 0, 12)
    assert encoded == [1]
    opened = simrec.open("mine")
    assert all(Path(item.source).parent == moved for item in opened.catalogue.all())
    assert index.sync("mine").unchanged == 13


def test_each_of_two_folders_that_moved_is_followed(
    photos: Path, more: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("mine", str(more))
    encoded.clear()
    elsewhere = photos.parent / "elsewhere"
    elsewhere.mkdir()
    newer = more.rename(elsewhere / "more")
    assert index.sync("mine", root=newer).unchanged == 4
    monkeypatch.chdir(photos.parent)
    moved = photos.rename(elsewhere / "photos")
    again = newer.rename(elsewhere / "again")
    assert index.sync("mine", "photos", root=moved).unchanged == 12
    assert index.sync("mine", str(newer), root=again).unchanged == 4
    assert encoded == []
    assert index.sync("mine").unchanged == 16
    assert {Path(item.source).parent for item in simrec.open("mine").catalogue.all()} == {moved, again}


@pytest.mark.parametrize("how", [{"encoder": "demo"}, {"dtype": "int8"}, {"from_scratch": True}])
def test_a_build_that_would_lose_most_items_is_refused(photos: Path, own_home: Path, how: dict[str, Any]) -> None:
    save(photos, 20)
    index.sync("mine")
    for number in range(7):
        (photos / f"{number:03d}.png").unlink()
    with pytest.raises(StoreError, match="only 6 of its pictures are left, more than half are gone: .* --yes"):
        simrec.build("mine", **how)
    assert len(ids()) == 13
    assert simrec.build("mine", yes=True, **how).catalogue.record.count == 6


def test_a_new_encoder_keeps_ids_and_fields_and_the_old_catalogue_answers_until_it_is_done(
    photos: Path, own_home: Path
) -> None:
    before = {item.id: item.fields for item in simrec.open("mine").catalogue.all()}
    opened = simrec.open("mine")
    seen = []

    def progress(stage: str, done: int, total: int) -> None:
        seen.append(simrec.open("mine").manifest.encoder.title == opened.manifest.encoder.title)

    built = simrec.build("mine", encoder="demo-sparse", progress=progress)
    assert all(seen)
    assert seen
    assert built.manifest.encoder.name == "sparse"
    assert {item.id: item.fields for item in built.catalogue.all()} == before


# Generations.


def test_history_says_what_each_generation_changed(photos: Path, more: Path) -> None:
    save(photos, 20)
    (photos / "000.png").rename(photos / "renamed.png")
    index.sync("mine")
    index.add("mine", str(more))
    index.remove("mine", ["003.png"])
    status, said, _ = ran("index", "history", "mine")
    assert status == 0
    rows = [line.split(maxsplit=4) for line in said.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["4", "3", "2", "1"]
    assert [row[3] for row in rows] == ["16", "17", "13", "12"]
    assert "index remove: 1 removed" in rows[0][4]
    assert "answers" in rows[0][4]
    assert f"index add of {more}: 4 added" in rows[1][4]
    assert "index sync: 1 added, 1 renamed" in rows[2][4]
    assert "index build: 12 added" in rows[3][4]


def test_a_rollback_goes_back_and_can_be_undone(photos: Path, own_home: Path) -> None:
    save(photos, 20)
    index.sync("mine")
    index.remove("mine", ["003.png"])
    now = ids()
    assert "back to generation 2, 13 items, as generation 4" in ran("index", "rollback", "mine")[2]
    assert ids() == sorted([*now, "003.png"])
    generations.rollback("mine", to=1)
    assert ids() == [f"{number:03d}.png" for number in range(12)]
    assert len(simrec.open("mine").similar("id:003.png", 100)) == 11
    generations.rollback("mine", to=3)
    assert ids() == now
    refused(
        lambda: generations.rollback("mine", to=99), RequestError, "no generation 99 .* 'simrec index hist", own_home
    )
    assert generations.verify("mine").problems == ()
    assert index.sync("mine").added == 1  # the picture that was removed is still there


def test_a_rollback_to_a_damaged_generation_is_refused(photos: Path, own_home: Path) -> None:
    save(photos, 20)
    simrec.build("mine", from_scratch=True)
    first = store.kept(own_home / "mine")[0].manifest.catalogue
    assert first is not None
    (own_home / "mine" / first.segments[0].folder / "items.sqlite").unlink()
    refused(lambda: generations.rollback("mine"), StoreError, r"items\.sqlite: cannot be read", own_home)
    assert len(ids()) == 13


def without_encoder(folder: Path) -> str:
    """Deletes a recommender's encoder; returns the error of encoding a picture."""
    shutil.rmtree(folder / store.current(folder).manifest.encoder.folder)
    with pytest.raises(StoreError) as raised:
        simrec.open(folder.name).encode(np.zeros((1, 28, 28, 1), np.uint8))
    return str(raised.value)


@pytest.mark.parametrize("encoder", ["demo-sparse", "tiny"], ids=["of a shipped recommender", "of another one"])
def test_a_lost_encoder_is_taken_from_a_recommender_that_has_it_too(photos: Path, own_home: Path, encoder: str) -> None:
    simrec.build("other", str(photos), encoder=encoder)
    before = simrec.open("other").similar(picture(1), 5)
    words = ["index", "build", "other", "--encoder", encoder, "--from-scratch"]
    # `mine` has the encoder of `tiny` too, and comes first.
    named = [word.replace("tiny", "mine") for word in words]
    assert f"'simrec {' '.join(named)}' makes the catalogue again" in without_encoder(own_home / "other")
    assert ran(*named)[0] == 0
    assert simrec.open("other").similar(picture(1), 5) == before
    assert generations.verify("other").problems == ()


def test_an_encoder_that_is_damaged_everywhere_needs_a_copy_or_training(photos: Path, own_home: Path) -> None:
    simrec.build("other", str(photos), encoder="tiny")
    for name in ("mine", "tiny"):
        path = next((own_home / name / store.current(own_home / name).manifest.encoder.folder).glob("*.npz"))
        good = path.read_bytes()
        path.unlink()  # not in place: it may be a link to that of the others
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    said = without_encoder(own_home / "other")
    assert said.endswith("bring back a copy of this recommender, or train its encoder again under another name")


@pytest.fixture
def changed(photos: Path, own_home: Path) -> Path:
    """The folder of `mine` after three generations: 12 items, 13 and 12."""
    save(photos, 20)
    index.sync("mine")
    index.remove("mine", ["003.png"])
    return own_home / "mine"


REMEDY = "'simrec index rollback mine' goes back to generation 2"


def lost(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def of_another_digest(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("harm", [lost, cut, of_another_digest])
def test_without_the_live_manifest_a_rollback_brings_back_the_generation_before(
    photos: Path, changed: Path, harm: Callable[[Path], None]
) -> None:
    harm(changed / "generations" / "000003.json")
    for words in (["similar", "id:000.png", "--index", "mine"], *(["index", verb, "mine"] for verb in
                  ("show", "sync", "verify", "build"))):  # fmt: skip
        status, _, error = ran("--quiet", *words)
        assert (status, error.count("\n"), REMEDY in error) == (1, 1, True), error
    assert [(one.number, one.live) for one in generations.history("mine")] == [(2, False), (1, False)]
    with pytest.raises(RequestError, match="no generation 3 to go back to: there is 1, 2"):
        generations.rollback("mine", to=3)
    assert "back to generation 2, 13 items, as generation 4" in ran("index", "rollback", "mine")[2]
    assert len(ids()) == 13
    assert generations.verify("mine").problems == ()
    assert index.sync("mine").unchanged == 13


def test_a_rollback_from_a_lost_manifest_deletes_none_of_its_files(photos: Path, changed: Path) -> None:
    path = changed / "generations" / "000003.json"
    manifest_data, listed = path.read_bytes(), list(store.current(changed).manifest.files)
    path.unlink()
    generations.rollback("mine", to=1)
    assert len(ids()) == 12
    assert all((changed / name).is_file() for name in listed)
    path.write_bytes(manifest_data)
    generations.rollback("mine", to=3)
    assert "003.png" not in ids()
    path.unlink()
    for number in range(30, 30 + store.KEPT):
        save(photos, number)
        index.sync("mine")
    assert generations.history("mine")[-1].number > 3


def test_a_rollback_from_a_lost_manifest_passes_over_generations_without_all_their_files(changed: Path) -> None:
    second = store.kept(changed)[1].manifest.catalogue
    assert second is not None
    (changed / "generations" / "000003.json").unlink()
    (changed / second.segments[-1].folder / "items.sqlite").unlink()
    status, _, error = ran("similar", "id:000.png", "--index", "mine")
    assert (status, "'simrec index rollback mine --to 1' goes back to generation 1" in error) == (1, True)
    assert ran("index", "rollback", "mine", "--to", "1")[0] == 0
    assert len(ids()) == 12


def test_without_current_a_rollback_brings_back_the_newest_generation(changed: Path, photos: Path) -> None:
    (changed / "CURRENT").unlink()
    remedy = "'simrec index rollback mine' goes back to generation 3"
    for words in (["similar", "id:000.png", "--index", "mine"], ["index", "sync", "mine"], ["index", "show", "mine"],
                  ["index", "build", "mine"], ["index", "build", "mine", str(photos)], ["index", "list"]):  # fmt: skip
        status, _, error = ran("--quiet", *words)
        assert (status, f"{changed}: " in error, "CURRENT" in error, remedy in error) == (1, True, True, True), error
    assert [(one.number, one.live) for one in generations.history("mine")] == [(3, False), (2, False), (1, False)]
    assert "back to generation 3, 12 items, as generation 4" in ran("index", "rollback", "mine")[2]
    assert "003.png" not in ids()


def test_the_only_generation_comes_back_without_current(photos: Path, own_home: Path) -> None:
    (own_home / "mine" / "CURRENT").unlink()
    status, _, error = ran("index", "build", "mine", str(photos))
    assert (status, "'simrec index rollback mine'" in error) == (1, True), error
    assert ran("index", "rollback", "mine")[0] == 0
    assert len(ids()) == 12


def test_a_recommender_that_you_may_not_read_is_not_called_unknown(
    photos: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for anyone but root after chmod 000."""
    real = os.stat, os.lstat, os.open

    def closed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and (own_home / "mine") in Path(path).parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path, *args, **options)

        return call

    for name, function in zip(("stat", "lstat", "open"), real, strict=True):
        monkeypatch.setattr(os, name, closed(function))
    for words in (["similar", "id:000.png", "--index", "mine"], ["index", "sync", "mine"], ["index", "show", "mine"],
                  ["index", "build", "mine", str(photos)], ["index", "list"]):  # fmt: skip
        status, _, error = ran("--quiet", *words)
        wanted = f"{own_home / 'mine'}: not a readable recommender (PermissionError: "
        assert (status, wanted in error, "allow yourself to read it" in error) == (1, True, True), error


def test_the_only_generation_without_its_manifest_needs_a_copy(photos: Path, own_home: Path) -> None:
    (own_home / "mine" / "generations" / "000001.json").unlink()
    for change in (lambda: simrec.open("mine"), lambda: generations.rollback("mine")):
        refused(change, StoreError, "without the manifest of generation 000001: bring back a copy", own_home)


@pytest.mark.parametrize("harm", [lost, cut])
@pytest.mark.parametrize("file", ["codes.faiss", "items.sqlite"])
def test_a_rollback_is_offered_for_a_damaged_file_that_the_generation_before_lacks(
    photos: Path, own_home: Path, file: str, harm: Callable[[Path], None]
) -> None:
    save(photos, 20)
    index.sync("mine")
    *_, last = simrec.open("mine").segments.record.segments
    harm(own_home / "mine" / last.folder / file)
    with pytest.raises(StoreError, match="'simrec index rollback mine' goes back to generation 1"):
        simrec.open("mine").similar("id:000.png", 3)
    assert ran("index", "rollback", "mine")[0] == 0
    assert len(simrec.open("mine").similar("id:000.png", 100)) == 11
    assert index.sync("mine").added == 1


def test_no_rollback_is_offered_for_a_damaged_file_that_the_generation_before_has_too(
    photos: Path, changed: Path
) -> None:
    first, last = simrec.open("mine").segments.record.segments
    for one in (first, last):
        path = changed / one.folder / "codes.faiss"
        path.rename(path.with_suffix(".away"))
        with pytest.raises(StoreError, match="'simrec index build mine --from-scratch' makes the catalogue again"):
            simrec.open("mine").similar("id:000.png", 3)
        path.with_suffix(".away").rename(path)


def test_no_rollback_is_offered_between_catalogues_in_a_table(photos: Path, own_home: Path) -> None:
    opened = simrec.open("mine")
    encoder = opened.manifest.encoder
    record = manifest.replace(opened.segments.record, segments=(), engine="postgresql://localhost/none")
    for folder in ("encoder/00000001", "encoder/00000002"):
        with store.Writer(own_home / "mine") as writer:
            writer.copy(opened.generation, encoder.folder, folder)
            encoder_record = manifest.replace(encoder, folder=folder)
            writer.commit(manifest.replace(opened.manifest, encoder=encoder_record, catalogue=record))
    said = without_encoder(own_home / "mine")
    assert "simrec index rollback" not in said
    assert "bring back a copy" in said


def test_a_rollback_from_a_lost_manifest_to_a_damaged_generation_names_one_that_works(changed: Path) -> None:
    second = store.kept(changed)[1].manifest.catalogue
    assert second is not None
    (changed / "generations" / "000003.json").unlink()
    (changed / second.segments[-1].folder / "items.sqlite").unlink()
    status, _, error = ran("index", "rollback", "mine")
    assert (status, "'simrec index rollback mine --to 1' goes back to generation 1" in error) == (1, True), error


def test_the_tables_of_two_segments_with_the_same_codes_cannot_be_exchanged(
    photos: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simrec.build("mine", from_scratch=True, dtype="binary")
    for number in (20, 30):  # pictures that are this much alike have the same bits
        save(photos, number)
        index.sync("mine")
    *_, first, second = [own_home / "mine" / one.record.folder for one in simrec.open("mine").catalogue.segments]
    codes = {(folder / "codes.faiss").read_bytes() for folder in (first, second)}
    assert len(codes) == 1
    (second / "items.sqlite").unlink()
    shutil.copy(first / "items.sqlite", second / "items.sqlite")
    monkeypatch.setattr(store, "SMALL", 0)  # a large table's digest isn't checked at every look-up
    with pytest.raises(StoreError, match="it is another segment's"):
        simrec.open("mine").similar(photos / "000.png", 100)


def test_there_is_nothing_before_the_first_generation(photos: Path, own_home: Path) -> None:
    refused(lambda: generations.rollback("mine"), RequestError, "no earlier generation to go back to", own_home)


def test_five_generations_are_kept(photos: Path) -> None:
    for number in range(20, 27):
        save(photos, number)
        index.sync("mine")
    assert [one.number for one in generations.history("mine")] == [8, 7, 6, 5, 4]
    with pytest.raises(RequestError, match="there is 4, 5, 6, 7"):
        generations.rollback("mine", to=3)


def test_verify_reads_every_byte_and_names_the_file_that_is_damaged(photos: Path, own_home: Path) -> None:
    save(photos, 20)
    index.sync("mine")
    index.remove("mine", ["001.png"])
    status, said, _ = ran("index", "verify", "mine")
    files = store.current(own_home / "mine").manifest.files
    assert (status, said.startswith(f"mine: good: {len(files)} files, ")) == (0, True)
    assert {name.partition("/")[0] for name in files} == {"encoder", "segments", "fields", "removed"}
    for name in files:
        path = own_home / "mine" / name
        good = path.read_bytes()
        for bad in (good[:-1], good + b"\0", good[:-1] + bytes([good[-1] ^ 1])):
            path.write_bytes(bad)
            status, said, error = ran("index", "verify", "mine")
            assert (status, said) == (1, "")
            assert str(path) in error, name
            assert all(line.startswith("Error: ") for line in error.splitlines())
        path.write_bytes(good)
    assert generations.verify("mine").problems == ()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="other systems don't say what is open")
def test_opening_a_damaged_recommender_again_and_again_leaves_no_files_open(photos: Path, own_home: Path) -> None:
    catalogue = store.current(own_home / "mine").manifest.catalogue
    assert catalogue is not None
    (own_home / "mine" / catalogue.segments[0].folder / "codes.faiss").unlink()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(10):
        with pytest.raises(StoreError, match=r"codes\.faiss"):
            simrec.open("mine").similar("id:000.png", 3)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_verify_finds_an_id_that_is_there_twice(photos: Path, own_home: Path) -> None:
    """A catalogue as a bug in simrec could leave it: all digests are right."""
    index.remove("mine", ["001.png"])
    with store.Writer(own_home / "mine") as writer:
        live, first = store.current(own_home / "mine"), store.kept(own_home / "mine")[0]
        catalogue = live.manifest.catalogue
        assert catalogue is not None
        assert first.manifest.catalogue is not None
        writer.keep_all(live)
        segments = (*catalogue.segments, *first.manifest.catalogue.segments)
        whole = manifest.replace(catalogue, segments=segments, count=23)
        writer.commit(manifest.replace(live.manifest, catalogue=whole))
    (problem,) = generations.verify("mine").problems
    assert "11 ids are there more than once: 'simrec index build mine --from-scratch'" in problem


# Whole recommenders.


def test_a_recommender_is_renamed_with_all_that_it_has(photos: Path, own_home: Path) -> None:
    before = tree(own_home / "mine")
    assert ran("index", "rename", "mine", "yours")[0] == 0
    assert tree(own_home / "yours") == before
    assert not (own_home / "mine").exists()
    assert index.sync("yours").unchanged == 12
    taken = "already exists: choose another name"
    refused(lambda: generations.rename("yours", "tiny"), RequestError, f"tiny {taken}", own_home)
    refused(lambda: generations.rename("yours", "demo"), RequestError, f"demo {taken}", own_home)
    refused(lambda: generations.rename("yours", "../mine"), RequestError, "cannot be a recommender's name", own_home)
    refused(lambda: generations.rename("mine", "other"), RequestError, "no recommender 'mine'", own_home)


def test_a_recommender_is_deleted_only_after_confirmation(photos: Path, own_home: Path) -> None:
    status, _, error = ran("index", "delete", "mine")
    assert (status, error.splitlines()[-1]) == (
        1, "Error: mine was not deleted: add --yes to delete it without a question",
    )  # fmt: skip
    assert len(ids()) == 12
    assert ran("index", "delete", "mine", "--yes")[0] == 0
    assert {path.name for path in own_home.iterdir()} == {"tiny", home.ROOTS}
    assert len(list(photos.iterdir())) == 12


@pytest.mark.parametrize("verb", ["delete", "rollback", "rename", "sync", "remove", "add"])
def test_a_shipped_recommender_is_refused(own_home: Path, verb: str) -> None:
    rest = {"delete": ["--yes"], "rename": ["mine"], "remove": ["test/00000"], "add": ["fashion-mnist"]}
    status, _, error = ran("index", verb, "demo", *rest.get(verb, []))
    assert (status, error.count("\n")) == (1, 1)
    assert "demo is shipped and read-only" in error


# Watching.


def test_watching_reports_new_files(photos: Path) -> None:
    """A file is written again and again until it is seen, because nothing says when watching has begun."""
    stop, ended = threading.Event(), threading.Event()

    def write() -> None:
        while not ended.wait(0.1):
            picture(77).save(photos / "new.png")

    thread = threading.Thread(target=write)
    thread.start()
    bursts: Iterator[bool] = index.changes("mine", stop=stop)
    try:
        with closing(bursts):  # type: ignore[type-var]
            assert any(bursts)
    finally:
        ended.set()
        stop.set()
        thread.join()
    assert index.sync("mine").added == 1


def test_watching_waits_for_another_writer(photos: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    def changes(*_: object, **__: object) -> Iterator[bool]:
        save(photos, 50)
        with store.Writer(own_home / "mine"):
            yield True  # it can't sync now
        steps.append(len(ids()))
        yield False  # so it does now
        steps.append(len(ids()))
        save(photos, 51)
        yield False  # nothing is left to do
        steps.append(len(ids()))

    monkeypatch.setattr(index, "changes", changes)
    status, said, errors = ran("index", "sync", "mine", "--watch")
    assert status == 0
    assert steps == [12, 13, 13]
    assert errors.count("another simrec is writing it") == 1
    assert said.count("mine: 1 added") == 1


def test_a_source_that_is_added_is_watched_too(photos: Path, more: Path) -> None:
    stop = threading.Event()
    bursts: Iterator[bool] = index.changes("mine", stop=stop)
    with closing(bursts):  # type: ignore[type-var]
        assert not next(bursts)
        index.add("mine", str(more))
        assert not next(bursts)  # from now on it watches both
        assert not next(bursts)
        save(more, 110)
        assert any(bursts)
    stop.set()


def test_the_list_that_a_catalogue_is_made_from_is_not_overwritten(photos: Path) -> None:
    list_ = priced(photos, 5, 10)
    simrec.build("shop", str(list_), encoder="tiny")
    before = list_.read_bytes()
    status, _, errors = ran("export", "shop", "-o", str(list_))
    assert (status, errors) == (1, f"Error: {list_}: shop is made from this list: name another file\n")
    assert list_.read_bytes() == before


def test_a_source_that_a_catalogue_has_already_is_updated_by_a_sync(photos: Path, more: Path, own_home: Path) -> None:
    index.add("mine", str(more))
    refused(lambda: simrec.build("mine", str(more)), StoreError, f"'simrec index sync mine {more}' to update", own_home)
    index.sync("mine", str(more))
