"""An app that others use opens nothing that is typed, and answers to its own names alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report_runs import caption_run, images
from tests.webapp.asking import ask, cookie_of

from captune.errors import UserError
from captune.options.pages import AppOptions
from captune.webapp.server import Running, running
from captune.webapp.site import AppContext

SHARED = {"shared": True, "name": ["images.example"]}


def context(tmp_path: Path, **options: Any) -> AppContext:
    own = AppOptions(runs=tmp_path / "runs", **options)
    return AppContext(own, Path(tempfile.mkdtemp(dir=tmp_path)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
def test_an_address_of_this_machine_is_private_unless_it_is_shared(host: str) -> None:
    private = AppOptions(host=host)
    assert private.is_private
    assert {host, "127.0.0.1", "localhost", "::1"} == private.names
    shared = AppOptions(host=host, **SHARED)
    assert not shared.is_private
    assert shared.names == {"images.example"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_address_that_others_reach_has_to_be_shared(host: str) -> None:
    with pytest.raises(UserError, match="other machines reach that address"):
        AppOptions(host=host)
    assert not AppOptions(host=host, **SHARED).is_private


@pytest.mark.parametrize(
    ("name", "known"),
    [
        *(("Images.Example.", "images.example"), ("10.0.0.7", "10.0.0.7"), ("[::1]", "::1")),
        *(("localhost", "localhost"), ("xn--bcher-kva.example", "xn--bcher-kva.example")),
    ],
)
def test_a_name_is_a_host(name: str, known: str) -> None:
    assert AppOptions(shared=True, name=[name]).names == {known}


@pytest.mark.parametrize(
    "name", ["", "http://images.example", "images.example:80", "a/b", "*", "a b", "-a", "ü.example"]
)
def test_what_is_no_host_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match="is not a host name"):
        AppOptions(shared=True, name=[name])


def test_shared_needs_a_name_and_a_name_needs_shared() -> None:
    with pytest.raises(UserError, match="--shared needs the name"):
        AppOptions(shared=True)
    with pytest.raises(UserError, match="--name counts with --shared only"):
        AppOptions(name=["images.example"])


def test_a_typed_folder_or_model_is_refused_and_an_offered_run_is_not(tmp_path: Path) -> None:
    root = images(tmp_path / "images", ["1.jpg"])
    caption_run(tmp_path / "runs" / "mine", root, {"1.jpg": "a dog"})
    shared, private = context(tmp_path, **SHARED), context(tmp_path)
    assert shared.runs("caption") == ["mine"]
    assert shared.run_folder("mine") == tmp_path / "runs" / "mine"
    for typed in (str(tmp_path), "/etc", "../images", "mine/../../images"):
        with pytest.raises(UserError, match="opens no run folder that is typed"):
            shared.run_folder(typed)
    with pytest.raises(UserError, match="opens no model that is typed"):
        shared.model("hf:some/repository")
    assert private.run_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp/x", "~", ".hidden", "a\\b", "x" * 90])
def test_a_new_run_lies_in_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="give it a plain name"):
        context(tmp_path).new_run(name)
    assert context(tmp_path).new_run("my run 1.2") == tmp_path / "runs" / "my run 1.2"


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Shared, on this machine's own address: a proxy stands before it."""
    names = ["images.example", "www.images.example"]
    runs = tmp_path_factory.mktemp("runs")
    with running(AppOptions(runs=runs, shared=True, name=names)) as found:
        # what `asking` connects to
        yield Running(
            f"http://127.0.0.1:{found.url.rstrip('/').rpartition(':')[2]}/",
            found.folder,
            found.page,
            found.context,
            found.entry,
        )


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.0.0.1:{port}", "evil.example", "evil.example:{port}"),
        *("images.example.evil.example", "ximages.example", "images.example@evil.example", "[::1]"),
    ],
)
def test_behind_a_proxy_other_names_are_refused(behind: Running, host: str) -> None:
    host = host.format(port=behind.url.rstrip("/").rpartition(":")[2])
    found = ask(behind, "GET", "/", Host=host)
    assert found.status in (400, 403)
    assert b"<html" not in found.body
    forwarded = {"X_Forwarded_Host": "images.example", "Forwarded": "host=images.example"}
    assert ask(behind, "GET", "/", Host=host, **forwarded).status in (400, 403)


@pytest.mark.parametrize("host", ["images.example", "IMAGES.example:8443", "www.images.example."])
def test_behind_a_proxy_its_names_are_answered_at_any_port(behind: Running, host: str) -> None:
    assert ask(behind, "GET", "/", Host=host).status == 200
    name = host.lower().partition(":")[0].rstrip(".")
    for origin, status in (
        *((f"https://{name}", 200), (f"https://{name}:8443", 200), (f"http://{name}", 200)),
        *(("https://evil.example", 403), (f"ftp://{name}", 403), ("null", 403)),
    ):
        assert ask(behind, "GET", "/theme.css", Host=host, Origin=origin).status == status


def test_the_token_holds_there_too_and_its_cookie_stays_on_https(behind: Running) -> None:
    host = {"Host": "images.example"}
    assert ask(behind, "GET", "/", has_token=False, **host).status == 403
    target = f"/?token={behind.entry.token}"
    plain = ask(behind, "GET", target, has_token=False, **host)
    assert "Secure" not in plain.all("set-cookie")[0]
    secure = ask(behind, "GET", target, has_token=False, X_Forwarded_Proto="https", **host)
    assert secure.all("set-cookie")[0].endswith("; Secure")
    assert secure.all("location") == ["/"]


def test_the_page_never_names_another_host(behind: Running) -> None:
    told = {"X_Forwarded_Host": "evil.example", "X_Gradio_Server": "http://evil.example"}
    found = ask(behind, "GET", "/", Host="images.example", X_Forwarded_Proto="https", **told)
    assert "evil.example" not in found.text
    assert '"root":"https://images.example"' in found.text.replace(" ", "")


def test_a_cookie_of_another_app_on_the_same_port_counts_nothing(
    behind: Running, tmp_path: Path
) -> None:
    with running(AppOptions(runs=tmp_path)) as other:
        value = cookie_of(other).partition("=")[2]
    cookie = f"{behind.entry.cookie}={value}"
    found = ask(behind, "GET", "/", has_token=False, Host="images.example", Cookie=cookie)
    assert found.status == 403
