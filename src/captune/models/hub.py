"""Access to model hubs: files of a repository, cached or downloaded with a log line.

Libraries never fetch for themselves here: a loader asks for a folder, then builds the model from
that folder with the hub closed.
"""

from __future__ import annotations

import filecmp
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import captune
from captune import storage
from captune.errors import Offline, UserError
from captune.escaping import bare
from captune_metrics.display import printable
from captune_metrics.files import read_regular

logger = logging.getLogger("captune")

_LARGEST_CARD = 2**20
_unasked: ContextVar[str | None] = ContextVar("unasked", default=None)

Choose = Callable[[Sequence[str]], list[str]]
"""File names of a repository -> those that a model needs; UserError when an essential one lacks."""


def repository(repo: str, choose: Choose, spec: str, *, fetch_option: str = "") -> Path:
    """A local folder with the chosen files of `repo`.

    fetch_option: what `captune models fetch SPEC` needs besides, for the sentence that names it.

    Looks in captune's cache (`adopt`), then in the hub's own cache, and only then asks the hub,
    saying what and how large. The caches are complete or not used: no network for what is there.
    Raises Offline where the hub would have to be asked, UserError where it does not help.
    """
    place = cached(repo, choose)
    if place is not None:
        return place
    if storage.is_offline():
        fetch = f"captune models fetch {spec}{fetch_option}"
        raise Offline(
            f"captune is offline and {repo} is not in a cache here; run `{fetch}` on a connected "
            f"machine, or `{fetch} --from FOLDER` with a folder that holds its files"
        )
    who = _unasked.get()
    if who is not None:
        raise UserError(
            f"{who} needs {printable(spec)}, of which {repo} is not on this machine; if you want"
            f" it, run: captune models fetch {printable(spec)}{fetch_option}"
        )
    return _download(repo, choose, spec)


def cached(repo: str, choose: Choose) -> Path | None:
    """The folder of a cache that holds all chosen files of `repo`, if there is one."""
    for place in (own_place_of(repo), _snapshot(repo)):
        if place is not None:
            with suppress(UserError):  # something is missing there
                choose(_names_in(place))
                return place
    return None


def adopt(repo: str, folder: Path, choose: Choose) -> Path:
    """Copy the files of `repo` out of `folder` into captune's cache, whole or not at all.

    Files adopted earlier under other names stay: weights and tokenizer may come apart.
    Raises UserError where `folder` lacks what the model needs.
    """
    names = choose(_names_in(folder))
    target = own_place_of(repo)
    size = sum((folder / name).stat().st_size for name in names)
    storage.require_space(target, size, repo)

    def build(unfinished: Path) -> None:
        kept = [target / name for name in _names_in(target)] if target.is_dir() else []
        for source in (*kept, *(folder / name for name in names)):
            shutil.copyfile(source, unfinished / source.name)

    def is_complete(place: Path) -> bool:
        _, different, missing = filecmp.cmpfiles(folder, place, names, shallow=False)
        return not different and not missing

    storage.install_folder(target, build, is_complete)
    return target


def publish(
    repo: str, files: Mapping[str, bytes | Path], *, private: bool, message: str
) -> tuple[str, bool]:
    """Send files to the model repository `repo` of the hub, all in one commit.

    It is made if it is not there. files: name in it -> what is sent. private: whether nobody else
    may see it; where it is there already and open to all, nothing is sent.
    Returns the address of the commit and whether the repository is private. Raises UserError for
    whatever the hub or the way to it refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if get_token() is None:
        raise UserError("the hub does not know who you are; run `hf auth login`, or set HF_TOKEN")
    api = HfApi(library_name="captune", library_version=captune.__version__)
    disable_progress_bars()
    try:
        api.whoami()
        api.create_repo(repo, private=private, exist_ok=True)
        is_private = bool(api.model_info(repo).private)
        if private and not is_private:
            raise UserError(
                f"{repo} is on the hub already, and everybody can see it; add --public if they"
                " may see this, or choose another name"
            )
        sent = [CommitOperationAdd(name, content) for name, content in files.items()]
        return str(api.create_commit(repo, sent, commit_message=message).commit_url), is_private
    except UserError:
        raise
    except Exception as error:  # as in _download
        raise UserError(f"{repo}: the hub did not take it ({_reason(error)})") from None


@contextmanager
def unasked(who: str, unless: object = None) -> Iterator[None]:
    """Within: what is in no cache is refused, since a file named it and not the user.

    who: whose file it is, for the sentence. unless: what the user named instead, if anything.
    """
    token = _unasked.set(_unasked.get() if unless else who)
    try:
        yield
    finally:
        _unasked.reset(token)


@contextmanager
def closed() -> Iterator[None]:
    """Within: no hub library reaches the network, and none prints, logs, warns or draws bars.

    Nothing of captune speaks in here either: its notes come before or after.
    """
    from huggingface_hub import constants
    from transformers.utils import logging as transformers_logging

    root = logging.getLogger()
    before = (constants.HF_HUB_OFFLINE, transformers_logging.get_verbosity(), root.level)
    bars = transformers_logging.is_progress_bar_enabled()
    silent = logging.NullHandler()  # logging.warning() would install a handler where there is none
    root.addHandler(silent)
    try:
        constants.HF_HUB_OFFLINE = True
        transformers_logging.set_verbosity(transformers_logging.CRITICAL)
        transformers_logging.disable_progress_bar()
        root.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_OFFLINE = before[0]
        transformers_logging.set_verbosity(before[1])
        root.setLevel(before[2])
        root.removeHandler(silent)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Within: transformers prints no advice; Trainer would leave it silent for good."""
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def licence_of(folder: Path) -> str | None:
    """`license:` of a model card's front matter, or None where the folder states nothing."""
    try:
        card = read_regular(folder / "README.md", _LARGEST_CARD).decode(errors="replace")
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    stated = re.search(r"^license:\s*(\S+)\s*$", front[1], re.MULTILINE) if front else None
    return stated[1].strip("'\"") if stated else None


def own_place_of(repo: str) -> Path:
    """Where captune keeps its own copy of a repository, whether or not there is one."""
    return storage.cache_folder() / "models" / repo.replace("/", "--")


def _snapshot(repo: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):  # ValueError: no possible name
        return None


def _names_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; check the path")
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def _bars() -> Any:
    """The hub's bars, of which there is one line that is drawn over and over."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *what: Any, **how: Any) -> None:
            super().__init__(*what, **{"file": bare(sys.stderr)} | how)  # type: ignore[no-untyped-call]

    return Bar


def _download(repo: str, choose: Choose, spec: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        siblings = HfApi().model_info(repo, files_metadata=True).siblings or []
        names = choose([sibling.rfilename for sibling in siblings])
        size = sum(sibling.size or 0 for sibling in siblings if sibling.rfilename in names)
        logger.warning(
            "%s: fetching %d files, %.0f MB, of %s from %s",
            spec, len(names), size / 1e6, repo, constants.ENDPOINT,
        )  # fmt: skip
        storage.require_space(Path(constants.HF_HUB_CACHE), size, repo)
        return Path(snapshot_download(repo, allow_patterns=names, tqdm_class=_bars()))
    except GatedRepoError:
        raise UserError(
            f"{spec}: {repo} wants its terms accepted on its page and a login (`hf auth login`)"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{spec}: the hub has no public repository {repo}; check the name"
        ) from None
    except UserError:
        raise
    except Exception as error:  # which differ from release to release of the hub library
        raise UserError(
            f"{spec}: {repo} could not be fetched ({_reason(error)}); try again, or give its folder"
        ) from None


def _reason(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0])
