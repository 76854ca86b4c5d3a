"""Where an application may go on a cluster that several use."""

from __future__ import annotations

import pytest

from ftray.errors import ServeError
from ftray.serve.local.neighbours import Running
from ftray.serve.local.place import Place

HERE = Running("0.0.0.0", 8000, {"theirs": "/", "hidden": None})


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("mine", Place(prefix="/"), "--route-prefix = /: is that of theirs"),
        ("theirs", Place(prefix="/mine"), "an application of that name runs"),
        ("mine", Place("127.0.0.1", None, "/mine"), "--host = 127.0.0.1: Ray Serve listens on 0"),
        ("mine", Place(None, 8001, "/mine"), "--port = 8001: Ray Serve listens on 0.0.0.0:8000"),
    ],
)
def test_what_has_no_room_is_refused(name: str, place: Place, said: str) -> None:
    with pytest.raises(ServeError, match=said):
        HERE.check_room(name, place, loopback=False)


def test_what_is_for_its_own_machine_does_not_listen_for_others() -> None:
    place = Place(prefix="/mine")
    HERE.check_room("mine", place, loopback=False)
    Running("127.0.0.1", 8000, {}).check_room("mine", place, loopback=True)
    with pytest.raises(ServeError, match="where others can ask"):
        HERE.check_room("mine", place, loopback=True)


@pytest.mark.parametrize("prefix", ["", "reviews", "/reviews/", "//"])
def test_a_prefix_has_one_form(prefix: str) -> None:
    with pytest.raises(ServeError, match="is no route prefix"):
        Place(prefix=prefix)
